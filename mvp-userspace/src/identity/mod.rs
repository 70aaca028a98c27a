//! Who the user is, which headers are trusted, stripped, set.
//!
//! A request passes one door, [`admit()`]: it reads the client's headers, removes what ends at this hop and whatever `Connection` nominates,
//! deletes what nobody but the agent may say, and sets who the user is. In this order a client cannot have the agent's own headers
//! removed by nominating them. What comes out, [`Admitted`], is all that a request to a server can be made from.
//! No code path asserts a user that was not verified: a [`User`] asserted upstream comes from a certificate that verified, or
//! from the headers of a front proxy whose certificate did.

mod admit;
mod authenticate;
mod certificate;
mod constraints;
mod credentials;
mod escape;
mod examine;
mod facts;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod headers;
mod hop_by_hop;
mod own;
pub mod proof;
mod subject;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod user;

pub use admit::{Admitted, Head, Wish, admit};
#[cfg(test)]
pub(crate) use authenticate::authenticate;
pub use authenticate::{Caller, Unauthorized};
pub use certificate::Rejection;
pub use credentials::{ClientKey, Credentials, Hasher, TokenHash};
#[cfg(any(test, feature = "fuzzing"))]
pub use examine::fuzz_certificate;
pub use examine::{CertIdentity, PeerCertificates, examine};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzz::{Faces, faces};
pub use headers::{HopMark, PEER_PROXIED, Stripped, strip_headers};
pub use hop_by_hop::{AUDIT_ID, forwarded_for, strip_hop_by_hop};
pub use own::UnfitClientPair;
#[cfg(test)]
pub use testing::trust_in_nobody;
pub use trust::{HeaderNames, Trust, TrustCell};
pub use user::{BadIdentity, User};
