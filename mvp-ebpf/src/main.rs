//! Entry points of the BPF programs; one file a hook.
#![no_std]
#![no_main]
// For one atomic add; the programs are built with unstable features anyway (`-Zbuild-std`).
#![feature(asm_experimental_arch)]

mod maps;
mod shortcut;
mod splice;
mod steer;

use aya_ebpf::{
    macros::{sk_lookup, sk_msg, sock_ops, stream_verdict},
    programs::{SkBuffContext, SkLookupContext, SkMsgContext, SockOpsContext},
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

/// Runs for each message that a socket sends that was noted for the short-cut.
#[sk_msg]
pub fn shortcut(ctx: SkMsgContext) -> u32 {
    shortcut::run(&ctx)
}

/// Runs as connections of a cgroup change their state.
#[sock_ops]
pub fn shortcut_note(ctx: SockOpsContext) -> u32 {
    shortcut::note(&ctx);
    1
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
