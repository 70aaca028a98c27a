//! All maps, and the few ways to touch them. Their names and layouts are `mvp-common`'s ABI.

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, PerCpuArray, RingBuf, SockHash, SockMap, lpm_trie::Key as TrieKey,
    },
    programs::SkLookupContext,
};
use mvp_common::{
    ABI_VERSION, Counter, ExemptKey, ExemptValue, GuardState, LOCAL_SOURCES_MAX, LocalKey,
    LocalValue, LookupState, Noted, Pulse, ROUTES_MAX, RouteKey, RouteValue, SERVERS_MAX,
    SHORTCUT_SOCKETS, SPLICE_SOCKETS, ServerValue, ShortcutKey, ShortcutScope, SpliceFlow,
    SteerKey, TableHead,
};

/// The version that this object was built with; the agent compares it before it attaches anything.
#[used]
#[unsafe(link_section = ".rodata.mvp_abi")]
#[unsafe(no_mangle)]
static MVP_ABI_VERSION: u32 = ABI_VERSION;

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

#[map]
static LOOKUP_STATE: Array<LookupState> = Array::with_max_entries(1, 0);

#[map]
static GUARD: Array<GuardState> = Array::with_max_entries(1, 0);

#[map]
static PULSE: Array<Pulse> = Array::with_max_entries(1, 0);

#[map]
static STEERED: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static OWNER: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static NOTED: Array<Noted> = Array::with_max_entries(1, 0);

#[map]
static STEER_PORTS: HashMap<SteerKey, u32> = HashMap::with_max_entries(16, BPF_F_NO_PREALLOC);

/// Room for servers with several addresses, twice over while one set replaces another.
#[map]
static EXEMPT: HashMap<ExemptKey, ExemptValue> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Who is steered also while the guard is idle; the longest prefix decides.
#[map]
static LOCAL_SOURCES: LpmTrie<LocalKey, LocalValue> =
    LpmTrie::with_max_entries(LOCAL_SOURCES_MAX, BPF_F_NO_PREALLOC);

#[map]
static LISTENERS: SockMap = SockMap::with_max_entries(2, 0);

// No program reads these three: they keep the route table for the agent's next process.
#[map]
static TABLE: Array<TableHead> = Array::with_max_entries(1, 0);

#[map]
static ROUTES: HashMap<RouteKey, RouteValue> =
    HashMap::with_max_entries(2 * ROUTES_MAX, BPF_F_NO_PREALLOC);

#[map]
static SERVERS: Array<ServerValue> = Array::with_max_entries(2 * SERVERS_MAX, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the verifier has seen the null check; the slot is this CPU's own and programs do not migrate.
        unsafe { *value = (*value).wrapping_add(1) };
    }
}

/// Stores what `first` returns if nothing has been stored yet, and says whether it did. Two CPUs at the very same time
/// may both get this answer: the caller only logs. (An atomic exchange would need a 5.12 kernel.)
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

/// Whether the guard is armed, and its generation. Volatile reads here and below: the agent writes at any time.
#[inline(always)]
pub fn guard() -> (bool, u64) {
    let Some(guard) = GUARD.get_ptr(0) else {
        return (false, 0);
    };
    // SAFETY: the verifier has seen the null check.
    let (state, generation) = unsafe {
        (
            (&raw const (*guard).state).read_volatile(),
            (&raw const (*guard).generation).read_volatile(),
        )
    };
    (state == GuardState::ARMED, generation)
}

/// Whether a connection from this source address is steered although the guard is idle.
#[inline(always)]
pub fn steers_while_idle(source: ExemptKey) -> bool {
    let Some(value) = LOCAL_SOURCES.get(TrieKey::new(128, source)) else {
        return false;
    };
    // SAFETY: the reference comes from the map and is valid for this run; the agent may write the value meanwhile.
    let flags = unsafe { (&raw const value.flags).read_volatile() };
    flags & LocalValue::STEERED != 0
}

/// Whether this local port (host byte order) is steered.
#[inline(always)]
pub fn steers(port: u32) -> bool {
    STEER_PORTS.get_ptr(SteerKey { port }).is_some()
}

/// The agent's last sign of life.
#[inline(always)]
pub fn pulse() -> Pulse {
    let Some(pulse) = PULSE.get_ptr(0) else {
        return Pulse::default();
    };
    // SAFETY: the verifier has seen the null check.
    unsafe {
        Pulse {
            heartbeat_ns: (&raw const (*pulse).heartbeat_ns).read_volatile(),
            admit_until: (&raw const (*pulse).admit_until).read_volatile(),
        }
    }
}

/// What is exempt from this source address.
#[inline(always)]
pub fn exempt(source: ExemptKey) -> Option<ExemptValue> {
    let value = EXEMPT.get_ptr(source)?;
    // SAFETY: the verifier has seen the null check. Without preallocation an entry that goes is freed after this run,
    // and never reused under it.
    Some(unsafe { value.read() })
}

/// Lookups steered so far.
#[inline(always)]
pub fn steered() -> u64 {
    match STEERED.get_ptr(0) {
        // SAFETY: the verifier has seen the null check.
        Some(count) => unsafe { count.read_volatile() },
        None => u64::MAX,
    }
}

/// One more lookup was steered. `core` has no atomic add for this target, though every kernel has had one (BPF_XADD).
#[inline(always)]
pub fn add_steered() {
    if let Some(count) = STEERED.get_ptr_mut(0) {
        // SAFETY: the verifier has seen the null check; map values are aligned to eight bytes.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) };
    }
}

/// Gives the lookup to the listener in this slot; the error is the helper's (`-ENOENT`: the slot is empty).
#[inline(always)]
pub fn assign_listener(ctx: &SkLookupContext, slot: u32, flags: u64) -> Result<(), i32> {
    LISTENERS.redirect_sk_lookup(ctx, slot, flags)
}

/// Stores `value` in the field of [`Noted`] that `field` picks, and says whether it was another one before.
#[inline(always)]
pub fn note(value: u64, field: impl FnOnce(*mut Noted) -> *mut u64) -> bool {
    let Some(noted) = NOTED.get_ptr_mut(0) else {
        return false;
    };
    let field = field(noted);
    // SAFETY: the verifier has seen the null check, and `field` stays within the value.
    unsafe {
        let new = field.read_volatile() != value;
        if new {
            field.write_volatile(value);
        }
        new
    }
}
/// Joined sockets: what they receive goes through the `splice` program, which is attached to this map.
#[map]
static SPLICE_SOURCES: SockHash<u64> = SockHash::with_max_entries(SPLICE_SOCKETS, 0);

/// Cookie of a joined socket -> the socket at the other end.
#[map]
pub static SPLICE_TARGETS: SockHash<u64> = SockHash::with_max_entries(SPLICE_SOCKETS, 0);

/// Cookie of a joined socket -> what it received. Entries are made by the agent only, so none is allocated in advance.
#[map]
pub static SPLICE_FLOWS: HashMap<u64, SpliceFlow> =
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
pub static SHORTCUT_SLOW: HashMap<ShortcutKey, u8> = HashMap::with_max_entries(SHORTCUT_SOCKETS, 0);

#[map]
pub static SHORTCUT_SCOPE: Array<ShortcutScope> = Array::with_max_entries(1, 0);
