//! What the `sk_skb` program and the agent agree on when they join two sockets. All keys are socket cookies
//! (`SO_COOKIE`), which the kernel never uses twice.

/// Name of the `sk_skb` stream verdict program.
pub const SPLICE_PROGRAM: &str = "splice";

/// Name of the socket hash, cookie -> the socket itself, whose members' received data go through the program.
pub const SPLICE_SOURCES_MAP: &str = "SPLICE_SOURCES";

/// Name of the socket hash, cookie -> the socket at the other end: where the program sends what that cookie received.
///
/// Two maps, because a socket is a source and a target at once and ends being them at different times: leaving the map
/// that has the program stops its own direction only, and its backlog as a target is still sent (kernel
/// `net/core/skmsg.c`: `sk_psock_destroy` throws a backlog away; it runs when a socket has left its last map).
pub const SPLICE_TARGETS_MAP: &str = "SPLICE_TARGETS";

/// Name of the hash, cookie -> [`SpliceFlow`].
pub const SPLICE_FLOWS_MAP: &str = "SPLICE_FLOWS";

/// What the program knows of what one socket receives, since it was joined. All zero: nothing yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct SpliceFlow {
    /// Bytes that it has sent on.
    pub redirected: u64,
    /// TCP's number of the byte that comes next, with [`Self::BEGUN`] and [`Self::BROKEN`].
    pub expected: u64,
}

impl SpliceFlow {
    /// In `expected`: there was a segment.
    pub const BEGUN: u64 = 1 << 32;
    /// In `expected`: bytes are missing. Nothing is sent on any more, and the connection has to be broken off.
    pub const BROKEN: u64 = 1 << 33;

    /// Whether bytes are missing.
    pub const fn is_broken(self) -> bool {
        self.expected & Self::BROKEN != 0
    }
}

const _: () = assert!(size_of::<SpliceFlow>() == 16);

/// Name of the ring buffer in which the program puts a cookie (`u64`) each time its flow crosses a multiple of
/// [`SPLICE_STEP`]. The agent then looks whether the other end keeps up: the kernel does not (see `docs/splice.md`).
pub const SPLICE_EVENTS_MAP: &str = "SPLICE_EVENTS";

/// Bytes of a flow between two events: 1 MiB. One wake-up of the agent a MiB costs little against moving a MiB.
pub const SPLICE_STEP: u64 = 1 << 20;

/// Sockets that can be joined at once: two for each pair.
pub const SPLICE_SOCKETS: u32 = 32768;

const _: () = assert!(
    SPLICE_SOURCES_MAP.len() <= 15
        && SPLICE_TARGETS_MAP.len() <= 15
        && SPLICE_FLOWS_MAP.len() <= 15
        && SPLICE_EVENTS_MAP.len() <= 15
);
