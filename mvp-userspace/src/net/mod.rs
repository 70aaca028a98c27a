//! Sockets: listeners, the accept loop and its limits, socket options, deferred flushes.

mod accept;
mod deferred;
mod dial;
mod ends;
mod hello;
mod sockdiag;
mod sockopt;
mod tcp_info;

pub use accept::{AcceptLoop, Accepted, OnTick, Sink, Slot, Turn};
pub use deferred::Deferred;
pub use dial::{DialFrom, Reserved, dial, dial_any, is_this_node, outward_address};
pub use ends::{EndWatch, Ends};
#[cfg(any(test, feature = "fuzzing"))]
pub use hello::fuzz_hello;
pub use hello::{ClientHello, MAX_HELLO, Peeked, peek};
pub use sockdiag::{Established, Off, Outcome, Planned, SILENCE, SockDiag, SockDiagError, plan};
pub use sockopt::{listen, tune_client, tune_upstream};
pub use tcp_info::{TcpInfo, offer_again};
