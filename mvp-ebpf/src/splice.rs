//! The `sk_skb` stream verdict program: sends what a socket receives out of the socket at the other end. It reads no
//! payload (verdict programs may see an empty linear area) and has no parser, so TCP stays a stream of bytes.

use aya_ebpf::{
    bindings::sk_action::{SK_DROP, SK_PASS},
    helpers::bpf_get_socket_cookie,
    programs::SkBuffContext,
};
use mvp_common::{Counter, SPLICE_STEP, SpliceFlow};

use crate::maps;

/// `sk_skb_adjust_room` of net/core/filter.c takes no more at a time.
const AT_ONCE: u32 = 0xfff;
/// So many times that is more than the largest segment that the kernel puts together (`GSO_MAX_SIZE` of include/linux/netdevice.h).
const TIMES: u32 = 130;

/// Runs under the lock of the receiving socket, so a flow has one writer at a time.
#[inline(always)]
pub fn run(ctx: &SkBuffContext) -> u32 {
    let length = ctx.len();
    if length == 0 {
        // A FIN of its own. Nothing to send, and sending nothing counts as a broken pipe (`sk_psock_backlog`). The agent
        // passes the FIN on, once all data have left.
        return SK_DROP;
    }
    // SAFETY: the kernel passes a valid context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(flow) = maps::SPLICE_FLOWS.get_ptr_mut(cookie) else {
        return missing();
    };
    // SAFETY: the verifier has seen the null check; see above for the one writer.
    let expected = unsafe { (*flow).expected };
    let Some(sequence) = Sequence::of(ctx, length) else {
        return missing();
    };
    let repeated = sequence.repeated(expected);
    if repeated != 0 {
        if repeated >= length || !cut(ctx, repeated) {
            // Memory is short. The agent finds the bytes missing and breaks the connection off.
            return SK_DROP;
        }
        maps::add(Counter::SpliceRepeated, u64::from(repeated));
    }
    if maps::SPLICE_TARGETS.redirect_skb(ctx, cookie, 0) != i64::from(SK_PASS) {
        return missing();
    }
    let length = u64::from(length - repeated);
    // SAFETY: as above. Readers copy aligned u64s.
    let before = unsafe {
        let before = (&raw const (*flow).redirected).read_volatile();
        (&raw mut (*flow).redirected).write_volatile(before.wrapping_add(length));
        (*flow).expected = SpliceFlow::BEGUN | u64::from(sequence.end);
        before
    };
    if before / SPLICE_STEP != before.wrapping_add(length) / SPLICE_STEP {
        // A full ring buffer means that the agent has not yet read what is there; the next step says it again.
        let _ = maps::SPLICE_EVENTS.output::<u64>(&cookie, 0);
    }
    maps::count(Counter::SpliceRedirected);
    maps::add(Counter::SpliceBytes, length);
    SK_PASS
}

/// Into the socket's own queue: not lost, and the agent sees that the count and TCP's own do not agree.
fn missing() -> u32 {
    maps::count(Counter::SpliceMissing);
    SK_PASS
}

/// TCP's numbers of a segment's first byte and of the byte behind its last one.
struct Sequence {
    begin: u32,
    end: u32,
}

impl Sequence {
    /// A segment that is sent again may begin with bytes that have come before (`tcp_data_queue` of net/ipv4/tcp_input.c, "Partial
    /// packet"). Who reads the socket does not get them, but `tcp_read_skb` gives the program all of it. The numbers are the first two of
    /// `struct tcp_skb_cb`, which lies where a program sees `cb` (`struct sk_skb_cb` of include/linux/skmsg.h since Linux 5.16).
    ///
    /// `None` if they cannot be those of so many bytes: the kernel's structures are other ones, and the self-test will say so.
    #[inline(always)]
    fn of(ctx: &SkBuffContext, length: u32) -> Option<Self> {
        // SAFETY: the kernel passes a valid context.
        let [begin, end, ..] = unsafe { (*ctx.skb.skb).cb };
        // A FIN has a number as well.
        match end.wrapping_sub(begin).wrapping_sub(length) {
            0 => Some(Self { begin, end }),
            1 => Some(Self {
                begin,
                end: end.wrapping_sub(1),
            }),
            _ => None,
        }
    }

    /// How many of its bytes had come before. None if it is the first segment, or if the one before it was left to the socket.
    #[inline(always)]
    fn repeated(&self, expected: u64) -> u32 {
        let before = (expected as u32).wrapping_sub(self.begin);
        match expected & SpliceFlow::BEGUN {
            0 => 0,
            _ if before as i32 <= 0 => 0,
            _ => before,
        }
    }
}

/// Takes the first bytes off.
#[inline(always)]
fn cut(ctx: &SkBuffContext, mut bytes: u32) -> bool {
    for _ in 0..TIMES {
        let now = if bytes > AT_ONCE { AT_ONCE } else { bytes };
        if ctx.skb.adjust_room(-(now as i32), 0, 0).is_err() {
            return false;
        }
        bytes -= now;
        if bytes == 0 {
            return true;
        }
    }
    false
}
