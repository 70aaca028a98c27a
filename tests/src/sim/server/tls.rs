//! TLS as kube-apiserver does it: a client certificate is asked for, any is let through, authentication judges it later.

use std::sync::Arc;

use anyhow::Result;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature_with_raw_key,
    },
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use crate::sim::{api::authn::Authorities, pki::Pki};

pub(super) struct Tls {
    pub acceptor: TlsAcceptor,
    pub authorities: Authorities,
}

pub(super) fn load(pki: &Pki, minor: u8, http1_only: bool) -> Result<Tls> {
    let read = |file: &str| -> Result<Vec<CertificateDer<'static>>> {
        Ok(CertificateDer::pem_slice_iter(pki.read(file)?.as_bytes()).collect::<Result<_, _>>()?)
    };
    let (cluster, front_proxy) = (read("ca.crt")?, read("front-proxy-ca.crt")?);
    let authorities = Authorities::new(&cluster, &front_proxy, minor)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut hints = Vec::new();
    for cert in cluster.iter().chain(&front_proxy) {
        hints.push(DistinguishedName::in_sequence(
            &webpki::anchor_from_trusted_cert(cert)?.subject,
        ));
    }
    let verifier = AnyCertificate {
        hints,
        algorithms: provider.signature_verification_algorithms,
    };
    let identity = pki.identity("apiserver")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.chain()?, identity.key()?)?;
    config.alpn_protocols = if http1_only {
        vec![b"http/1.1".to_vec()]
    } else {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    };
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        authorities,
    })
}

/// Go's `tls.RequestClientCert`; the signature over the handshake is still checked.
#[derive(Debug)]
pub struct AnyCertificate {
    /// Subjects of the CAs that are named to the client.
    pub hints: Vec<DistinguishedName>,
    /// Which signatures over the handshake are accepted.
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // By the key alone: a kube-apiserver completes the handshake whatever the certificate says.
        let (_, parsed) = x509_parser::parse_x509_certificate(cert).map_err(|_| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
        })?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
