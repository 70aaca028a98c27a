//! What flows over a pair, messages or bulk: a pure state machine over what TCP counted. `sense` feeds it.
//!
//! What moves messages best is worst for bulk (`docs/splice.md`), and one connection carries both: a client lists, then watches. So it
//! is not decided once for a connection. Bulk is seen after two [`RUN`]s at most, since it is over in a few milliseconds;
//! its end is believed only after a silence of bulk, which grows if it was believed too early.

use std::time::Duration;

/// What flows over a pair at the moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flowing {
    /// Requests and answers, watches, terminals.
    Messages,
    /// Long lists, files, logs: much at once, in one direction.
    Bulk,
}

/// What TCP had counted for a pair at one moment; index 0 is what the first side had sent, index 1 the second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sample {
    /// Since any moment, the same for all samples of a pair.
    pub at: Duration,
    /// Bytes received in order.
    pub bytes: [u64; 2],
    /// Segments with data; the kernel counts modulo 2^32.
    pub segments: [u32; 2],
}

/// Follows one pair.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    flowing: Flowing,
    /// Where the present run began.
    mark: Sample,
    /// When the last run of bulk ended.
    bulk: Duration,
    /// When the last bulk was believed to be over.
    over: Option<Duration>,
    /// The shortest silence of bulk that is believed.
    calm: Duration,
    /// For how long there must be no bulk now: [`Self::calm`], or a multiple of it.
    patience: Duration,
}

/// Bytes in one direction that are looked at together. Bulk has to be seen while it flows, and a list of a few megabytes is over in
/// milliseconds.
pub const RUN: u64 = 64 << 10;
/// A run that takes longer is no bulk: 3.2 MB/s. So little is moved by any mode without effort.
pub const FAST: Duration = Duration::from_millis(20);
/// Fewer bytes for each segment of the other direction are answers to requests. Acknowledgements carry no data and do not count; a
/// receiver of bulk over HTTP/2 sends a window update for each 16 KiB and more.
pub const EXCHANGE: u64 = 8 << 10;
/// The longest silence of bulk that is waited for, as a multiple of the shortest.
pub const LONGEST: u32 = 64;

impl Judge {
    /// Messages, until more is known. `calm` is the shortest silence of bulk after which messages are believed to flow again.
    pub const fn new(begin: Sample, calm: Duration) -> Self {
        Self {
            flowing: Flowing::Messages,
            mark: begin,
            bulk: begin.at,
            over: None,
            calm,
            patience: calm,
        }
    }

    /// What flows, as far as is known.
    pub const fn flowing(&self) -> Flowing {
        self.flowing
    }

    /// When to look again even if nothing moves.
    pub fn due(&self) -> Option<Duration> {
        match self.flowing {
            Flowing::Messages => None,
            Flowing::Bulk => Some(self.bulk.saturating_add(self.patience)),
        }
    }

    /// Looks at the counts of a later moment. Says what flows if that has changed.
    pub fn see(&mut self, now: Sample) -> Option<Flowing> {
        let run = self.mark.until(&now);
        if run.bytes.iter().any(|&bytes| bytes >= RUN) {
            self.mark = now;
            if run.is_bulk() {
                return self.saw_bulk(now.at);
            }
        }
        let over = self.due().is_some_and(|due| now.at >= due);
        over.then(|| {
            self.flowing = Flowing::Messages;
            self.over = Some(now.at);
            self.mark = now;
            self.flowing
        })
    }

    fn saw_bulk(&mut self, at: Duration) -> Option<Flowing> {
        self.bulk = at;
        if self.flowing == Flowing::Bulk {
            return None;
        }
        self.flowing = Flowing::Bulk;
        if let Some(over) = self.over {
            let early = at.saturating_sub(over) < self.patience;
            self.patience = match early {
                true => (self.patience.saturating_mul(2)).min(self.calm.saturating_mul(LONGEST)),
                false => self.calm,
            };
        }
        Some(self.flowing)
    }
}

impl Sample {
    /// What was counted between this moment and a later one.
    fn until(&self, later: &Self) -> Self {
        let both = |of: fn(&Self) -> [u64; 2]| {
            let ([first, second], [first_later, second_later]) = (of(self), of(later));
            [
                first_later.saturating_sub(first),
                second_later.saturating_sub(second),
            ]
        };
        let [first, second] = self.segments;
        let [first_later, second_later] = later.segments;
        Self {
            at: later.at.saturating_sub(self.at),
            bytes: both(|sample| sample.bytes),
            segments: [
                first_later.wrapping_sub(first),
                second_later.wrapping_sub(second),
            ],
        }
    }

