//! All maps, and the few ways to touch them. Their names and layouts are `mvp-common`'s ABI.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf, SockHash},
};
use mvp_common::{ABI_VERSION, Counter, LookupState, SHORTCUT_SOCKETS, SPLICE_SOCKETS, ShortcutKey, ShortcutScope};

/// The version that this object was built with; the agent compares it before it attaches anything.
#[used]
#[unsafe(link_section = ".rodata.mvp_abi")]
#[unsafe(no_mangle)]
static MVP_ABI_VERSION: u32 = ABI_VERSION;

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

#[map]
static LOOKUP_STATE: Array<LookupState> = Array::with_max_entries(1, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the verifier has seen the null check; the slot is this CPU's own and programs do not migrate.
        unsafe { *value = (*value).wrapping_add(1) };
    }
}

/// Stores what `first` returns if nothing has been stored yet, and says whether it did. Two CPUs at the very same time
/// may both be told so: the caller only logs. (An atomic exchange would need a 5.12 kernel.)
#[inline(always)]
pub fn note_first_lookup(first: impl FnOnce() -> LookupState) -> bool {
    let Some(state) = LOOKUP_STATE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the verifier has seen the null check; volatile because other CPUs write it.
    if unsafe { (&raw const (*state).first_ns).read_volatile() } != 0 {
        return false;
    }
    // SAFETY: as above.
    unsafe { state.write_volatile(first()) };
    true
}

/// Joined sockets: what they receive goes through the `splice` program, which is attached to this map.
#[map]
static SPLICE_SOURCES: SockHash<u64> = SockHash::with_max_entries(SPLICE_SOCKETS, 0);

/// Cookie of a joined socket -> the socket at the other end.
#[map]
pub static SPLICE_TARGETS: SockHash<u64> = SockHash::with_max_entries(SPLICE_SOCKETS, 0);

/// Cookie of a joined socket -> bytes sent on. Entries are made by the agent only, so none is allocated in advance.
#[map]
pub static SPLICE_FLOWS: HashMap<u64, u64> =
    HashMap::with_max_entries(SPLICE_SOCKETS, BPF_F_NO_PREALLOC);

#[map]
pub static SPLICE_EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// Adds `amount` to a counter of this CPU.
#[inline(always)]
pub fn add(counter: Counter, amount: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the verifier has seen the null check; the slot is this CPU's own and programs do not migrate.
        unsafe { *value = (*value).wrapping_add(amount) };
    }
}

#[map]
pub static SHORTCUT_SOCKS: SockHash<ShortcutKey> = SockHash::with_max_entries(SHORTCUT_SOCKETS, 0);

#[map]
pub static SHORTCUT_SLOW: HashMap<ShortcutKey, u8> =
    HashMap::with_max_entries(SHORTCUT_SOCKETS, 0);

#[map]
pub static SHORTCUT_SCOPE: Array<ShortcutScope> = Array::with_max_entries(1, 0);
