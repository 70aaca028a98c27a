//! Types shared by the agent and its BPF programs: the ABI version, the table of counters and the values of maps.
//!
//! Everything here crosses the boundary between two separately compiled programs (and, with pinned maps, between two
//! releases), so layouts are fixed: `repr(C)`, size and alignment asserted at compile time.
#![cfg_attr(not(test), no_std)]

mod counters;
mod lookup;
mod shortcut;
mod splice;

pub use counters::Counter;
pub use lookup::LookupState;
pub use shortcut::{
    SHORTCUT_NOTE_PROGRAM, SHORTCUT_PROGRAM, SHORTCUT_SCOPE_MAP, SHORTCUT_SLOW_MAP,
    SHORTCUT_SOCKETS, SHORTCUT_SOCKS_MAP, ShortcutKey, ShortcutScope,
};
pub use splice::{
    SPLICE_EVENTS_MAP, SPLICE_FLOWS_MAP, SPLICE_PROGRAM, SPLICE_SOCKETS, SPLICE_SOURCES_MAP,
    SPLICE_STEP, SPLICE_TARGETS_MAP,
};

/// Version of everything that the agent and the BPF object agree on: map names, key and value layouts, the order of
/// [`Counter`]. Raise it with every change of those; the agent refuses an object of another version.
pub const ABI_VERSION: u32 = 2;

/// ELF section, and therefore map, in which the BPF object carries its [`ABI_VERSION`]. Map names have at most 15
/// bytes (`BPF_OBJ_NAME_LEN` in the kernel's `include/uapi/linux/bpf.h`, less the terminator).
pub const ABI_SECTION: &str = ".rodata.mvp_abi";

/// Name of the per-CPU array of [`Counter`] values (`u64`, index [`Counter::index`]).
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Name of the array of one [`LookupState`].
pub const LOOKUP_STATE_MAP: &str = "LOOKUP_STATE";

/// Name of the `sk_lookup` program.
pub const STEER_PROGRAM: &str = "steer";

const _: () =
    assert!(ABI_SECTION.len() <= 15 && COUNTERS_MAP.len() <= 15 && LOOKUP_STATE_MAP.len() <= 15);
