//! The `sk_lookup` program: gives new connections to the agent's listener while the agent lives and the guard is armed, or the
//! client is on this node: those that act on a 404 (controller manager, scheduler, kubelet) are. Passes every other lookup on to
//! the kernel's own. Every outcome is counted.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, bpf_sk_lookup, sk_action::SK_PASS},
    helpers::bpf_ktime_get_ns,
    programs::SkLookupContext,
};
use aya_log_ebpf::{info, warn};
use mvp_common::{
    Counter, ExemptKey, ExemptValue, LISTENER_V4, LISTENER_V6, LookupState, Noted, Pulse,
};

use crate::maps;

/// IPPROTO_TCP (`include/uapi/linux/in.h`).
const TCP: u32 = 6;

/// AF_INET (`include/linux/socket.h`).
const INET: u32 = 2;

/// ENOENT (`include/uapi/asm-generic/errno-base.h`).
const ENOENT: i32 = 2;

/// Never drops: without a socket chosen here the kernel goes on with its own lookup, and kube-apiserver's listener gets
/// the connection (kernel `Documentation/bpf/prog_sk_lookup.rst`).
#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> u32 {
    // SAFETY: the kernel passes a valid context, and the verifier checks each field read.
    let lookup: *const bpf_sk_lookup = ctx.as_ptr().cast();
    // SAFETY: as above. Volatile here and below: the verifier takes reads of single fields only.
    let (protocol, port) = unsafe {
        (
            (&raw const (*lookup).protocol).read_volatile(),
            (&raw const (*lookup).local_port).read_volatile(),
        )
    };
    // Since Linux 5.11. Its answer is used, or the compiler would leave it out.
    // SAFETY: a helper without arguments.
    #[cfg(feature = "too-new")]
    if unsafe { aya_ebpf::helpers::bpf_ktime_get_coarse_ns() } == 0 {
        return SK_PASS;
    }
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
        steer(ctx, lookup, port)
    } else {
        Counter::PassProtocol
    });
    SK_PASS
}

/// Steers or passes; returns the outcome. The tests that most lookups fail come first.
#[inline(always)]
fn steer(ctx: &SkLookupContext, lookup: *const bpf_sk_lookup, port: u32) -> Counter {
    if !maps::steers(port) {
        return Counter::PassPort;
    }
    // SAFETY: as in `run`.
    let family = unsafe { (&raw const (*lookup).family).read_volatile() };
    let source = source(lookup, family);
    let (armed, generation) = maps::guard();
    if !armed && !maps::steers_while_idle(source) {
        return Counter::PassIdle;
    }
    let pulse = maps::pulse();
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if !Pulse::is_fresh(pulse.heartbeat_ns, now) {
        if maps::note(pulse.heartbeat_ns, stale_heartbeat) {
            let age = now.wrapping_sub(pulse.heartbeat_ns) / 1_000_000;
            warn!(
                ctx,
                "no sign of life of the agent for {} ms: connections pass to the server itself",
                age
            );
        }
        return Counter::PassStale;
    }
    if let Some(exempt) = maps::exempt(source) {
        // SAFETY: as in `run`. Two bytes, in network byte order, on every kernel: the field was a `u32` before 5.18, and
        // its first two bytes are the same.
        let source_port =
            u16::from_be(unsafe { (&raw const (*lookup).remote_port).read_volatile() });
        if exempt.covers(source_port) {
            return if exempt.flags & ExemptValue::OWN != 0 {
                Counter::PassExemptOwn
            } else {
                Counter::PassExemptPeer
            };
        }
    }
    if maps::steered() >= pulse.admit_until {
        if maps::note(generation, full_generation) {
            warn!(
                ctx,
                "the agent's accept queue has no room: connections pass to the server itself"
            );
        }
        return Counter::PassFull;
    }
    let slot = if family == INET {
        LISTENER_V4
    } else {
        LISTENER_V6
    };
    // The slot decides, and not the hash of a reuseport group that the listener may be in: during a takeover the old
    // agent's socket can be in it too. No F_REPLACE: what another program chose before us is the operator's will.
    match maps::assign_listener(ctx, slot, u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT)) {
        Ok(()) => {
            maps::add_steered();
            if armed {
                Counter::Steered
            } else {
                Counter::SteeredLocal
            }
        }
        Err(error) if error == -ENOENT => {
            if maps::note(generation, missing_generation) {
                warn!(
                    ctx,
                    "the agent does not listen: connections pass to the server itself"
                );
            }
            Counter::PassNoListener
        }
        Err(_) => Counter::PassAssignError,
    }
}

/// The source address as the exemptions are keyed. Both families' fields are read whichever it is (the other's are zero):
/// of two branches the compiler would make one load from a computed place in the context, which the verifier refuses.
#[inline(always)]
fn source(lookup: *const bpf_sk_lookup, family: u32) -> ExemptKey {
    // SAFETY: as in `run`.
    let (v4, words) = unsafe {
        let words = (&raw const (*lookup).remote_ip6).cast::<u32>();
        (
            (&raw const (*lookup).remote_ip4).read_volatile(),
            [
                words.read_volatile(),
                words.add(1).read_volatile(),
                words.add(2).read_volatile(),
                words.add(3).read_volatile(),
            ],
        )
    };
    if family == INET {
        ExemptKey::v4(v4)
    } else {
        ExemptKey { words }
    }
}

#[inline(always)]
fn stale_heartbeat(noted: *mut Noted) -> *mut u64 {
    // SAFETY: of a map value that the verifier bounds.
    unsafe { &raw mut (*noted).stale_heartbeat_ns }
}

#[inline(always)]
fn full_generation(noted: *mut Noted) -> *mut u64 {
    // SAFETY: as above.
    unsafe { &raw mut (*noted).full_generation }
}

#[inline(always)]
fn missing_generation(noted: *mut Noted) -> *mut u64 {
    // SAFETY: as above.
    unsafe { &raw mut (*noted).missing_generation }
}
