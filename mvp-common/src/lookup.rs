//! What the `sk_lookup` program remembers beside its counters.

/// Value of the one-entry lookup state array.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct LookupState {
    /// When the first lookup after load was seen, in nanoseconds of CLOCK_MONOTONIC (`bpf_ktime_get_ns`); 0: none yet.
    pub first_ns: u64,
    /// Local port of that lookup, in host byte order.
    pub first_local_port: u32,
    /// Its IP protocol number.
    pub first_protocol: u32,
}

const _: () = assert!(size_of::<LookupState>() == 16 && align_of::<LookupState>() == 8);
