//! What a retirement has done and what is left of it, for status, metrics and the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What became of a connection that was to be ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Ended in a moment in which nothing spoke for a request under way.
    Destroyed,
    /// Ended after the window, where a request may have been cut.
    Late,
    /// Left alone: something was sent or received between the look and the end.
    Active,
    /// It had ended by itself.
    Gone,
}

/// Counts that only grow, and the connections that are still open. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RetireTally(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ended: [AtomicU64; Ended::ALL.len()],
    now: Mutex<Now>,
}

/// The state of the retirement that is under way, if one is.
#[derive(Debug, Default)]
struct Now {
    round: u64,
    open: Open,
    /// When an operator said that the connections are to end now.
    hurried: Option<Instant>,
}

/// Connections of before, at the last look.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// How many each client address has.
    pub clients: BTreeMap<IpAddr, usize>,
    /// When the one that has been watched longest was first seen.
    pub oldest: Option<Instant>,
    /// A retirement is under way.
    pub retiring: bool,
    /// Why connections of before cannot be ended, if they cannot.
    pub failed: Option<String>,
}

/// The retirement as `mvp status` shows it.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetireView {
    /// A retirement is under way.
    pub retiring: bool,
    /// Connections of before that are still open; meaningful while a retirement is under way.
    pub open: usize,
    /// Milliseconds since the one that has been watched longest was first seen.
    pub oldest_ms: Option<u64>,
    /// The clients with the most of them, with their counts; at most [`RetireView::CLIENTS`].
    pub clients: Vec<(String, usize)>,
    /// Ended so far in a moment in which nothing spoke for a request under way.
    pub destroyed: u64,
    /// Ended so far where a request may have been cut.
    pub late: u64,
    /// Left alone so far, because something was sent or received at the last moment; looked at again.
    #[serde(default)]
    pub active: u64,
    /// Those that had ended by themselves.
    #[serde(default)]
    pub gone: u64,
    /// Which retirement this is; another one has another number.
    #[serde(default)]
    pub round: u64,
    /// An operator said that they are to end now.
    pub hurried: bool,
    /// Why connections of before cannot be ended, if they cannot.
    pub failed: Option<String>,
}

impl Ended {
    /// Every outcome with its label in metrics.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Destroyed, "destroyed"),
        (Self::Late, "late"),
        (Self::Active, "active"),
        (Self::Gone, "gone"),
    ];
}

impl RetireView {
    /// Clients shown at most.
    pub const CLIENTS: usize = 10;

    /// The same in one line.
    pub fn line(&self) -> String {
        let ended = format!(
            "{} ended so far, {} of them where a request may have been cut",
            self.destroyed + self.late,
            self.late
        );
        if let Some(why) = &self.failed {
            return format!("cannot be ended: {why}");
        }
        if !self.retiring {
            return format!("no retirement is under way; {ended}");
        }
        let oldest = self.oldest_ms.unwrap_or_default().div_ceil(1000);
        let now = if self.hurried { ", to end now" } else { "" };
        let watched = match self.open {
            0 => String::new(),
            _ => format!(", watched for up to {oldest}s{now}"),
        };
        format!("{} of before are open{watched}; {ended}", self.open)
    }
}

impl RetireTally {
    /// One more of this outcome.
    pub fn count(&self, outcome: Ended) {
        if let Some(count) = self.0.ended.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many had this outcome so far.
    pub fn counted(&self, outcome: Ended) -> u64 {
        let count = self.0.ended.get(outcome as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Another retirement begins, or none: what the one before still has to say does not count, nor what an operator said of it.
    /// Returns its number.
    pub fn begin(&self) -> u64 {
        let mut now = self.now();
        let round = now.round + 1;
        *now = Now {
            round,
            ..Now::default()
        };
        round
    }

    /// What is open now, as the retirement of this number has it.
    pub fn set_open(&self, round: u64, open: Open) {
        let mut now = self.now();
        if now.round == round {
            now.open = open;
        }
    }

    /// How many connections of before are open, at the last look.
    pub fn still_open(&self) -> usize {
        self.now().open.clients.values().sum()
    }

    /// Has what is open end now. False if no retirement is under way.
    pub fn hurry(&self, now: Instant) -> bool {
        let mut known = self.now();
        if known.open.retiring {
            known.hurried.get_or_insert(now);
        }
        known.open.retiring
    }

    /// When an operator demanded haste, if one did.
    pub fn hurried_since(&self) -> Option<Instant> {
        self.now().hurried
    }

    /// What the status shows.
    pub fn view(&self) -> RetireView {
        let (round, open, hurried) = {
            let now = self.now();
            (now.round, now.open.clone(), now.hurried.is_some())
        };
        let mut clients: Vec<_> = open
            .clients
            .iter()
            .map(|(ip, n)| (ip.to_string(), *n))
            .collect();
        clients.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        clients.truncate(RetireView::CLIENTS);
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        RetireView {
            retiring: open.retiring,
            open: open.clients.values().sum(),
            oldest_ms: open.oldest.map(|at| millis(at.elapsed())),
            clients,
            destroyed: self.counted(Ended::Destroyed),
            late: self.counted(Ended::Late),
            active: self.counted(Ended::Active),
            gone: self.counted(Ended::Gone),
            round,
            hurried,
            failed: open.failed,
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_with_the_most_connections_come_first() {
        let tally = RetireTally::default();
        tally.count(Ended::Destroyed);
        let clients = (1..=12u8).map(|n| (IpAddr::from([10, 0, 0, n]), usize::from(n)));
        let round = tally.begin();
        tally.set_open(
            round,
            Open {
                clients: clients.collect(),
                retiring: true,
                ..Open::default()
            },
        );
        let view = tally.view();
        assert_eq!((view.open, view.destroyed, view.late), (78, 1, 0));
        assert_eq!(view.clients.len(), RetireView::CLIENTS);
        assert_eq!(view.clients[0], ("10.0.0.12".to_owned(), 12));
        let line = "78 of before are open, watched for up to 0s; 1 ended so far, 0 of them where a request may have been cut";
        assert_eq!(view.line(), line);
    }

    #[test]
    fn an_operators_hurry_is_for_one_retirement() {
        let tally = RetireTally::default();
        let now = Instant::now();
        assert!(!tally.hurry(now), "none is under way");
        assert_eq!(tally.hurried_since(), None);
        let round = tally.begin();
        tally.set_open(
            round,
            Open {
                retiring: true,
                ..Open::default()
            },
        );
        assert!(tally.hurry(now) && tally.hurry(now + Duration::from_secs(1)));
        assert_eq!(tally.hurried_since(), Some(now), "the first word counts");
        assert!(tally.view().hurried);
        tally.begin();
        assert_eq!(tally.hurried_since(), None);
        // The previous thread has not noticed yet.
        let late = Open {
            retiring: true,
            ..Open::default()
        };
        tally.set_open(round, late);
        assert!(!tally.view().retiring);
    }
}
