//! Types shared by the agent and its BPF programs: the ABI version, the table of counters and the values of maps.
//!
//! Everything here crosses the boundary between two separately compiled programs (and, with pinned maps, between two
//! releases), so layouts are fixed: `repr(C)`, size and alignment asserted at compile time.
#![cfg_attr(not(test), no_std)]
#![warn(clippy::indexing_slicing)]

mod counters;
mod guard;
mod lookup;
mod route;
mod shortcut;
mod splice;
mod steer;

pub use counters::Counter;
pub use guard::{GuardState, Noted, Pulse, Reason};
pub use lookup::LookupState;
pub use route::{
    NAMES, ROUTES_MAX, RouteKey, RouteValue, SERVERS_MAX, ServerValue, TEXT, TableHead, VERBS,
};
pub use shortcut::{
    SHORTCUT_NOTE_PROGRAM, SHORTCUT_PROGRAM, SHORTCUT_SCOPE_MAP, SHORTCUT_SLOW_MAP,
    SHORTCUT_SOCKETS, SHORTCUT_SOCKS_MAP, ShortcutKey, ShortcutScope,
};
pub use splice::{
    SPLICE_EVENTS_MAP, SPLICE_FLOWS_MAP, SPLICE_PROGRAM, SPLICE_SOCKETS, SPLICE_SOURCES_MAP,
    SPLICE_STEP, SPLICE_TARGETS_MAP, SpliceFlow,
};
pub use steer::{ExemptKey, ExemptValue, LocalKey, LocalValue, SteerKey};

/// Version of everything that the agent and the BPF object agree on: map names, key and value layouts, the order of
/// [`Counter`]. Raise it with every change of those; the agent refuses an object of another version.
pub const ABI_VERSION: u32 = 4;

/// ELF section, and therefore map, in which the BPF object carries its [`ABI_VERSION`]. Map names have at most 15
/// bytes (`BPF_OBJ_NAME_LEN` in the kernel's `include/uapi/linux/bpf.h`, less the terminator).
pub const ABI_SECTION: &str = ".rodata.mvp_abi";

/// Name of the per-CPU array of [`Counter`] values (`u64`, index [`Counter::index`]).
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Name of the array of one [`LookupState`].
pub const LOOKUP_STATE_MAP: &str = "LOOKUP_STATE";

/// Name of the array of one [`GuardState`].
pub const GUARD_MAP: &str = "GUARD";

/// Name of the array of one [`Pulse`].
pub const PULSE_MAP: &str = "PULSE";

/// Name of the array of one `u64`: lookups steered since the maps were made.
pub const STEERED_MAP: &str = "STEERED";

/// Name of the array of one `u64`: the number of the agent that may write, another one with each that installs itself. Name and form stay
/// whatever [`ABI_VERSION`] is: it is how an agent learns that one of another release has taken over.
pub const OWNER_MAP: &str = "OWNER";

/// Name of the array of one [`Noted`].
pub const NOTED_MAP: &str = "NOTED";

/// Name of the hash from [`SteerKey`] to an unused `u32`.
pub const STEER_PORTS_MAP: &str = "STEER_PORTS";

/// Name of the hash from [`ExemptKey`] to [`ExemptValue`].
pub const EXEMPT_MAP: &str = "EXEMPT";

/// Name of the longest-prefix trie from [`LocalKey`] to [`LocalValue`]: who is steered also while the guard is idle.
pub const LOCAL_SOURCES_MAP: &str = "LOCAL_SOURCES";

/// Most networks and addresses in the trie of local sources.
pub const LOCAL_SOURCES_MAX: u32 = 2048;

/// Name of the map of the agent's listening sockets: index [`LISTENER_V4`] and [`LISTENER_V6`].
pub const LISTENERS_MAP: &str = "LISTENERS";

/// Name of the array of one [`TableHead`].
pub const TABLE_MAP: &str = "TABLE";

/// Name of the hash from [`RouteKey`] to [`RouteValue`].
pub const ROUTES_MAP: &str = "ROUTES";

/// Name of the array of [`ServerValue`].
pub const SERVERS_MAP: &str = "SERVERS";

/// Index of the socket that takes IPv4 connections.
pub const LISTENER_V4: u32 = 0;

/// Index of the socket that takes IPv6 connections.
pub const LISTENER_V6: u32 = 1;

/// Name of the `sk_lookup` program.
pub const STEER_PROGRAM: &str = "steer";

const _: () =
    assert!(ABI_SECTION.len() <= 15 && COUNTERS_MAP.len() <= 15 && LOOKUP_STATE_MAP.len() <= 15);
const _: () = assert!(LOCAL_SOURCES_MAP.len() <= 15);
