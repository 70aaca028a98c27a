//! The TLS module over real sockets and real files.

mod handshake;
mod loading;
mod reloading;

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::testing::Identity;

/// What both ends of a connection saw.
#[derive(Debug)]
struct Seen {
    version: Option<ProtocolVersion>,
    alpn: Option<Vec<u8>>,
    /// What the server saw of the client's certificates.
    client_chain: Option<Vec<CertificateDer<'static>>>,
    /// What the client saw of the server's.
    server_chain: Option<Vec<CertificateDer<'static>>>,
    kind: Option<HandshakeKind>,
}

/// One connection over loopback, with a byte each way so that tickets and late alerts arrive. The server's error, if there is one.
async fn connect(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<Seen> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serve = async {
        let (socket, _) = listener.accept().await?;
        let mut stream = TlsAcceptor::from(server).accept(socket).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.flush().await?;
        let connection = stream.get_ref().1;
        std::io::Result::Ok((
            connection.protocol_version(),
            connection.alpn_protocol().map(<[u8]>::to_vec),
            connection
                .peer_certificates()
                .map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect()),
            connection.handshake_kind(),
        ))
    };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let dial = async {
        let socket = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(client).connect(name, socket).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await?;
        let chain = stream.get_ref().1.peer_certificates();
        std::io::Result::Ok(
            chain.map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect()),
        )
    };
    let (served, dialled) = tokio::join!(serve, dial);
    let (version, alpn, client_chain, kind) = served?;
    Ok(Seen {
        version,
        alpn,
        client_chain,
        server_chain: dialled?,
        kind,
    })
}

/// A client that trusts `ca`.
fn roots(ca: &Identity) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    roots
}

fn client_builder(
    ca: &Identity,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(super::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(ca))
}
