//! Entry points of the BPF programs; one file a hook.
#![no_std]
#![no_main]

mod maps;
mod splice;
mod steer;

use aya_ebpf::{
    macros::{sk_lookup, stream_verdict},
    programs::{SkBuffContext, SkLookupContext},
};

/// Runs for each new TCP connection and each UDP packet to a local address of the network namespace it is attached to.
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    steer::run(&ctx)
}

/// Runs for each segment that a joined socket receives.
#[stream_verdict]
pub fn splice(ctx: SkBuffContext) -> u32 {
    splice::run(&ctx)
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
