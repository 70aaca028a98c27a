//! How aya reads and writes the values of `mvp-common`.

use mvp_common::{
    ExemptKey, ExemptValue, GuardState, LocalValue, LookupState, Noted, Pulse, RouteKey,
    RouteValue, ServerValue, SpliceFlow, SteerKey, TableHead,
};

/// A key or value of `mvp-common`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Shared<T>(pub T);

/// aya's marker for each: `repr(C)`, made of integers, without padding (sizes are asserted in mvp-common).
macro_rules! plain {
    ($($type:ty),+) => {$(
        // SAFETY: as above.
        #[expect(unsafe_code, reason = "aya's marker for plain values")]
        unsafe impl aya::Pod for Shared<$type> {}
    )+};
}

plain!(
    ExemptKey,
    ExemptValue,
    GuardState,
    LocalValue,
    LookupState,
    Noted,
    Pulse,
    RouteKey,
    RouteValue,
    ServerValue,
    SpliceFlow,
    SteerKey,
    TableHead
);
