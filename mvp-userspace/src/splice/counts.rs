//! The one table of what happened to pairs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::flow::Flowing;
use super::{End, Mode, PairOutcome, Reason};

macro_rules! counts {
    ($($variant:ident, $name:literal, $help:literal;)+) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(usize)]
        pub enum Count {
            $(#[doc = $help] $variant),+
        }

        impl Count {
            /// Every count, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in metrics, without prefix and unit.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// The help text in metrics.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help),+ }
            }
        }

        /// The counts of one [`super::Splicer`].
        #[derive(Debug, Default)]
        pub struct Counts([AtomicU64; Count::ALL.len()]);
    };
}

counts! {
    Sockmap, "sockmap", "Pairs moved by the kernel";
    Splice, "splice", "Pairs moved by splice(2)";
    Copy, "copy", "Pairs copied";
    Unavailable, "unavailable", "Pairs copied because the kernel part is not loaded";
    Cap, "cap", "Pairs copied because as many as allowed were in the kernel";
    Ended, "ended", "Pairs copied because a side had already ended";
    Busy, "busy", "Pairs copied because there was never a moment without unread bytes";
    Refused, "refused", "Pairs copied because the kernel refused the sockets";
    Backlog, "backlog", "Pairs taken out of the kernel because a reader was too slow";
    ToBulk, "bulk", "Times that a pair changed to the mode for bulk";
    ToMessages, "messages", "Times that a pair changed to the mode for messages";
    Broken, "broken", "Pairs that a side broke off";
    Stopped, "stopped", "Pairs closed by the agent";
    BytesAb, "bytes_first", "Bytes passed on from the first side";
    BytesBa, "bytes_second", "Bytes passed on from the second side";
}

impl Counts {
    /// The value now.
    pub fn get(&self, count: Count) -> u64 {
        // There is a number for each count.
        let number = self.0.get(count as usize);
        number.map_or(0, |number| number.load(Ordering::Relaxed))
    }

    /// Every count with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Count, u64)> + '_ {
        Count::ALL.iter().map(|&count| (count, self.get(count)))
    }

    pub(super) fn record(&self, outcome: &PairOutcome) {
        self.add(
            match outcome.mode {
                Mode::Sockmap => Count::Sockmap,
                Mode::Splice => Count::Splice,
                Mode::Copy => Count::Copy,
            },
            1,
        );
        if let Some(reason) = outcome.reason {
            self.add(
                match reason {
                    Reason::Unavailable => Count::Unavailable,
                    Reason::Cap => Count::Cap,
                    Reason::Ended => Count::Ended,
                    Reason::Busy => Count::Busy,
                    Reason::Refused => Count::Refused,
                    Reason::Backlog => Count::Backlog,
                },
                1,
            );
        }
        if outcome.ends.contains(&End::Broken) {
            self.add(Count::Broken, 1);
        }
        if outcome.ends.contains(&End::Stopped) {
            self.add(Count::Stopped, 1);
        }
        let [first, second] = outcome.bytes;
        self.add(Count::BytesAb, first);
        self.add(Count::BytesBa, second);
    }

    /// At the moment of the change: pairs live long.
    pub(super) fn changed(&self, to: Flowing) {
        let count = match to {
            Flowing::Messages => Count::ToMessages,
            Flowing::Bulk => Count::ToBulk,
        };
        self.add(count, 1);
    }

    fn add(&self, count: Count, amount: u64) {
        if let Some(number) = self.0.get(count as usize) {
            number.fetch_add(amount, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_counted_once_under_each_of_its_heads() {
        let counts = Counts::default();
        counts.record(&PairOutcome {
            bytes: [3, 4],
            ends: [End::Broken, End::Reset],
            mode: Mode::Copy,
            reason: Some(Reason::Refused),
        });
        let expected = [
            Count::Copy,
            Count::Refused,
            Count::Broken,
            Count::BytesAb,
            Count::BytesBa,
        ];
        for (count, value) in counts.iter() {
            let want = match count {
                Count::BytesAb => 3,
                Count::BytesBa => 4,
                other => u64::from(expected.contains(&other)),
            };
            assert_eq!(value, want, "{}", count.name());
            assert!(!count.help().ends_with('.'));
        }
    }
}