    /// Of a difference: whether either direction had bulk.
    fn is_bulk(&self) -> bool {
        let [first, second] = self.bytes;
        let [first_segments, second_segments] = self.segments;
        let one = |bytes: u64, answers: u32| {
            let fast = u128::from(bytes) * FAST.as_nanos() >= u128::from(RUN) * self.at.as_nanos();
            bytes >= RUN && fast && bytes >= EXCHANGE * u64::from(answers)
        };
        one(first, second_segments) || one(second, first_segments)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALM: Duration = Duration::from_secs(1);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A pair that can be told what happens on it.
    struct Pair {
        judge: Judge,
        now: Sample,
    }

    impl Pair {
        fn new() -> Self {
            let now = Sample::default();
            let judge = Judge::new(now, CALM);
            Self { judge, now }
        }

        fn wait(&mut self, time: Duration) -> Option<Flowing> {
            self.now.at += time;
            self.judge.see(self.now)
        }

        /// One segment of so many bytes from this side.
        fn segment(&mut self, from: usize, bytes: u64) -> Option<Flowing> {
            self.now.bytes[from] += bytes;
            self.now.segments[from] = self.now.segments[from].wrapping_add(1);
            self.judge.see(self.now)
        }

        fn list(&mut self) -> Option<Flowing> {
            (0..8).filter_map(|_| self.segment(1, RUN / 4)).last()
        }
    }

    #[test]
    fn a_list_is_seen_in_its_second_run_and_over_after_a_second() {
        let mut pair = Pair::new();
        pair.wait(ms(60_000));
        for _ in 0..4 {
            // The run that was begun before, a minute ago.
            assert_eq!(pair.segment(1, RUN / 4), None);
        }
        for _ in 0..3 {
            assert_eq!(pair.segment(1, RUN / 4), None);
        }
        assert_eq!(pair.segment(1, RUN / 4), Some(Flowing::Bulk));
        assert_eq!(pair.judge.due(), Some(ms(61_000)));
        assert_eq!(pair.wait(ms(999)), None);
        assert_eq!(pair.wait(ms(1)), Some(Flowing::Messages));
        assert_eq!(pair.judge.due(), None);
    }

    #[test]
    fn slow_bulk_is_none() {
        let mut pair = Pair::new();
        for _ in 0..100 {
            pair.wait(ms(21));
            assert_eq!(pair.segment(0, RUN), None);
        }
    }

    #[test]
    fn who_lists_again_and_again_changes_more_and_more_rarely() {
        let mut pair = Pair::new();
        let mut changes = 0;
        // A list each 1.5 s, for ten minutes.
        for _ in 0..400 {
            changes += u32::from(pair.list().is_some());
            changes += u32::from(pair.wait(ms(1000)).is_some());
            changes += u32::from(pair.wait(ms(500)).is_some());
        }
        // Once there, and once back after one second; then the patience of two seconds is longer than the pause.
        assert_eq!(changes, 3);
        // It is short again after messages alone for longer than that.
        assert_eq!(pair.wait(ms(2000)), Some(Flowing::Messages));
        pair.wait(ms(2000));
        assert_eq!(pair.list(), Some(Flowing::Bulk));
        assert_eq!(pair.wait(ms(1000)), Some(Flowing::Messages));
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Wait(u64),
        Segment(usize, u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u64..3_000).prop_map(Event::Wait),
            (0usize..2, 1u64..200_000).prop_map(|(from, bytes)| Event::Segment(from, bytes)),
        ]
    }

    proptest! {
        /// Whatever happens: changes alternate, messages follow only a silence of bulk, and bulk only a fast run.
        #[test]
        fn changes_alternate_and_have_their_reason(events in prop::collection::vec(event(), 0..400)) {
            let mut pair = Pair::new();
            let (mut flowing, mut changed) = (Flowing::Messages, Duration::ZERO);
            for event in events {
                let change = match event {
                    Event::Wait(millis) => pair.wait(ms(millis)),
                    Event::Segment(from, bytes) => pair.segment(from, bytes),
                };
                prop_assert_eq!(pair.judge.due().is_some(), pair.judge.flowing() == Flowing::Bulk);
                let Some(change) = change else {
                    prop_assert_eq!(pair.judge.flowing(), flowing);
                    continue;
                };
                prop_assert_ne!(change, flowing);
                prop_assert_eq!(change, pair.judge.flowing());
                match change {
                    Flowing::Messages => prop_assert!(pair.now.at - changed >= CALM),
                    Flowing::Bulk => prop_assert!(matches!(event, Event::Segment(_, _))),
                }
                (flowing, changed) = (change, pair.now.at);
            }
        }

        /// Requests and answers are never bulk, however many and however fast they are.
        #[test]
        fn exchanges_are_messages(
            exchanges in prop::collection::vec((1u64..2_000, 1u64..EXCHANGE, 0u64..2), 1..600),
        ) {
            let mut pair = Pair::new();
            for (request, answer, millis) in exchanges {
                prop_assert_eq!(pair.segment(0, request), None);
                prop_assert_eq!(pair.segment(1, answer), None);
                prop_assert_eq!(pair.wait(ms(millis)), None);
            }
        }

        /// Bulk is seen by its second run whatever came before, and whatever the counts are.
        #[test]
        fn bulk_is_seen_soon(
            before in prop::collection::vec(event(), 0..60),
            from in 0usize..2,
            segment in 1_000u64..RUN,
            start in any::<u32>(),
        ) {
            let mut pair = Pair::new();
            pair.now.segments = [start; 2];
            pair.judge = Judge::new(pair.now, CALM);
            for event in before {
                match event {
                    Event::Wait(millis) => pair.wait(ms(millis)),
                    Event::Segment(from, bytes) => pair.segment(from, bytes),
                };
            }
            for _ in 0..(2 * RUN).div_ceil(segment) + 1 {
                pair.segment(from, segment);
            }
            prop_assert_eq!(pair.judge.flowing(), Flowing::Bulk);
        }
    }
}
