//! What was counted since the last look, from the counters that the scrape shows: nothing is counted twice, and no request pays for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::history::{Added, Minute, Tally};
use crate::metrics::{Metrics, RequestKey};
use crate::steering::{Ended, RetireTally};

/// Reads them again and again.
pub(super) struct Sampler {
    metrics: Arc<Metrics>,
    tally: Arc<Tally>,
    retired: RetireTally,
    /// The local server's name: what another one answered was forwarded.
    local: String,
    requests: HashMap<RequestKey, u64>,
    retries: u64,
    relayed: u64,
    ended: [u64; Ended::ALL.len()],
    added: (u64, Duration),
}

impl Sampler {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        tally: Arc<Tally>,
        retired: RetireTally,
        local: String,
    ) -> Self {
        Self {
            metrics,
            tally,
            retired,
            local,
            requests: HashMap::new(),
            retries: 0,
            relayed: 0,
            ended: [0; Ended::ALL.len()],
            added: (0, Duration::ZERO),
        }
    }

    /// The agent's own share of the requests since the last call.
    pub(super) fn added(&mut self) -> Added {
        let (requests, time) = self.metrics.added_so_far();
        let before = std::mem::replace(&mut self.added, (requests, time));
        Added {
            requests: requests.saturating_sub(before.0),
            time: time.saturating_sub(before.1),
        }
    }

    /// What was counted since the last call.
    pub(super) fn sample(&mut self, now_ms: u64) -> Minute {
        let (prevented, served_while_down) = self.tally.take();
        let mut counted = Minute {
            minute: now_ms / 60_000,
            prevented,
            served_while_down,
            retries: grown(&mut self.retries, self.metrics.retries()),
            relayed: grown(&mut self.relayed, self.metrics.relayed()),
            ..Minute::default()
        };
        for (key, total) in self.metrics.requests() {
            let before = self.requests.entry(key.clone()).or_default();
            let more = grown(before, total);
            if more > 0 {
                self.request(&key, more, &mut counted);
            }
        }
        for ((outcome, name), before) in Ended::ALL.into_iter().zip(&mut self.ended) {
            let more = grown(before, self.retired.counted(outcome));
            add(&mut counted.retired, name, more);
        }
        counted
    }

    fn request(&self, key: &RequestKey, more: u64, counted: &mut Minute) {
        add(&mut counted.requests, key.decision, more);
        match (&*key.server, key.code) {
            ("", 500..) => add(&mut counted.failed, key.decision, more),
            ("", 400..=498) => add(&mut counted.refused, key.decision, more),
            ("", _) => {}
            (server, code) => {
                if *server != *self.local {
                    counted.forwarded += more;
                }
                if code >= 500 {
                    counted.server_errors += more;
                }
            }
        }
    }
}

fn add(counts: &mut BTreeMap<Arc<str>, u64>, name: &str, more: u64) {
    if more > 0 {
        *counts.entry(name.into()).or_default() += more;
    }
}

/// How much more it is than before.
fn grown(before: &mut u64, now: u64) -> u64 {
    let more = now.saturating_sub(*before);
    *before = now;
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_has_what_came_since_the_one_before() {
        let metrics = Arc::new(Metrics::new());
        let tally = RetireTally::default();
        let mut sampler = Sampler::new(
            Arc::clone(&metrics),
            Arc::default(),
            tally.clone(),
            "cp-a".to_owned(),
        );
        let (here, there, nobody) = (Arc::from("cp-a"), Arc::from("cp-b"), Arc::from(""));
        let zero = Minute {
            minute: 1,
            ..Minute::default()
        };
        assert_eq!(sampler.sample(60_000), zero);
        metrics.request("local_serves", &here, 200);
        metrics.request("peer_serves", &there, 200);
        metrics.request("peer_serves", &there, 500);
        metrics.request("server_failed", &nobody, 503);
        metrics.request("refused_header", &nobody, 431);
        metrics.request("client_gone", &nobody, 499);
        metrics.retry("connect");
        metrics.relay_decision("relayed");
        tally.count(Ended::Late);
        let counted = sampler.sample(60_000);
        let of = |map: &BTreeMap<Arc<str>, u64>| -> Vec<(String, u64)> {
            map.iter().map(|(name, n)| (name.to_string(), *n)).collect()
        };
        let one = |name: &str| vec![(name.to_owned(), 1)];
        assert_eq!(counted.requests.values().sum::<u64>(), 6);
        assert_eq!((counted.forwarded, counted.server_errors), (2, 1));
        assert_eq!(of(&counted.failed), one("server_failed"));
        assert_eq!(of(&counted.refused), one("refused_header"));
        assert_eq!(of(&counted.retired), one("late"));
        assert_eq!((counted.retries, counted.relayed), (1, 1));
        metrics.request("local_serves", &here, 200);
        let counted = sampler.sample(60_000);
        assert_eq!(of(&counted.requests), one("local_serves"));
        assert_eq!(sampler.sample(60_000), zero);
    }

    #[test]
    fn the_agents_share_is_that_since_the_last_look() {
        let metrics = Arc::new(Metrics::new());
        let mut sampler = Sampler::new(
            Arc::clone(&metrics),
            Arc::default(),
            RetireTally::default(),
            "cp-a".to_owned(),
        );
        let share = |requests, millis| Added {
            requests,
            time: Duration::from_millis(millis),
        };
        metrics.added(Duration::from_millis(250));
        assert_eq!(sampler.added(), share(1, 250));
        metrics.added(Duration::from_millis(500));
        metrics.added(Duration::from_millis(500));
        assert_eq!(sampler.added(), share(2, 1000));
        assert_eq!(sampler.added(), Added::default());
    }
}
