//! The guard's state in the kernel, the agent's sign of life, and the rules that read them.
//!
//! Three maps, because each has one writer that must not overwrite another's: [`GuardState`] (arm and disarm), [`Pulse`]
//! (the heartbeat) and the owner's number (whoever installed last).

/// Value of the one-entry guard array. All zero, as the kernel makes it, is idle.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct GuardState {
    /// [`Self::IDLE`] or [`Self::ARMED`]; the program takes any other value for idle.
    pub state: u32,
    /// A [`Reason`] as `u32`.
    pub reason: u32,
    /// Counts every change of the guard and of the listeners.
    pub generation: u64,
    /// When it was armed, in nanoseconds of CLOCK_MONOTONIC; 0 while idle.
    pub armed_since_ns: u64,
}

impl GuardState {
    /// Connections go to kube-apiserver.
    pub const IDLE: u32 = 0;
    /// Connections go to the agent, if it lives.
    pub const ARMED: u32 = 1;
}

/// Value of the one-entry pulse array: one map update each beat.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Pulse {
    /// When the agent last showed that it works, in nanoseconds of CLOCK_MONOTONIC (`bpf_ktime_get_ns`); 0: never.
    pub heartbeat_ns: u64,
    /// The program steers while its count of steered lookups is below this: the room that the agent's accept queue had at
    /// the last beat. A listener whose queue is full drops SYNs, which nobody else would then answer.
    pub admit_until: u64,
}

impl Pulse {
    /// A pulse older than this, in nanoseconds, is an agent that hangs.
    pub const STALE_AFTER_NS: u64 = 1_000_000_000;

    /// Whether the pulse is younger than [`Self::STALE_AFTER_NS`] at `now_ns`. A time of the future by more than that is no
    /// sign of life either: a value that somebody mangled must not keep a dead agent in the path.
    #[inline(always)]
    pub const fn is_fresh(heartbeat_ns: u64, now_ns: u64) -> bool {
        heartbeat_ns != 0 && heartbeat_ns.abs_diff(now_ns) < Self::STALE_AFTER_NS
    }
}

/// Value of the one-entry array of what has been logged, so that each is logged once a transition.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Noted {
    /// The heartbeat that was found stale.
    pub stale_heartbeat_ns: u64,
    /// Guard generation in which a listener was missing.
    pub missing_generation: u64,
    /// Guard generation in which there was no room.
    pub full_generation: u64,
}

/// Declares the reasons with their codes, which are ABI, and their texts.
macro_rules! reasons {
    ($($variant:ident = $code:literal, $text:literal;)+) => {
        /// Why the guard is in its state.
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $text] $variant = $code),+,
            /// not given
            #[default]
            None = 0,
        }

        impl Reason {
            /// Every reason with a code of its own.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The reason of this code; of a code that this release does not know, [`Self::None`].
            pub const fn from_code(code: u32) -> Self {
                match code { $($code => Self::$variant,)+ _ => Self::None }
            }

            /// The reason in a few words.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::None => "not given" }
            }
        }
    };
}

reasons! {
    RoutesDiffer = 1, "servers serve different resources";
    VersionsDiffer = 2, "servers run different versions";
    ServerLost = 3, "a server's connection broke or it stopped being ready";
    LeaseChanged = 4, "a server's identity lease changed its holder";
    ManifestChanged = 5, "the static pod manifest changed";
    Operator = 6, "an operator said so";
    Settled = 7, "all servers are ready and serve the same";
    Draining = 8, "the agent is stopping";
    Starting = 9, "the agent has just started";
    AgentArmed = 10, "another agent saw a sign";
}

impl Reason {
    /// The code in [`GuardState::reason`].
    pub const fn code(self) -> u32 {
        self as u32
    }
}

const _: () = assert!(size_of::<GuardState>() == 24 && align_of::<GuardState>() == 8);
const _: () = assert!(size_of::<Pulse>() == 16 && align_of::<Pulse>() == 8);
const _: () = assert!(size_of::<Noted>() == 24 && align_of::<Noted>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_is_fresh_for_a_second_around_now() {
        let second = Pulse::STALE_AFTER_NS;
        let now = 10 * second;
        assert!(Pulse::is_fresh(now, now));
        assert!(Pulse::is_fresh(now - second + 1, now));
        assert!(!Pulse::is_fresh(now - second, now));
        assert!(Pulse::is_fresh(now + second - 1, now));
        assert!(!Pulse::is_fresh(now + second, now));
        assert!(
            !Pulse::is_fresh(0, second / 2),
            "never, soon after the machine's start"
        );
        assert!(!Pulse::is_fresh(u64::MAX, now));
    }

    #[test]
    fn reasons_keep_their_codes() {
        for (i, &reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.code() as usize, i + 1, "{reason:?}");
            assert_eq!(Reason::from_code(reason.code()), reason);
            assert!(!reason.as_str().is_empty());
        }
        assert_eq!(Reason::from_code(0), Reason::None);
        assert_eq!(Reason::from_code(u32::MAX), Reason::None);
    }
}
