//! HTTP/2 as it is on the wire, read before the HTTP library where that does not report everything. Pure.

pub mod client;
pub mod frame;
mod hpack;
mod huffman;
mod mend;
mod paths;
mod target;

pub use mend::Mend;
pub use target::{REFUSED, Refusal, judge, stand_in};
