//! Who the user is, which headers are trusted, stripped, set.
//!
//! Per request, in this order: [`authenticate()`] reads the client's headers; the proxy module then removes hop-by-hop headers
//! and whatever `Connection` nominates; then [`rewrite_headers`] deletes what nobody but us may say and sets who the user is;
//! last, the proxy module sets the hop marker. In this order a client cannot have our own headers removed by nominating them.
//! No code path asserts a user that was not verified: a [`User`] asserted upstream comes from a certificate that verified, or
//! from the headers of a front proxy whose certificate did.

mod authenticate;
mod certificate;
mod constraints;
mod escape;
mod examine;
mod facts;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod headers;
mod own;
pub mod proof;
mod subject;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod user;

pub use authenticate::{Caller, Unauthorized, authenticate};
pub use certificate::Rejection;
#[cfg(any(test, feature = "fuzzing"))]
pub use examine::fuzz_certificate;
pub use examine::{CertIdentity, PeerCertificates, examine};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{Faces, faces};
pub use headers::{HopMark, PEER_PROXIED, Stripped, hop_marked, rewrite_headers, strip_headers};
pub use own::Unfit;
#[cfg(test)]
pub use testing::trust_in_nobody;
pub use trust::{HeaderNames, Trust, TrustCell};
pub use user::{BadIdentity, User};
