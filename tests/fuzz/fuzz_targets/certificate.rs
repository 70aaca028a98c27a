//! Client certificate chains: parsing, path building, and what users come of them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::identity::fuzz_certificate(data));
