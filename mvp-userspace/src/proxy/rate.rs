//! Allowances that come back with time (token buckets). Pure: time is passed in.

use std::time::Instant;

/// So many events at once, and so many more each second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub burst: f64,
    pub per_second: f64,
}

/// What is left of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    pub(super) fn full(rate: Rate, now: Instant) -> Self {
        Self {
            left: rate.burst,
            at: now,
        }
    }

    /// Takes one. False if none was left.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }

    /// Takes one that was spent already, whether it was left or not. Whoever spends far more than there is waits longer, until
    /// a debt of five times the burst.
    pub(super) fn owe(&mut self, rate: Rate, now: Instant) {
        self.refill(rate, now);
        self.left = (self.left - 1.0).max(-5.0 * rate.burst);
    }

    /// Whether one is left.
    pub(super) fn has_any(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.left >= 1.0
    }

    /// Whether all of it is there again, so that nothing needs to be remembered.
    pub(super) fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.left >= rate.burst
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn debts_are_bounded() {
        let (rate, start) = (
            Rate {
                burst: 10.0,
                per_second: 1.0,
            },
            Instant::now(),
        );
        let mut allowance = Allowance::full(rate, start);
        for _ in 0..30 {
            allowance.owe(rate, start);
        }
        assert!(!allowance.has_any(rate, start + Duration::from_secs(20)));
        assert!(allowance.has_any(rate, start + Duration::from_secs(21)));
        for _ in 0..1000 {
            allowance.owe(rate, start + Duration::from_secs(21));
        }
        assert!(allowance.has_any(rate, start + Duration::from_secs(21 + 51)));
    }

    proptest! {
        /// In any span of time no more pass than the burst and what came back meanwhile.
        #[test]
        fn no_more_pass_than_allowed(
            burst in 1..50_u32,
            per_second in 0..50_u32,
            pauses in proptest::collection::vec(0..2000_u64, 1..200),
        ) {
            let rate = Rate { burst: burst.into(), per_second: per_second.into() };
            let start = Instant::now();
            let mut allowance = Allowance::full(rate, start);
            let (mut now, mut passed) = (start, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                passed += u32::from(allowance.take(rate, now));
                let most = rate.burst + (now - start).as_secs_f64() * rate.per_second;
                prop_assert!(f64::from(passed) <= most + 1e-6);
            }
            let recovered = now + Duration::from_secs(u64::from(burst) + 1);
            prop_assert_eq!(allowance.has_any(rate, recovered), per_second > 0 || f64::from(passed) < rate.burst);
        }
    }
}
