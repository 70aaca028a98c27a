//! What clients need: rustls configurations and kubeconfig files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;

use super::{Identity, Pki};

/// What a test client shows in the TLS handshake.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// No certificate.
    None,
    /// This certificate with its chain.
    Certificate(Identity),
}

/// The user of a kubeconfig.
#[derive(Clone, Debug)]
pub enum KubeconfigUser {
    /// Client certificate and key, in the file itself.
    Certificate(Identity),
    /// A bearer token.
    Token(String),
    /// No credentials.
    Anonymous,
}

impl Pki {
    /// Trusts the cluster CA; `alpn` is offered in this order.
    pub fn client_config(&self, auth: ClientAuth, alpn: &[&str]) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(self.read("ca.crt")?.as_bytes()) {
            roots.add(cert?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Certificate(identity) => {
                // Not looked at on this side: rustls refuses to present what other clients do.
                let key = provider.key_provider.load_private_key(identity.key()?)?;
                let certified = CertifiedKey::new(identity.chain()?, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }

    /// A kubeconfig (YAML; written as JSON, which YAML includes) with all credentials inlined.
    pub fn kubeconfig(&self, server: &str, user: &KubeconfigUser) -> Result<String> {
        let user = match user {
            KubeconfigUser::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.cert_pem),
                "client-key-data": STANDARD.encode(&identity.key_pem),
            }),
            KubeconfigUser::Token(token) => json!({"token": token}),
            KubeconfigUser::Anonymous => json!({}),
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sim", "cluster": {
                "server": server,
                "certificate-authority-data": STANDARD.encode(self.read("ca.crt")?),
            }}],
            "users": [{"name": "sim", "user": user}],
            "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "sim", "namespace": "default"}}],
            "current-context": "sim",
        });
        Ok(serde_json::to_string_pretty(&config)?)
    }

    /// Writes [`Pki::kubeconfig`] to `file`, relative to the folder of the key material.
    pub fn write_kubeconfig(
        &self,
        file: impl AsRef<Path>,
        server: &str,
        user: &KubeconfigUser,
    ) -> Result<PathBuf> {
        let path = self.dir().join(file);
        std::fs::write(&path, self.kubeconfig(server, user)?)?;
        Ok(path)
    }
}
