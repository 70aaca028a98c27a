//! The agent's own HTTP/2 server, before a client that sends anything at all: what it counts is what there is, and what it keeps is bounded
//! and let go.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::h2wire::server::fuzz_server(data));
