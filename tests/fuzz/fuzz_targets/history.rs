//! The record of what happened, as an agent finds it when it starts: whatever is in the file, what is kept of it is bounded.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::history::fuzz_history(data));
