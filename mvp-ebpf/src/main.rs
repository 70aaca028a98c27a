//! Entry points of the BPF programs; one file a hook.
#![no_std]
#![no_main]
// For one atomic add; the programs are built with unstable features anyway (`-Zbuild-std`).
#![feature(asm_experimental_arch)]

mod maps;
mod steer;

use aya_ebpf::{macros::sk_lookup, programs::SkLookupContext};

/// Runs for each new TCP connection and each UDP packet to a local address of the network namespace it is attached to.
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    steer::run(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Every helper used here is open to programs of any licence (`gpl_only = false`; bpf_ktime_get_ns since Linux 5.8).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
