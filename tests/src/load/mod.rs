//! A small, exact load generator: HTTP/2 over TLS, on the current-thread runtime of its caller.
//!
//! [`Session`] is a closed loop (a stream sends its next request when the answer to the last one is complete): it asks how
//! long a request takes. [`open_loop`] sends at a fixed rate whatever the answers do, and counts latency from the moment a
//! request was due: it asks what a client sees while servers come and go.

mod answer;
mod client;
mod closed;
mod endpoint;
mod latency;
mod open;
mod persistent;
mod scheduled;

pub use answer::{Answer, Answers};
pub use client::{Call, Client, Failure, Reply};
pub use closed::{Get, Limit, Outcome, Session};
pub(crate) use endpoint::one_cipher;
pub use endpoint::{Endpoint, bearer, tls};
pub use latency::Latency;
pub use open::{Due, open_loop};
pub use persistent::{Persistent, Sent, is_lost};
