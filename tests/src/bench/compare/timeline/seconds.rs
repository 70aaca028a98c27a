//! Requests, and what they make of each second.

use std::time::Duration;

use serde::Serialize;

/// What became of a request, for its client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Ok,
    /// Told that the type is not there, which is.
    False404,
    /// Any other answer, or none.
    Error,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it was due, since the load began.
    pub due: Duration,
    /// From then until its answer was complete, or given up.
    pub took: Duration,
    pub verdict: Verdict,
}

/// The requests that were due in one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Second {
    pub second: u64,
    pub requests: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub false_404: u64,
    pub errors: u64,
    /// Sorted, ms.
    #[serde(skip)]
    pub latencies: Vec<f64>,
}

/// A row for each second from the first to the last, also for those without a request.
pub(super) fn by_second(samples: &[Sample]) -> Vec<Second> {
    let last = samples.iter().map(|sample| sample.due.as_secs()).max();
    let mut seconds: Vec<Second> = (0..last.map_or(0, |last| last + 1))
        .map(|second| Second {
            second,
            ..Second::default()
        })
        .collect();
    for sample in samples {
        let second = &mut seconds[sample.due.as_secs() as usize];
        second.requests += 1;
        second.latencies.push(sample.took.as_secs_f64() * 1e3);
        match sample.verdict {
            Verdict::Ok => {}
            Verdict::False404 => second.false_404 += 1,
            Verdict::Error => second.errors += 1,
        }
    }
    for second in &mut seconds {
        second.latencies.sort_by(f64::total_cmp);
        second.p50_ms = percentile(&second.latencies, 0.5);
        second.p99_ms = percentile(&second.latencies, 0.99);
        second.p999_ms = percentile(&second.latencies, 0.999);
    }
    seconds
}

/// The smallest value that at least this share of the sorted values does not exceed (nearest rank); 0 of none.
pub(super) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 100.0);
        assert_eq!(percentile(&values, 0.99), 198.0);
        assert_eq!(percentile(&values, 0.999), 200.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&[7.0], 0.999), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_request_belongs_to_the_second_in_which_it_was_due() {
        let sample = |due, took, verdict| Sample {
            due: Duration::from_millis(due),
            took: Duration::from_millis(took),
            verdict,
        };
        let seconds = by_second(&[
            sample(100, 5, Verdict::Ok),
            // Three seconds late, and all of them are this second's.
            sample(900, 3000, Verdict::Error),
            sample(2000, 1, Verdict::False404),
        ]);
        assert_eq!(seconds.len(), 3);
        assert_eq!((seconds[0].requests, seconds[0].errors), (2, 1));
        assert_eq!((seconds[0].p50_ms, seconds[0].p99_ms), (5.0, 3000.0));
        assert_eq!((seconds[1].requests, seconds[1].p99_ms), (0, 0.0));
        assert_eq!(seconds[2].false_404, 1);
        assert!(by_second(&[]).is_empty());
    }
}
