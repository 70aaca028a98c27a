//! The `sk_lookup` program: passes every lookup on to the kernel's own, and counts it.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sk_lookup, sk_action::SK_PASS},
    helpers::bpf_ktime_get_ns,
    programs::SkLookupContext,
};
use aya_log_ebpf::info;
use mvp_common::{Counter, LookupState};

use crate::maps;

/// IPPROTO_TCP (`include/uapi/linux/in.h`).
const TCP: u32 = 6;

/// Never drops: without a socket chosen here the kernel goes on with its own lookup, and kube-apiserver's listener gets
/// the connection (kernel `Documentation/bpf/prog_sk_lookup.rst`).
#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> u32 {
    // SAFETY: the kernel passes a valid context, and the verifier checks each field read.
    let lookup: &bpf_sk_lookup = unsafe { &*ctx.as_ptr().cast() };
    let (protocol, port) = (lookup.protocol, lookup.local_port);
    maps::count(Counter::Lookups);
    let first = || LookupState {
        // SAFETY: a helper without arguments.
        first_ns: unsafe { bpf_ktime_get_ns() },
        first_local_port: port,
        first_protocol: protocol,
    };
    if maps::note_first_lookup(first) {
        info!(
            ctx,
            "first lookup since load: protocol {}, local port {}", protocol, port
        );
    }
    maps::count(if protocol == TCP {
        Counter::PassIdle
    } else {
        Counter::PassProtocol
    });
    SK_PASS
}
