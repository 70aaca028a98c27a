//! Where the load goes, and how a connection to it is made.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use http::HeaderValue;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::crowd::connect_from;

/// Where a client connects, and how.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The server's address and port.
    pub address: SocketAddr,
    /// Sent as SNI, and verified in the certificate.
    pub server_name: ServerName<'static>,
    /// The client's certificate, the trusted CAs and the protocols offered.
    pub tls: Arc<ClientConfig>,
}

impl Endpoint {
    /// The error of a failed handshake is an `io::Error` too, as tokio-rustls has it.
    pub async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        self.secure(TcpStream::connect(self.address).await?).await
    }

    /// The same from one of this machine's addresses: each of them has ports of its own.
    pub async fn connect_from(&self, source: IpAddr) -> io::Result<TlsStream<TcpStream>> {
        self.secure(connect_from(source, self.address).await?).await
    }

    async fn secure(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        tcp.set_nodelay(true)?;
        TlsConnector::from(self.tls.clone())
            .connect(self.server_name.clone(), tcp)
            .await
    }
}

/// A client configuration: trusts the CAs in `ca_pem`, TLS 1.3 with the one cipher suite that every leg of the benchmark
/// uses, `alpn` in this order, no client certificate.
pub fn tls(ca_pem: &[u8], alpn: &[&str]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate?)?;
    }
    ensure!(!roots.is_empty(), "the CA file holds no certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(one_cipher()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// A bearer token as the value of `authorization`.
pub fn bearer(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// rustls prefers AES-256 and OpenSSL may prefer another; with one suite at both ends no leg is cheaper than another.
pub(crate) fn one_cipher() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    }
}
