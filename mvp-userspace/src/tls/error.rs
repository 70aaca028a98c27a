//! What can be wrong with a certificate, a key or a CA bundle. Every message is one line that begins with the configuration key.

use std::path::PathBuf;

/// Why TLS material could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{key}: cannot read {}: {source}", path.display())]
    Read {
        key: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{key}: {} is larger than {limit} bytes: not a certificate or key file", path.display())]
    TooLarge {
        key: String,
        path: PathBuf,
        limit: u64,
    },
    #[error("{key}: {} is not valid PEM: {reason}", path.display())]
    Pem {
        key: String,
        path: PathBuf,
        reason: String,
    },
    #[error("{key}: {} holds no certificate (no `BEGIN CERTIFICATE` section)", path.display())]
    NoCertificate { key: String, path: PathBuf },
    /// `number` counts from 1 in the order of the file.
    #[error("{key}: {}: certificate {number} is malformed: {reason}", path.display())]
    Certificate {
        key: String,
        path: PathBuf,
        number: usize,
        reason: String,
    },
    #[error("{key}: {} holds no private key (PKCS#8, PKCS#1 or SEC1 in PEM)", path.display())]
    NoKey { key: String, path: PathBuf },
    #[error("{key}: {} is encrypted; decrypt it, the agent asks for no passphrase", path.display())]
    EncryptedKey { key: String, path: PathBuf },
    #[error("{key}: {} is not a usable private key: {reason}", path.display())]
    Key {
        key: String,
        path: PathBuf,
        reason: String,
    },
    #[error("{key}: {} does not match the certificate", path.display())]
    Mismatch { key: String, path: PathBuf },
    #[error("{key}: {name:?} is neither a DNS name nor an address")]
    Name { key: String, name: String },
    #[error("{key}: {name:?} is not a header name")]
    HeaderName { key: String, name: String },
    /// kube-apiserver refuses to start with the same words since 1.35 (`server/options/authentication.go`): any client
    /// certificate could otherwise assert any user.
    #[error(
        "{key}: shares a certificate with clientCAFile; requestHeader.allowedNames must then name the front proxies"
    )]
    Overlap { key: String },
    /// See [`crate::identity::UnfitClientPair`].
    #[error("{key}: {} must not be used: {reason}", path.display())]
    Unfit {
        key: String,
        path: PathBuf,
        reason: String,
    },
    #[error("{key}: refused by the TLS library: {source}")]
    Library { key: String, source: rustls::Error },
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsFault {
    /// The content or the permissions of a file.
    File,
    /// A value of the configuration.
    Config,
    /// The agent or its TLS library.
    Agent,
}

impl TlsError {
    /// The configuration key to look at, e.g. `serving.keyFile`.
    pub fn key(&self) -> &str {
        match self {
            Self::Read { key, .. }
            | Self::TooLarge { key, .. }
            | Self::Pem { key, .. }
            | Self::NoCertificate { key, .. }
            | Self::Certificate { key, .. }
            | Self::NoKey { key, .. }
            | Self::EncryptedKey { key, .. }
            | Self::Key { key, .. }
            | Self::Mismatch { key, .. }
            | Self::Name { key, .. }
            | Self::HeaderName { key, .. }
            | Self::Unfit { key, .. }
            | Self::Overlap { key }
            | Self::Library { key, .. } => key,
        }
    }

    pub fn fault(&self) -> TlsFault {
        match self {
            Self::Name { .. } | Self::HeaderName { .. } | Self::Overlap { .. } => TlsFault::Config,
            Self::Library { .. } => TlsFault::Agent,
            _ => TlsFault::File,
        }
    }
}
