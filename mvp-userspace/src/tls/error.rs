//! What can be wrong with a certificate, a key or a CA bundle. Every message is one line that begins with the configuration key.

use std::path::PathBuf;

/// Why TLS material could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is absent or may not be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Read {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Nothing of it was read.
    #[error("{key}: {} is larger than {limit} bytes: not a certificate or key file", path.display())]
    TooLarge {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// It is cut short, or is no PEM.
    #[error("{key}: {} is not valid PEM: {reason}", path.display())]
    Pem {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A chain or a CA bundle without a certificate.
    #[error("{key}: {} holds no certificate (no `BEGIN CERTIFICATE` section)", path.display())]
    NoCertificate {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// `number` counts from 1 in the order of the file.
    #[error("{key}: {}: certificate {number} is malformed: {reason}", path.display())]
    Certificate {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// Which certificate of the file it is.
        number: usize,
        /// The parser's message.
        reason: String,
    },
    /// Other kinds of sections do not count.
    #[error("{key}: {} holds no private key (PKCS#8, PKCS#1 or SEC1 in PEM)", path.display())]
    NoKey {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// No key that needs a passphrase can be used.
    #[error("{key}: {} is encrypted; decrypt it, the agent asks for no passphrase", path.display())]
    EncryptedKey {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// The TLS library refuses it.
    #[error("{key}: {} is not a usable private key: {reason}", path.display())]
    Key {
        /// The configuration key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// The library's message.
        reason: String,
    },
    /// The key is not that of the certificate: one of the two files was replaced and the other was not.
    #[error("{key}: {} does not match the certificate", path.display())]
    Mismatch {
        /// The configuration key that names the key's file.
        key: String,
        /// The key's file.
        path: PathBuf,
    },
    /// A name by which certificates are chosen or verified.
    #[error("{key}: {name:?} is neither a DNS name nor an address")]
    Name {
        /// The configuration key.
        key: String,
        /// Its value.
        name: String,
    },
    /// One of `requestHeader`'s lists has a value that HTTP does not allow (RFC 9110 §5.1).
    #[error("{key}: {name:?} is not a header name")]
    HeaderName {
        /// The configuration key.
        key: String,
        /// The value.
        name: String,
    },
    /// kube-apiserver refuses to start with the same words since 1.35 (`server/options/authentication.go`): any client
    /// certificate could otherwise assert any user.
    #[error(
        "{key}: shares a certificate with clientCAFile; requestHeader.allowedNames must then name the front proxies"
    )]
    Overlap {
        /// The configuration key, `requestHeader.clientCAFile`.
        key: String,
    },
    /// See [`crate::identity::UnfitClientPair`].
    #[error("{key}: {} must not be used: {reason}", path.display())]
    Unfit {
        /// The configuration key, `upstream.clientCertFile`.
        key: String,
        /// The file.
        path: PathBuf,
        /// What speaks against it.
        reason: String,
    },
    /// Material that was read, but cannot be combined.
    #[error("{key}: refused by the TLS library: {source}")]
    Library {
        /// The configuration key of the first file.
        key: String,
        /// The library's error.
        source: rustls::Error,
    },
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

    /// Who can do something about it.
    pub fn fault(&self) -> TlsFault {
        match self {
            Self::Name { .. } | Self::HeaderName { .. } | Self::Overlap { .. } => TlsFault::Config,
            Self::Library { .. } => TlsFault::Agent,
            _ => TlsFault::File,
        }
    }
}
