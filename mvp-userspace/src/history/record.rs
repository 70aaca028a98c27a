//! The record that the agent's threads share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Event, HistoryDocument, Kind, Minute, Ring, Series};

/// Seconds over which `perSecond` is an average.
const WINDOW: usize = 10;

/// Cheap to clone; any thread may write.
#[derive(Clone, Debug)]
pub struct History(Arc<Mutex<Record>>);

#[derive(Debug)]
struct Record {
    /// Since when the record has what happened on this node, in milliseconds since 1970.
    begins_ms: u64,
    ring: Ring,
    series: Series,
    /// The counts of the last seconds, the newest last.
    window: VecDeque<(Minute, Added)>,
    /// Grows with each event.
    noted: u64,
}

/// The agent's own share of requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Added {
    /// Requests that were answered.
    pub requests: u64,
    /// The time that the agent added to all of them together; the servers' time is not in it.
    pub time: Duration,
}

/// `GET /history`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryView {
    /// By the node's clock, as all times here in milliseconds since 1970.
    pub now_ms: u64,
    /// From when on the answer has what is known.
    pub since_ms: u64,
    /// Before this nothing was recorded.
    pub begins_ms: u64,
    /// The oldest first.
    pub events: Vec<Event>,
    /// The oldest first; minutes in which nothing was counted are left out.
    pub minutes: Vec<Minute>,
}

/// What the agent does at this moment: averages over the last seconds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficView {
    /// Seconds that the averages are of; 0: the agent has just started.
    pub seconds: u64,
    /// Requests per second, by decision.
    pub per_second: BTreeMap<Arc<str>, f64>,
    /// Requests per second that went to a peer.
    pub forwarded_per_second: f64,
    /// Requests per second that would have got a false 404 or 405 from the local server.
    pub prevented_per_second: f64,
    /// Requests per second that a peer answered while the local server could not.
    pub served_while_down_per_second: f64,
    /// Requests that the agent could not have answered by any server.
    pub failed_per_second: f64,
    /// Microseconds that the agent added to a request, on average; none: there was no request.
    pub added_us: Option<f64>,
    /// Grows with each event of `/history`.
    pub noted: u64,
}

impl History {
    /// Nothing has happened yet.
    pub fn new(now_ms: u64) -> Self {
        Self(Arc::new(Mutex::new(Record {
            begins_ms: now_ms,
            ring: Ring::default(),
            series: Series::default(),
            window: VecDeque::with_capacity(WINDOW),
            noted: 0,
        })))
    }

    /// Adds an event. The oldest gives way if there is no room.
    pub fn note(&self, event: Event) {
        let kind = event.kind;
        tracing::debug!(
            event = kind.as_str(),
            subject = event.subject,
            detail = event.detail,
            "noted"
        );
        let mut record = self.record();
        record.ring.push(event);
        record.noted += 1;
    }

    /// Takes the counts of one second.
    pub fn count(&self, counted: Minute, added: Added) {
        let now = counted.minute;
        let mut record = self.record();
        if record.window.len() == WINDOW {
            record.window.pop_front();
        }
        record.window.push_back((counted.clone(), added));
        record.series.add(counted, now);
    }

    /// Adds what was recorded before: by the agent before this one, which counted other requests.
    pub fn adopt(&self, before: HistoryDocument, now_ms: u64) {
        let mut record = self.record();
        record.begins_ms = record.begins_ms.min(before.begins_ms);
        for event in before.ring.iter() {
            record.ring.push(event.clone());
        }
        for minute in before.series.iter() {
            record.series.add(minute.clone(), now_ms / 60_000);
        }
        record.noted += 1;
    }

    /// What is kept over a restart.
    pub fn document(&self, now_ms: u64, closed: bool) -> HistoryDocument {
        let record = self.record();
        HistoryDocument {
            closed,
            begins_ms: record.begins_ms,
            saved_ms: now_ms,
            ring: record.ring.clone(),
            series: record.series.clone(),
        }
    }

