//! What the clients saw, counted by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::operation::Kind;
use crate::load::{Answer, Answers, Latency};

/// Shared by all clients of one half.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Seen>);

#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub answers: BTreeMap<Kind, Answers>,
    /// The latency of complete answers, from the moment a request was due.
    pub latency: Latency,
    pub not_modified: u64,
    pub watch_events: u64,
    pub watches_resumed: u64,
    /// Names of objects whose creation was confirmed.
    pub created: BTreeSet<String>,
    /// The first few failures, in words.
    pub examples: Vec<String>,
}

const EXAMPLES: usize = 8;

impl Tally {
    pub(super) fn count(&self, kind: Kind, answer: Answer) {
        self.lock().answers.entry(kind).or_default().count(answer);
    }

    /// Counts a failure and keeps its description.
    pub(super) fn fail(&self, kind: Kind, answer: Answer, what: impl Display) {
        let mut seen = self.lock();
        seen.answers.entry(kind).or_default().count(answer);
        if seen.examples.len() < EXAMPLES {
            seen.examples.push(format!("{}: {what}", kind.name()));
        }
    }

    pub(super) fn latency(&self, value: Duration) {
        self.lock().latency.record(value);
    }

    pub(super) fn with(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
    }

    pub(super) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Requests, false 404s and errors so far.
    pub(super) fn totals(&self) -> (u64, u64, u64) {
        let seen = self.lock();
        (seen.requests(), seen.false_404(), seen.errors())
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    pub(super) fn requests(&self) -> u64 {
        self.sum(Answers::total)
    }

    /// Everything that is asked for exists, so every 404 is false.
    pub(super) fn false_404(&self) -> u64 {
        self.sum(|answers| answers.no_such_type + answers.not_found)
    }

    /// Whatever else is not an answer to what was asked.
    pub(super) fn errors(&self) -> u64 {
        self.sum(|answers| answers.transport + answers.server_error + answers.client_error)
    }

    fn sum(&self, of: impl Fn(&Answers) -> u64) -> u64 {
        self.answers.values().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_a_success_a_false_404_or_an_error() {
        let tally = Tally::default();
        for answer in [
            Answer::Ok,
            Answer::NoSuchType,
            Answer::NotFound,
            Answer::ServerError,
        ] {
            tally.count(Kind::Get, answer);
        }
        tally.fail(Kind::Watch, Answer::Transport, "refused");
        tally.fail(Kind::Watch, Answer::ClientError, "forbidden");
        assert_eq!(tally.totals(), (6, 2, 3));
        assert_eq!(
            tally.seen().examples,
            ["watch: refused", "watch: forbidden"]
        );
    }
}
