//! What is reported of an upgrade, and what must hold.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Kind;
use super::tally::{Seen, Tally};
use crate::nodes::Cluster;
use crate::sim::Numbered;
use crate::sim::control::Command;

/// What one upgrade was like.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What the clients of each kind saw.
    pub kinds: Vec<OfKind>,
    /// How long it took.
    pub seconds: Seconds,
    /// What agents logged of connections of before.
    pub notes: String,
}

#[derive(Clone, Debug)]
pub struct OfKind {
    pub kind: Kind,
    pub seen: Seen,
    /// Requests that a server received and whose answer did not come.
    pub cut: u64,
    /// Requests that found their connection ended, and that no server has received.
    pub lost: u64,
    /// Writes that servers acted on more than once.
    pub twice: u64,
}

/// The durations of an upgrade.
#[derive(Clone, Debug)]
pub struct Seconds {
    /// From the sign until no client has a connection with a server itself; `None`: some have in the end.
    pub inspected: Option<Duration>,
    /// From the sign to the first ready answer of the new version.
    pub ready: Duration,
    /// How long each old server took to stop.
    pub stops: Vec<Duration>,
}

/// From the sign to the last client inspected, at most.
const INSPECTED: Duration = Duration::from_secs(30);
/// For the kinds of clients whose requests may be cut at all: one in so many may.
const RARE: u64 = 10_000;
/// Ends the number of a request that changes something.
pub(super) const WRITE: &str = "-w";

impl Outcome {
    pub(super) fn of(cluster: &Cluster, tally: &Tally, seconds: Seconds) -> Result<Self> {
        let mut all: HashMap<String, Numbered> = HashMap::new();
        for node in &cluster.nodes {
            let of_node: HashMap<String, Numbered> =
                serde_json::from_value(node.command(Command::Numbered))?;
            for (number, more) in of_node {
                let sum = all.entry(number).or_default();
                sum.received += more.received;
                sum.refused += more.refused;
            }
        }
        let kinds = Kind::ALL.map(|kind| OfKind::of(kind, tally.seen(kind), &all));
        Ok(Self {
            kinds: kinds.into(),
            seconds,
            notes: String::new(),
        })
    }

    /// Requests of all clients.
    pub fn requests(&self) -> u64 {
        self.sum(|of| of.seen.requests)
    }

    /// False 404s of all clients.
    pub fn false_404(&self) -> u64 {
        self.sum(|of| of.seen.false_404)
    }

    /// Shrunken discovery documents of all clients.
    pub fn shrunken(&self) -> u64 {
        self.sum(|of| of.seen.shrunken)
    }

    fn requests_of(&self, which: impl Fn(Kind) -> bool) -> u64 {
        let kinds = self.kinds.iter().filter(|of| which(of.kind));
        kinds.map(|of| of.seen.requests).sum()
    }

    fn sum(&self, of: impl Fn(&OfKind) -> u64) -> u64 {
        self.kinds.iter().map(of).sum()
    }

    /// What this one and the other saw together.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.kinds.iter_mut().zip(&other.kinds) {
            mine.add(theirs);
        }
    }

    /// What must hold however busy the machine is: nobody was told that a type is not there, nothing was written twice, and no event was lost.
    ///
    /// # Errors
    /// With all that does not hold.
    pub fn check_truth(&self) -> Result<()> {
        let mut wrong = String::new();
        for of in &self.kinds {
            of.check_truth(&mut wrong);
        }
        ensure!(wrong.is_empty(), "{wrong}{}\n{}", self.table(), self.notes);
        Ok(())
    }

    /// Everything that is to hold.
    ///
    /// # Errors
    /// With all that does not.
    pub fn check(&self) -> Result<()> {
        let mut wrong = String::new();
        for of in &self.kinds {
            of.check_truth(&mut wrong);
            // Both by the clock: how soon a new type is in every document, and how long an answer is waited for.
            of.at_most(0, of.seen.shrunken, "shrunken discoveries", &mut wrong);
            of.at_most(0, of.seen.errors, "errors", &mut wrong);
            let may_be_cut = match of.kind.is_never_cut() {
                true => 0,
                false => self.requests_of(|kind| !kind.is_never_cut()) / RARE,
            };
            of.at_most(may_be_cut, of.cut, "requests cut", &mut wrong);
        }
        match self.seconds.inspected {
            None => wrong += "clients have connections with servers themselves in the end\n",
            Some(took) if took > INSPECTED => {
                let _ = writeln!(
                    wrong,
                    "the last client was inspected {took:.1?} after the sign"
                );
            }
            Some(_) => {}
        }
        ensure!(wrong.is_empty(), "{wrong}{}\n{}", self.table(), self.notes);
        Ok(())
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| client | connections | requests | false 404 | discovery shrunk | 503, sent again | errors | cut | lost | writes twice | watches ended, broken | events wrong |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for of in &self.kinds {
            let seen = &of.seen;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {} | {} |",
                of.kind.name(),
                seen.connections,
                seen.requests,
                seen.false_404,
                seen.shrunken,
                seen.deferred,
                seen.errors,
                of.cut,
                of.lost,
                of.twice,
                seen.watches_ended,
                seen.watches_broken,
                seen.events_wrong
            );
        }
        text
    }
}

impl Seconds {
    /// For people.
    pub fn line(&self) -> String {
        let inspected = match self.inspected {
            Some(took) => format!("{:.1} s", took.as_secs_f64()),
            None => "never".to_owned(),
        };
        let stops = self
            .stops
            .iter()
            .map(|took| format!("{:.1}", took.as_secs_f64()));
        format!(
            "sign to the last client inspected: {inspected}; sign to the first ready answer: {:.1} s; stops: {} s",
            self.ready.as_secs_f64(),
            stops.collect::<Vec<_>>().join(", ")
        )
    }
}

impl OfKind {
    fn of(kind: Kind, seen: Seen, all: &HashMap<String, Numbered>) -> Self {
        let (mut cut, mut lost) = (0, 0);
        for one in &seen.unanswered {
            let counts = all.get(&one.number).copied().unwrap_or_default();
            let acted = counts.received.saturating_sub(counts.refused);
            match acted > u32::from(one.answered_later) {
                true => cut += 1,
                false => lost += 1,
            }
        }
        let prefix = kind.prefix();
        let twice = all.iter().filter(|(number, counts)| {
            let of_kind = number
                .split_once('-')
                .is_some_and(|(name, _)| name == prefix);
            of_kind && number.ends_with(WRITE) && counts.received.saturating_sub(counts.refused) > 1
        });
        Self {
            twice: twice.count() as u64,
            kind,
            seen,
            cut,
            lost,
        }
    }

    fn add(&mut self, other: &Self) {
        self.cut += other.cut;
        self.lost += other.lost;
        self.twice += other.twice;
        self.seen.add(&other.seen);
    }

    fn check_truth(&self, wrong: &mut String) {
        self.at_most(0, self.seen.false_404, "false 404s", wrong);
        self.at_most(0, self.twice, "writes twice", wrong);
        self.at_most(0, self.seen.events_wrong, "wrong events", wrong);
    }

    fn at_most(&self, most: u64, count: u64, what: &str, wrong: &mut String) {
        if count > most {
            let _ = writeln!(
                wrong,
                "{}: {count} {what} of {} requests: {:#?}",
                self.kind.name(),
                self.seen.requests,
                self.seen.examples
            );
        }
    }
}
