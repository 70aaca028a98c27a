//! The short-cut between the agent and the server on the same machine: what one end of a loopback connection sends is put into
//! the other end's queue, past TCP.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_INGRESS, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        sk_action::{SK_DROP, SK_PASS},
    },
    helpers::bpf_get_netns_cookie,
    programs::{SkMsgContext, SockOpsContext},
};
use mvp_common::{Counter, ShortcutKey};

use crate::maps;

/// AF_INET and AF_INET6 (`include/linux/socket.h`).
const INET: u32 = 2;
const INET6: u32 = 10;
/// What the third word of an IPv6 address is that holds an IPv4 one, `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
const MAPPED: u32 = 0xffff_u32.to_be();
/// BPF_ANY (`include/uapi/linux/bpf.h`).
const ANY: u64 = 0;

/// Notes both ends of a connection in scope as each is established. It answers nothing, so that other `sock_ops` programs of the
/// cgroup are not disturbed.
#[inline(always)]
pub fn note(ctx: &SockOpsContext) {
    let op = ctx.op();
    if (op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
        || !speaks_ipv4(ctx)
    {
        return;
    }
    let Some(scope) = maps::SHORTCUT_SCOPE.get(0) else {
        return;
    };
    let (local_ip, remote_ip) = (ctx.local_ip4(), ctx.remote_ip4());
    let (local_port, remote_port) = (ctx.local_port(), u32::from_be(ctx.remote_port()));
    let from_client = local_ip == scope.client_ip && remote_port == scope.port;
    let at_server = remote_ip == scope.client_ip && local_port == scope.port;
    if !from_client && !at_server {
        return;
    }
    // SAFETY: the kernel passes a valid context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if netns != scope.netns {
        return;
    }
    let key = ShortcutKey {
        netns,
        local_ip,
        remote_ip,
        local_port,
        remote_port,
    };
    // What an earlier connection between the same addresses and ports left.
    let _ = maps::SHORTCUT_SLOW.remove(key);
    // SAFETY: the kernel passes a valid context, and nobody else has it.
    let ops = unsafe { &mut *ctx.ops };
    if maps::SHORTCUT_SOCKS.update(key, ops, ANY).is_ok() {
        maps::count(Counter::ShortcutNoted);
    }
}

/// Whether the connection is of IPv4, by whichever kind of socket: a server that listens on `[::]`, as kube-apiserver does, has its end
/// in an IPv6 socket with mapped addresses. Such a socket has the IPv4 addresses as well, where programs read `local_ip4` and
/// `remote_ip4` (`tcp_v6_syn_recv_sock` in net/ipv6/tcp_ipv6.c begins with `tcp_v4_syn_recv_sock`); one of an IPv6 connection
/// has something else there.
#[inline(always)]
fn speaks_ipv4(ctx: &SockOpsContext) -> bool {
    match ctx.family() {
        INET => true,
        INET6 => {
            // Word by word: the kernel refuses to have two read at once, which the compiler may otherwise make of it.
            // SAFETY: the kernel passes a valid context, and the verifier checks each field read.
            let word =
                |at: usize| unsafe { (&raw const (*ctx.ops).remote_ip6[at]).read_volatile() };
            word(0) == 0 && word(1) == 0 && word(2) == MAPPED
        }
        _ => false,
    }
}

/// Runs for each message that a noted socket sends, under the socket's lock.
#[inline(always)]
pub fn run(ctx: &SkMsgContext) -> u32 {
    // SAFETY: the kernel passes a valid context, and the verifier checks each field read.
    let msg = unsafe { &*ctx.msg };
    // SAFETY: as above.
    let netns = unsafe { bpf_get_netns_cookie(ctx.msg.cast()) };
    let own = ShortcutKey {
        netns,
        local_ip: msg.local_ip4,
        remote_ip: msg.remote_ip4,
        local_port: msg.local_port,
        remote_port: u32::from_be(msg.remote_port),
    };
    if maps::SHORTCUT_SLOW.get_ptr(own).is_some() {
        maps::count(Counter::ShortcutSlow);
        return SK_PASS;
    }
    // The other end, as it sees itself.
    let other = ShortcutKey {
        netns,
        local_ip: own.remote_ip,
        remote_ip: own.local_ip,
        local_port: own.remote_port,
        remote_port: own.local_port,
    };
    if maps::SHORTCUT_SOCKS.redirect_msg(ctx, other, u64::from(BPF_F_INGRESS)) == i64::from(SK_PASS)
    {
        maps::count(Counter::ShortcutRedirected);
        return SK_PASS;
    }
    // Not noted yet, or gone. This message goes by TCP, and so must all that follow: the queue that the short-cut fills is read
    // before TCP's. If that cannot be kept in mind the send fails, which is better than bytes out of order.
    if maps::SHORTCUT_SLOW.insert(own, 1, ANY).is_err() {
        return SK_DROP;
    }
    maps::count(Counter::ShortcutSlow);
    SK_PASS
}
