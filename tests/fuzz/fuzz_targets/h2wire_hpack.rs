//! Header blocks of any bytes: the agent's own decoder says what RFC 7541 says, word for word, and keeps the same table.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::h2wire::fuzz_hpack(data));
