//! Latencies from a microsecond to a minute, three significant digits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// A histogram of durations from 1 us to 1 minute, exact to 0.1 %.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// Without any value.
    pub fn new() -> Self {
        // Constant bounds: the only errors of the constructor are bounds that contradict each other.
        Self(Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("constant bounds"))
    }

    /// A value beyond a minute counts as a minute.
    pub fn record(&mut self, value: Duration) {
        self.0
            .saturating_record(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    /// In microseconds; 0 without any value. `quantile` is from 0 to 1.
    pub fn micros(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut latency = Latency::new();
        (1..=100).for_each(|n| latency.record(Duration::from_micros(n)));
        latency.record(Duration::from_secs(3600));
        assert!(
            (latency.micros(0.5) - 51.0).abs() < 0.5,
            "{}",
            latency.micros(0.5)
        );
        assert!(
            (latency.micros(1.0) - 60e6).abs() < 60e6 * 0.002,
            "{}",
            latency.micros(1.0)
        );
        assert_eq!(latency.count(), 101);
        assert_eq!(Latency::new().micros(0.5), 0.0);
    }
}
