//! Whole requests of every form, with any names of identity headers: no identity gained, no server blamed.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::proxy::fuzz_requests(data));
