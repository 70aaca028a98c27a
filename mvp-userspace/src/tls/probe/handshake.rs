//! One handshake that only looks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::NoIssuer;
use crate::config::Endpoint;
use crate::net::{self, DialFrom};
use crate::tls::{parse_certificate, provider, validity};

/// Intermediates looked at; a server with more is not of the same CA as far as the agent is concerned. webpki tries every order
/// of those of one name.
const MAX_INTERMEDIATES: usize = 5;

/// What the server showed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probed {
    /// SHA-256 of the first certificate.
    pub fingerprint: [u8; 32],
    /// True if no name was asked for.
    pub valid_for_name: bool,
    /// The chain leads to one of the CA certificates given, and is valid now for a server.
    pub same_ca: bool,
    /// Unix seconds.
    pub not_after: i64,
}

/// Why nothing was seen.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProbeError {
    /// The client's doing: it asked for what is no DNS name.
    #[error("{0:?} is no DNS name")]
    Name(String),
    /// The server left between question and probe.
    #[error("the server left the membership")]
    Gone,
    /// The agent's own certificate, with which the server's is compared, has no known issuer.
    #[error(transparent)]
    OwnCa(#[from] NoIssuer),
    /// The server's or the network's fault: nothing listens, or no way there.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The server's fault: no TLS, no certificate that can be read, or it does not hold the certificate's key.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// The limit is for the connection and the handshake together.
    #[error("no handshake in time")]
    TimedOut,
}

/// Shakes hands with `endpoint` as a client that asks for `server_name` (or for none) and has no certificate, and closes.
/// A certificate that means nothing is a finding, not an error; nothing is sent to the server in either case.
///
/// # Errors
/// If there was no whole handshake within `timeout`.
pub async fn probe(
    endpoint: &Endpoint,
    server_name: Option<&str>,
    roots: Arc<RootCertStore>,
    from: &DialFrom,
    timeout: Duration,
) -> Result<Probed, ProbeError> {
    let named = match server_name {
        None => None,
        Some(name) => match ServerName::try_from(name.to_owned()) {
            Ok(name @ ServerName::DnsName(_)) => Some(name),
            _ => return Err(ProbeError::Name(name.to_owned())),
        },
    };
    let provider = provider();
    let recorder = Arc::new(Recorder {
        roots,
        name: named.clone(),
        provider: provider.clone(),
        seen: OnceLock::new(),
    });
    let handshake = |error: &dyn std::error::Error| ProbeError::Handshake(error.to_string());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(|error| handshake(&error))?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    // A resumed session shows no certificate.
    config.resumption = Resumption::disabled();
    config.enable_sni = named.is_some();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Never sent, and the recorder looks at its own.
    let name = named.unwrap_or(ServerName::from(std::net::IpAddr::from([0, 0, 0, 0])));
    let shake = async {
        let stream = net::dial(&endpoint.host, endpoint.port, from)
            .await
            .map_err(|error| ProbeError::Connect(error.to_string()))?;
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| handshake(&error))?;
        // Politely, or the server would log an error; what it answers does not matter.
        let _ = stream.shutdown().await;
        Ok::<_, ProbeError>(())
    };
    match tokio::time::timeout(timeout, shake).await {
        Err(_elapsed) => return Err(ProbeError::TimedOut),
        Ok(result) => result?,
    }
    recorder
        .seen
        .get()
        .copied()
        .ok_or_else(|| ProbeError::Handshake("no certificate was shown".to_owned()))
}

/// Lets any certificate pass and notes what it is worth. Nothing is ever sent over a connection that it let pass. That the server
/// holds the certificate's key is checked as always.
#[derive(Debug)]
struct Recorder {
    roots: Arc<RootCertStore>,
    name: Option<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
    seen: OnceLock<Probed>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let not_after = parse_certificate(end_entity)
            .map(|certificate| validity(&certificate).1)
            .map_err(Error::General)?;
        let probed = Probed {
            fingerprint: Sha256::digest(end_entity).into(),
            valid_for_name: self
                .name
                .as_ref()
                .is_none_or(|name| verify_server_name(&parsed, name).is_ok()),
            same_ca: intermediates.len() <= MAX_INTERMEDIATES
                && verify_server_cert_signed_by_trust_anchor(
                    &parsed,
                    &self.roots,
                    intermediates,
                    now,
                    algorithms,
                )
                .is_ok(),
            not_after,
        };
        // One handshake, one certificate.
        let _ = self.seen.set(probed);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
