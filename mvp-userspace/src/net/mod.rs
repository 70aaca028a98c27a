//! Sockets: listeners, the accept loop and its limits, socket options, deferred flushes, header deadlines.

mod accept;
mod deferred;
mod patience;
mod sockopt;

pub use accept::{AcceptLoop, Accepted, Sink, Slot};
pub use deferred::Deferred;
pub use patience::{Patient, Turn, Turns};
pub use sockopt::{listen, tune_client, tune_upstream};
