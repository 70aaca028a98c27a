//! The table of what was seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::ledger::{Event, Seen};

/// What was seen of one fault.
pub struct Line {
    /// The fault's name.
    pub fault: &'static str,
    seen: Seen,
    /// Events that nothing could have avoided, by reason.
    excused: BTreeMap<String, usize>,
    /// The others.
    pub faults: Vec<Event>,
    last: Option<Duration>,
}

impl Line {
    /// `excuse` says why an event could not be avoided.
    pub fn new(
        fault: &'static str,
        seen: Seen,
        begun: Instant,
        excuse: impl Fn(&Event) -> Option<&'static str>,
    ) -> Self {
        let (mut excused, mut faults) = (BTreeMap::new(), Vec::new());
        for event in &seen.events {
            match excuse(event) {
                Some(reason) => {
                    let kind = format!("{}: {reason}", event.wrong);
                    *excused.entry(kind).or_default() += 1;
                }
                None => faults.push(event.clone()),
            }
        }
        let last = seen.events.iter().map(|event| event.ended).max();
        Self {
            fault,
            excused,
            faults,
            last: last.map(|last| last.saturating_duration_since(begun)),
            seen,
        }
    }

    /// Requests that were answered or not, while the fault lasted.
    pub fn requests(&self) -> u64 {
        self.seen.requests.values().sum()
    }

    /// For people who look for what was slow.
    pub fn details(&self) -> String {
        let seen = &self.seen;
        format!(
            "{:?}, {} left out, slowest {:?}",
            seen.requests, seen.left_out, seen.slowest
        )
    }

    /// Its line of the table.
    pub fn row(&self) -> String {
        let mut errors: Vec<_> = self
            .excused
            .iter()
            .map(|(reason, times)| format!("{times} {reason}"))
            .collect();
        if !self.faults.is_empty() {
            errors.push(format!("**{} without excuse**", self.faults.len()));
        }
        if errors.is_empty() {
            errors.push("0".to_owned());
        }
        let last = match self.last {
            Some(last) => format!("{:.1} s", last.as_secs_f64()),
            None => "-".to_owned(),
        };
        let slowest = match self.seen.slowest {
            Some((took, kind, _)) => format!("{:.1} s ({kind})", took.as_secs_f64()),
            None => "-".to_owned(),
        };
        format!(
            "| {} | {} | {} | {} | {last} | {slowest} |",
            self.fault,
            self.requests(),
            self.seen.repeats,
            errors.join("; "),
        )
    }
}

/// In Markdown.
pub fn table(lines: &[Line]) -> String {
    let mut out = String::from(
        "| fault | requests | sent again by clients | errors | last error after | slowest answer |\n|---|---|---|---|---|---|\n",
    );
    for line in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", line.row());
    }
    out
}
