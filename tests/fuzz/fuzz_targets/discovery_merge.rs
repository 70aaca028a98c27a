//! Discovery documents of two servers, merged and written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::document::fuzz_merge(data));
