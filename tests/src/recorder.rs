//! A relay in front of an agent that keeps what clients of HTTP/2 say within TLS: how the recordings were made that are replayed into both
//! implementations of the agent (`mvp-userspace/src/proxy/streams/own_tests/recorded`).

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::client::connect_tls;
use crate::proving::any_certificate;
use crate::sim::ControlPlane;
use crate::sim::pki::ClientAuth;

/// Runs until dropped.
pub struct Recorder {
    /// Where clients connect.
    pub address: SocketAddr,
    accept: JoinHandle<()>,
}

impl Recorder {
    /// Connections go to `agent` as the administrator's. What the client of the first says is in the file `NAME-1`, and so on.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(
        plane: &ControlPlane,
        agent: SocketAddr,
        folder: &Path,
        name: &str,
    ) -> Result<Self> {
        let pki = plane.pki();
        let identity = pki.identity("apiserver")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(any_certificate())
            .with_single_cert(identity.chain()?, identity.key()?)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let admin = ClientAuth::Certificate(pki.admin()?);
        let onward = Arc::new(pki.client_config(admin, &[])?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let file = folder.join(name);
        let accept = tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((client, _)) = listener.accept().await {
                connection += 1;
                let mut file = file.clone().into_os_string();
                file.push(format!("-{connection}"));
                let (acceptor, onward) = (acceptor.clone(), Arc::clone(&onward));
                tokio::spawn(async move {
                    let kept = File::create(file).unwrap();
                    // It ends with either side, which is no failure.
                    let _ = relay(acceptor, client, &onward, agent, kept).await;
                });
            }
        });
        Ok(Self { address, accept })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn relay(
    acceptor: TlsAcceptor,
    client: TcpStream,
    onward: &Arc<rustls::ClientConfig>,
    agent: SocketAddr,
    mut kept: File,
) -> Result<()> {
    let client = acceptor.accept(client).await?;
    let agent = connect_tls(agent, onward, &[b"h2"], "kubernetes").await?;
    let ((mut said, mut to_client), (mut answered, mut to_agent)) = (split(client), split(agent));
    let says = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = said.read(&mut bytes).await?;
            let bytes = bytes.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return to_agent.shutdown().await;
            }
            kept.write_all(bytes)?;
            to_agent.write_all(bytes).await?;
            to_agent.flush().await?;
        }
    };
    let hears = async {
        copy(&mut answered, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(says, hears)?;
    Ok(())
}
