//! The one table of kernel counters. The BPF programs use a counter's index in a per-CPU array, the agent's metrics its
//! name and help text.

/// Declares the counters in index order. The order is ABI: append, and raise [`crate::ABI_VERSION`].
macro_rules! counters {
    ($($variant:ident, $name:literal, $help:literal;)+) => {
        /// A count kept by the BPF programs: a monotonic `u64` per CPU.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u32)]
        pub enum Counter {
            $(#[doc = $help] $variant),+
        }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The counter's name in metrics, without prefix and unit.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The counter's help text in metrics.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),+ }
            }
        }
    };
}

counters! {
    Lookups, "lookups", "Socket lookups seen by the sk_lookup program";
    PassProtocol, "pass_protocol", "Lookups passed because they are not TCP";
    PassIdle, "pass_idle", "TCP lookups of the steered port passed because the guard is idle and the client is not on this node";
    PassPort, "pass_port", "TCP lookups passed because their port is not steered";
    PassStale, "pass_stale", "TCP lookups passed because the agent showed no sign of life for a second";
    PassExemptOwn, "pass_exempt_own", "TCP lookups passed because they come from the agent itself";
    PassExemptPeer, "pass_exempt_peer", "TCP lookups passed because they come from a peer's agent";
    PassFull, "pass_full", "TCP lookups passed because the agent's accept queue has no room";
    PassNoListener, "pass_no_listener", "TCP lookups passed because the agent does not listen";
    PassAssignError, "pass_assign_error", "TCP lookups passed because the kernel refused the agent's listener";
    Steered, "steered", "TCP lookups given to the agent's listener while the guard is armed";

    SpliceRedirected, "splice_redirected", "Segments of joined connections sent on in the kernel";
    SpliceMissing, "splice_missing", "Segments of joined connections without a socket to send them to, left to the agent";
    SpliceBytes, "splice_bytes", "Bytes of joined connections sent on in the kernel";

    ShortcutNoted, "shortcut_noted", "Ends of connections to the local server noted for the short-cut";
    ShortcutRedirected, "shortcut_redirected", "Messages handed over past TCP";
    ShortcutSlow, "shortcut_slow", "Messages left to TCP because the other end was not noted in time";

    SteeredLocal, "steered_local", "TCP lookups given to the agent's listener while the guard is idle, because the client is on this node";

    SpliceRepeated, "splice_repeated", "Bytes of joined connections that had come before, in a segment with new ones, and were passed on once";
}

impl Counter {
    /// Number of counters: the size of the per-CPU array.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// The counter's index in the per-CPU array.
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn indexes_are_dense_and_in_order() {
        for (i, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index() as usize, i, "{}", counter.name());
        }
        assert_eq!(Counter::COUNT as usize, Counter::ALL.len());
    }

    #[test]
    fn names_are_unique_and_fit_prometheus() {
        let names: HashSet<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Counter::ALL.len());
        for counter in Counter::ALL {
            assert!(
                counter
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{}",
                counter.name()
            );
            assert!(
                !counter.help().is_empty() && !counter.help().ends_with('.'),
                "{}",
                counter.name()
            );
        }
    }
}
