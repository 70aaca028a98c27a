//! Discovery documents of every form.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::discovery::fuzz_decode(data));
