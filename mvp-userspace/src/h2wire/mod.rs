//! HTTP/2 as it is on the wire: the agent's own client and server, without their sockets, and what is read before the HTTP library where
//! that does not report everything. Pure.

mod block;
mod chunks;
pub mod client;
mod connection;
mod flood;
pub mod frame;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz_frames;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz_input;
mod hpack;
mod huffman;
mod mend;
mod outbox;
mod paths;
mod receive;
pub mod server;
mod stream;
mod target;
#[cfg(test)]
pub(crate) mod testing;

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz_frames::fuzz_frames;
#[cfg(any(test, feature = "fuzzing"))]
pub use hpack::fuzz_hpack;

pub use connection::{Connection, Limits, Piece, Side};
pub use flood::{Burst, Misdeeds};
pub use mend::Mend;
pub use stream::{Fault, Head};
pub use target::{REFUSED, Refusal, judge, stand_in};
