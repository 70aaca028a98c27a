//! The look at a ClientHello, compared with rustls.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::net::fuzz_hello(data));
