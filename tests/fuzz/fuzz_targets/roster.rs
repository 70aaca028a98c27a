//! The list of servers: a listed foreign address is never local, and nothing else adds one or takes one away.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mvp::membership::fuzz_roster(data));
