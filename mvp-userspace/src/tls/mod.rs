//! TLS configurations of both sides, loaded from files and reloaded when the files change.
//!
//! [`ServerTls`] is what clients meet, [`ClientTls`] what kube-apiservers meet. The handshake with a client only proves that it
//! holds the key of the certificate it shows; whether that certificate means anything is `identity`'s question, asked per request
//! and against trust that may have changed since.

mod client;
mod error;
mod lifetime;
mod probe;
mod reload;
mod server;
mod sni;
mod source;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod ticketer;
mod verifier;

pub use client::{Alpn, ClientTls, IdentityClass, PairCheck};
pub use error::{TlsError, TlsFault};
pub use lifetime::Lifetime;
pub use lifetime::Validity;
pub use probe::{
    MAX_PROBES, NoIssuer, OwnCa, ProbeCache, ProbeError, ProbeView, Probed, Prober,
    Target as ProbeTarget, probe,
};
pub use reload::{Adopt, Reload, ReloadStats, Reloader};
pub use server::ServerTls;
pub(crate) use source::{Bundle, FileSpec, Refreshed, Source, parse_certificate, validity};
pub use source::{FileStats, ReloadOutcome};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The one cryptographic provider, always given explicitly: a process default could be set by a library behind our back.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
