//! The agent's own HTTP/2 client, before a server that sends anything at all: what it counts is what there is, and what it keeps is bounded.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::h2wire::client::fuzz_client(data));
