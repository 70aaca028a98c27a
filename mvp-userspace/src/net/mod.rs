//! Sockets: listeners, the accept loop and its limits, socket options, deferred flushes, and turns for what is costly.

mod accept;
mod admission;
mod bulk;
mod close_waiting;
mod deferred;
mod descriptors;
mod dial;
mod ends;
mod heartbeat;
mod hello;
mod mute;
mod owned;
mod pass_writes;
mod sockdiag;
mod sockopt;
mod tcp_info;
mod turns;

pub use accept::{AcceptLoop, Accepted, OnTick, Slot, ThreadInbox, Turn};
pub use admission::{Admission, AdmissionLimits, AdmissionPermit, Shortage};
pub use bulk::Bulk;
pub use deferred::Deferred;
pub use descriptors::{connections_for, hard_limit, raise_limit};
pub use dial::{
    DialFrom, Reserved, dial, dial_any, is_local_shortage, is_this_node, outward_address, this_node,
};
pub use ends::{EndWatch, Ends};
pub use heartbeat::{LoopHeartbeat, STEERING_TICK, TICK};
#[cfg(any(test, feature = "fuzzing"))]
pub use hello::fuzz_hello;
pub use hello::{ClientHello, Gone, Looked, MAX_HELLO, Peeked, peek};
pub use mute::Mute;
pub use owned::{AbortOnDrop, OpenCount};
pub(crate) use pass_writes::pass_writes;
pub use sockdiag::{Established, Off, RetireOutcome, SockDiag, SockDiagError};
pub use sockopt::{forget_on_close, listen, tune_client, tune_upstream};
pub use tcp_info::{TcpInfo, low_water, offer_again, written};
pub use turns::{Turns, next_turn};
