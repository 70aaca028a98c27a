//! HTTP/2 as it is on the wire, read beside the HTTP library where that does not tell everything. Pure.

mod huffman;
mod paths;

pub use paths::Paths;
