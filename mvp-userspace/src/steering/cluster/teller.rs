//! Which of an agent's own signs are published for the others, and how often. Pure; time is passed in.

use std::time::{Duration, Instant};

use crate::steering::GuardReasons;

/// At most one annotation is written in this time: a server that comes and goes is no reason to write all the time.
const APART: Duration = Duration::from_secs(10);

/// What was published.
#[derive(Debug, Default)]
pub(super) struct SignPublisher {
    /// The signs of the last observation.
    seen: GuardReasons,
    /// The signs that are new since something was last published.
    untold: GuardReasons,
    told_at: Option<Instant>,
}

impl SignPublisher {
    /// Takes the signs that are seen now, and returns those that are to be published. A sign that lasts is published once: the others see
    /// for themselves whether it still holds.
    pub(super) fn next(&mut self, own: GuardReasons, now: Instant) -> Option<GuardReasons> {
        self.untold = self.untold.union(own.without(self.seen));
        self.seen = own;
        let soon = |at| now.saturating_duration_since(at) < APART;
        if self.untold.is_empty() || self.told_at.is_some_and(soon) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::GuardReason;

    #[test]
    fn each_sign_is_told_once_when_it_comes_and_no_more_often_than_the_others_can_read() {
        let (manifest, lease) = (
            GuardReasons::one(GuardReason::ManifestChanged),
            GuardReasons::one(GuardReason::LeaseChanged),
        );
        let none = GuardReasons::EMPTY;
        let mut teller = SignPublisher::default();
        let start = Instant::now();
        let mut at = |seconds, own| teller.next(own, start + Duration::from_secs(seconds));
        assert_eq!(at(0, none), None);
        assert_eq!(at(1, manifest), Some(manifest));
        // It stands, and another comes for a moment.
        assert_eq!(at(2, manifest), None);
        assert_eq!(at(3, manifest.union(lease)), None);
        assert_eq!(at(4, none), None);
        assert_eq!(at(11, none), Some(lease));
        assert_eq!(at(30, none), None);
        // It comes again.
        assert_eq!(at(31, manifest), Some(manifest));
    }
}
