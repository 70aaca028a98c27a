//! The `sk_skb` stream verdict program: sends what a socket receives out of the socket at the other end. It reads no
//! payload (verdict programs may see an empty linear area) and has no parser, so TCP stays a stream of bytes.

use aya_ebpf::{
    bindings::sk_action::{SK_DROP, SK_PASS},
    helpers::bpf_get_socket_cookie,
    programs::SkBuffContext,
};
use mvp_common::{Counter, SPLICE_STEP};

use crate::maps;

/// Runs under the lock of the receiving socket, so a flow's count has one writer at a time.
#[inline(always)]
pub fn run(ctx: &SkBuffContext) -> u32 {
    let length = u64::from(ctx.len());
    if length == 0 {
        // A FIN of its own. Nothing to send, and sending nothing counts as a broken pipe (`sk_psock_backlog`). The agent
        // passes the FIN on, once all data have left.
        return SK_DROP;
    }
    // SAFETY: the kernel passes a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let (Some(flow), true) = (
        maps::SPLICE_FLOWS.get_ptr_mut(cookie),
        maps::SPLICE_TARGETS.redirect_skb(ctx, cookie, 0) == i64::from(SK_PASS),
    ) else {
        // Into the socket's own queue: not lost, and the agent sees that the count and TCP's own do not agree.
        maps::count(Counter::SpliceMissing);
        return SK_PASS;
    };
    // SAFETY: the verifier has seen the null check; see above for the one writer. Readers copy an aligned u64.
    let before = unsafe { flow.read_volatile() };
    let after = before.wrapping_add(length);
    // SAFETY: as above.
    unsafe { flow.write_volatile(after) };
    if before / SPLICE_STEP != after / SPLICE_STEP {
        // A full ring buffer means that the agent has not yet read what is there; the next step says it again.
        let _ = maps::SPLICE_EVENTS.output::<u64>(&cookie, 0);
    }
    maps::count(Counter::SpliceRedirected);
    maps::add(Counter::SpliceBytes, length);
    SK_PASS
}
