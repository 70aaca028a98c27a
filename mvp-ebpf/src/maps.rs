//! All maps, and the few ways to touch them. Their names and layouts are `mvp-common`'s ABI.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use mvp_common::{ABI_VERSION, Counter, LookupState};

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
