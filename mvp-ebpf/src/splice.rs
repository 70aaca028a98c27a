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
    let repeated = match sequence.position(expected) {
        Position::Next => 0,
        Position::Repeats(bytes) if bytes >= length => {
            // All of it, sent again with a FIN that is new (`tcp_collapse_retrans` of net/ipv4/tcp_output.c).
            return SK_DROP;
        }
        Position::Repeats(bytes) if cut(ctx, bytes) => bytes,
        // Memory is short, or what came before was left to the socket.
        Position::Repeats(_) | Position::Gap => {
            // SAFETY: as above.
            unsafe { (*flow).expected = expected | SpliceFlow::BROKEN };
            let _ = maps::SPLICE_EVENTS.output::<u64>(&cookie, 0);
            return SK_DROP;
        }
    };
    if repeated != 0 {
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

/// Where a segment begins.
enum Position {
    /// With the byte that is expected, or it is the first segment.
    Next,
    /// With so many bytes that had come before.
    Repeats(u32),
    /// Behind bytes that have not been sent on.
    Gap,
}

/// TCP's numbers of a segment's first byte and of the byte behind its last one.
struct Sequence {
    begin: u32,
    end: u32,
}

impl Sequence {
    /// A segment that is sent again may begin with bytes that have come before (`tcp_data_queue` of net/ipv4/tcp_input.c, "Partial
    /// packet"). Who reads the socket does not get them, but `tcp_read_skb` gives the program all of it. The numbers are the first two of
    /// `struct tcp_skb_cb`, which lies where a program sees `cb` (`struct sk_skb_cb` of include/net/strparser.h, since Linux 5.16).
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

    #[inline(always)]
    fn position(&self, expected: u64) -> Position {
        if expected & SpliceFlow::BEGUN == 0 {
            return Position::Next;
        }
        let before = (expected as u32).wrapping_sub(self.begin);
        match before as i32 {
            _ if expected & SpliceFlow::BROKEN != 0 => Position::Gap,
            0 => Position::Next,
            1.. => Position::Repeats(before),
            _ => Position::Gap,
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
