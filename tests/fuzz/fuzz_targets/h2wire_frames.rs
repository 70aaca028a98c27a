//! Frames of any kind towards the agent's own HTTP/2 server or client: how their bytes are cut on the way changes nothing, and what is written
//! are whole frames of the right sizes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::h2wire::fuzz_frames(data));
