//! What clients saw, by kind.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Kind;

/// When a server of the new version first said that it is ready: from then on there is a new type.
#[derive(Debug, Default)]
pub struct News(OnceLock<Instant>);

/// Shared by all clients of one upgrade.
#[derive(Debug, Default)]
pub struct Tally {
    /// When the new type came.
    pub news: News,
    seen: Mutex<[Seen; Kind::ALL.len()]>,
}

/// What clients of one kind saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections that clients opened.
    pub connections: u64,
    /// Watches count once for each time that they are opened.
    pub requests: u64,
    /// 404s that say that a type is not there which is.
    pub false_404: u64,
    /// Discovery documents that had less than an earlier one of the same client, or than every agent must know by then.
    pub shrunken: u64,
    /// Requests that were answered with 429 or 5xx and Retry-After, and sent again, as client-go does.
    pub deferred: u64,
    /// Any other answer than the one that was asked for, and requests for which no connection could be made.
    pub errors: u64,
    /// Requests whose connection ended before they were answered.
    pub unanswered: Vec<Unanswered>,
    /// Watches that ended between two events, and whose connection ended under them.
    pub watches_ended: u64,
    /// Watches whose connection ended under them.
    pub watches_broken: u64,
    /// Events that a watch did not deliver, or delivered twice.
    pub events_wrong: u64,
    /// The first few failures, in words.
    pub examples: Vec<String>,
}

/// A request whose connection ended at least once before it was answered.
#[derive(Clone, Debug)]
pub struct Unanswered {
    pub number: String,
    /// It was sent again, as client-go does with a GET, and answered.
    pub answered_later: bool,
}

const EXAMPLES: usize = 8;
/// Every agent knows of a new type within so long: a goal of the project.
const KNOWN: Duration = Duration::from_secs(1);

impl News {
    /// The new type is there from now on; later calls change nothing.
    pub fn spread(&self) {
        let _ = self.0.set(Instant::now());
    }

    /// Whether the new type is there.
    pub fn are_out(&self) -> bool {
        self.0.get().is_some()
    }

    /// When the new type came; `None`: not yet.
    pub fn at(&self) -> Option<Instant> {
        self.0.get().copied()
    }

    /// Whether the new type must be in every discovery document that is asked for now.
    pub fn are_old(&self) -> bool {
        self.0.get().is_some_and(|at| at.elapsed() > KNOWN)
    }
}

impl Seen {
    /// What this and the other saw together.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.connections, other.connections),
            (&mut self.requests, other.requests),
            (&mut self.false_404, other.false_404),
            (&mut self.shrunken, other.shrunken),
            (&mut self.deferred, other.deferred),
            (&mut self.errors, other.errors),
            (&mut self.watches_ended, other.watches_ended),
            (&mut self.watches_broken, other.watches_broken),
            (&mut self.events_wrong, other.events_wrong),
        ] {
            *mine += theirs;
        }
        self.unanswered.extend(other.unanswered.iter().cloned());
        self.examples.extend(other.examples.iter().cloned());
    }
}

impl Tally {
    /// Changes what the clients of a kind saw.
    pub fn with(&self, kind: Kind, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock()[kind as usize]);
    }

    /// Counts by `count` and keeps a description.
    pub fn fail(&self, kind: Kind, count: impl FnOnce(&mut Seen), what: impl Display) {
        self.with(kind, |seen| {
            count(seen);
            if seen.examples.len() < EXAMPLES {
                seen.examples.push(what.to_string());
            }
        });
    }

    /// What the clients of a kind saw so far.
    pub fn seen(&self, kind: Kind) -> Seen {
        self.lock()[kind as usize].clone()
    }

    fn lock(&self) -> MutexGuard<'_, [Seen; Kind::ALL.len()]> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