    /// What is known since that time.
    pub fn view(&self, since_ms: u64, now_ms: u64) -> HistoryView {
        let record = self.record();
        let minutes = record.series.iter();
        HistoryView {
            now_ms,
            since_ms,
            begins_ms: record.begins_ms,
            events: record
                .ring
                .iter()
                .filter(|event| event.at_ms >= since_ms)
                .cloned()
                .collect(),
            minutes: minutes
                .filter(|minute| minute.minute >= since_ms / 60_000)
                .cloned()
                .collect(),
        }
    }

    /// The averages over the last seconds, for `/stream` and `mvp top`.
    pub fn traffic(&self) -> TrafficView {
        let record = self.record();
        let seconds = record.window.len();
        let mut sum: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for (second, _) in &record.window {
            for (decision, count) in &second.requests {
                *sum.entry(Arc::clone(decision)).or_default() += count;
            }
        }
        let average = |count: u64| count as f64 / seconds.max(1) as f64;
        let minutes = || record.window.iter().map(|(minute, _)| minute);
        let of = |count: fn(&Minute) -> u64| average(minutes().map(count).sum());
        let requests: u64 = record.window.iter().map(|(_, added)| added.requests).sum();
        let added: Duration = record.window.iter().map(|(_, added)| added.time).sum();
        TrafficView {
            seconds: seconds as u64,
            per_second: sum
                .into_iter()
                .map(|(d, count)| (d, average(count)))
                .collect(),
            forwarded_per_second: of(|second| second.forwarded),
            prevented_per_second: of(Minute::prevented),
            served_while_down_per_second: of(|second| second.served_while_down),
            failed_per_second: of(|second| second.failed.values().sum()),
            added_us: (requests > 0).then(|| added.as_secs_f64() * 1e6 / requests as f64),
            noted: record.noted,
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistoryView {
    /// The newest event of this kind.
    pub fn last(&self, kind: Kind) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.kind == kind)
    }
}

/// By the node's clock.
pub fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn second(minute: u64, decision: &str, count: u64) -> Minute {
        Minute {
            minute,
            requests: BTreeMap::from([(decision.into(), count)]),
            forwarded: count,
            ..Minute::default()
        }
    }

    fn added(requests: u64, micros: u64) -> Added {
        Added {
            requests,
            time: Duration::from_micros(micros),
        }
    }

    #[test]
    fn what_was_recorded_before_is_added_to_what_was_counted_since() {
        let before = History::new(5 * MINUTE);
        before.note(Event::new(5 * MINUTE, Kind::GuardArmed, "", "", ""));
        before.count(second(5, "local_serves", 3), Added::default());
        let document = before.document(6 * MINUTE, true);
        let now = History::new(7 * MINUTE);
        now.note(Event::new(7 * MINUTE, Kind::AgentStarted, "", "", ""));
        now.count(second(7, "local_serves", 4), Added::default());
        now.adopt(document, 7 * MINUTE);
        let view = now.view(0, 7 * MINUTE);
        let kinds: Vec<_> = view.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [Kind::GuardArmed, Kind::AgentStarted]);
        assert_eq!(view.begins_ms, 5 * MINUTE);
        let forwarded: Vec<_> = view.minutes.iter().map(|minute| minute.forwarded).collect();
        assert_eq!(forwarded, [3, 4]);
        // What was adopted was not counted in the last seconds.
        assert_eq!(now.traffic().forwarded_per_second, 4.0);
        assert_eq!(now.view(6 * MINUTE, 7 * MINUTE).events.len(), 1);
    }

    #[test]
    fn traffic_is_an_average_of_the_last_seconds_only() {
        let history = History::new(0);
        assert_eq!(history.traffic(), TrafficView::default());
        history.count(second(0, "peer_serves", 1000), added(1000, 1));
        for _ in 0..WINDOW {
            history.count(second(0, "peer_serves", 2), added(2, 160));
        }
        let traffic = history.traffic();
        assert_eq!(traffic.seconds, WINDOW as u64);
        assert_eq!(traffic.per_second[&Arc::from("peer_serves")], 2.0);
        assert_eq!(traffic.added_us.map(f64::round), Some(80.0));
    }
}
