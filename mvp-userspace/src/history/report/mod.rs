//! What an upgrade would have been without the agent, as far as that can be known. Pure: from the record to figures.

mod html;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::text::clock;
use super::{Event, HistoryView, Kind, Minute};

/// Rows of types and clients; the record may have more.
const MOST: usize = 100;

/// `GET /report`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The name of the local server.
    pub node: String,
    /// The agent's.
    pub version: String,
    /// Where the reported span begins, in milliseconds since 1970.
    pub from_ms: u64,
    /// Where it ends: when the report was made.
    pub to_ms: u64,
    /// Before this nothing was recorded; later than `fromMs`: a part of the time is not known.
    pub begins_ms: u64,
    /// Requests that the agent answered or forwarded.
    pub requests: u64,
    /// Requests that went to a peer.
    pub forwarded: u64,
    /// False 404s, and 405s for a verb, that clients would have got.
    pub prevented: u64,
    /// By type and client, the most first.
    pub prevented_by: Vec<PreventedRow>,
    /// Rows that are left out of it.
    pub prevented_left_out: u64,
    /// Requests that a peer answered while the local server could not.
    pub served_while_down: u64,
    /// Connections that were forwarded whole to a peer.
    pub relayed_connections: u64,
    /// Attempts at another server after one that failed.
    pub retries: u64,
    /// Answers of servers of 500 and above, which the agent passed on.
    pub server_errors: u64,
    /// What the agent itself had to answer with 500 or above.
    pub errors: Vec<ErrorRow>,
    /// What the agent itself refused.
    pub refused: Vec<ErrorRow>,
    /// What became of the connections that clients had with kube-apiserver itself.
    pub retirement: RetiredView,
    /// From a first sign to the last connection inspected, in the order of time.
    pub convergences: Vec<Convergence>,
    /// The slowest of them that has ended.
    pub slowest_ms: Option<u64>,
    /// Milliseconds for which the guard was armed.
    pub armed_ms: u64,
    /// Time for which connections passed to kube-apiserver itself, and nothing of them was seen.
    pub passing_by_ms: u64,
    /// What these figures do not say, each in a sentence.
    pub unknown: Vec<String>,
    /// What happened, the oldest first.
    pub events: Vec<Event>,
}

/// Answers that were prevented, for one type and one client.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreventedRow {
    /// `GROUP/VERSION/RESOURCE[/SUBRESOURCE]`.
    pub resource: String,
    /// As the client calls itself.
    pub client: String,
    /// What it would have got: 404, or 405 for a verb.
    pub instead_of: u16,
    /// Requests.
    pub count: u64,
}

/// Answers of the agent's own, for one reason.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorRow {
    /// As in `mvp_requests_total`.
    pub decision: String,
    /// The decision in a sentence.
    pub meaning: String,
    /// Requests.
    pub count: u64,
}

/// Connections of before, by what became of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetiredView {
    /// Ended in a moment in which nothing spoke for a request under way.
    pub destroyed: u64,
    /// Ended after the window, where a request may have been cut.
    pub late: u64,
    /// Left alone: something was sent or received between the look and the end.
    pub active: u64,
    /// They had ended by themselves.
    pub gone: u64,
}

/// One arming of the guard.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Convergence {
    /// The first sign.
    pub from_ms: u64,
    /// The reasons for which the guard armed, separated by commas.
    pub signs: String,
    /// When the last connection of before was gone; none: not yet, or it is not known.
    pub ended_ms: Option<u64>,
    /// What became of them.
    pub detail: String,
}

impl Report {
    /// A report on what is known between `view.since_ms` and `view.now_ms`. `all`: the earlier events as well, since what held
    /// at the beginning is known by them only.
    pub fn of(view: &HistoryView, all: &[Event], node: &str) -> Self {
        let sum = |count: fn(&Minute) -> u64| view.minutes.iter().map(count).sum();
        let from = view.since_ms.max(view.begins_ms);
        let (prevented_by, prevented_left_out) = prevented(&view.minutes);
        let retired = sums(&view.minutes, |minute| &minute.retired);
        let ended = |name: &str| retired.get(name).copied().unwrap_or_default();
        let convergences = convergences(all, from);
        let mut report = Self {
            node: node.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            from_ms: view.since_ms,
            to_ms: view.now_ms,
            begins_ms: view.begins_ms,
            requests: sum(|minute| minute.requests.values().sum()),
            forwarded: sum(|minute| minute.forwarded),
            prevented: sum(Minute::prevented),
            prevented_by,
            prevented_left_out,
            served_while_down: sum(|minute| minute.served_while_down),
            relayed_connections: sum(|minute| minute.relayed),
            retries: sum(|minute| minute.retries),
            server_errors: sum(|minute| minute.server_errors),
            errors: errors(sums(&view.minutes, |minute| &minute.failed)),
            refused: errors(sums(&view.minutes, |minute| &minute.refused)),
            retirement: RetiredView {
                destroyed: ended("destroyed"),
                late: ended("late"),
                active: ended("active"),
                gone: ended("gone"),
            },
            slowest_ms: convergences.iter().filter_map(Convergence::took_ms).max(),
            convergences,
            armed_ms: lasted(
                all,
                (Kind::GuardArmed, Kind::GuardIdle),
                (from, view.now_ms),
            ),
            passing_by_ms: lasted(
                all,
                (Kind::PassingBy, Kind::TakesConnections),
                (from, view.now_ms),
            ),
            unknown: Vec::new(),
            events: view.events.clone(),
        };
        report.unknown = report.unknowns();
        report
    }

    fn unknowns(&self) -> Vec<String> {
        let mut unknown = Vec::new();
        if self.begins_ms > self.from_ms {
            unknown.push(
                "The record begins later than what was asked for: what happened before is not known."
                    .to_owned(),
            );
        }
        if self.passing_by_ms > 0 {
            unknown.push(format!(
                "For {} connections passed to kube-apiserver itself: what their requests met is not known.",
                seconds(self.passing_by_ms)
            ));
        }
        if self.relayed_connections > 0 {
            unknown.push(
                "Requests on connections that were forwarded whole are not seen, and in none of these figures."
                    .to_owned(),
            );
        }
        if self.retirement.late > 0 {
            unknown.push(format!(
                "{} connections of before were ended where a request may have been cut; whether one was is not known.",
                self.retirement.late
            ));
        }
        unknown.push(
            "Only this node's agent was asked, and only what came to it is counted: a connection that a client kept with \
             kube-apiserver itself is not seen."
                .to_owned(),
        );
        unknown
    }
}

impl PreventedRow {
    /// As text and page show it: count, code, type, client.
    fn cells(&self) -> [String; 4] {
        [
            self.count.to_string(),
            self.instead_of.to_string(),
            self.resource.clone(),
            self.client.clone(),
        ]
    }
}

impl ErrorRow {
    /// Count, reason, meaning.
    fn cells(&self) -> [String; 3] {
        [
            self.count.to_string(),
            self.decision.clone(),
            self.meaning.clone(),
        ]
    }
}

impl Convergence {
    /// `None`: it has not ended, or it is not known.
    fn took_ms(&self) -> Option<u64> {
        Some(self.ended_ms?.saturating_sub(self.from_ms))
    }

    /// First sign, time, signs, connections of before.
    fn cells(&self) -> [String; 4] {
        let took = self.took_ms();
        [
            text::time(self.from_ms),
            took.map_or_else(|| "not known".to_owned(), seconds),
            self.signs.clone(),
            self.detail.clone(),
        ]
    }
}

/// Time, kind, subject, detail.
fn event_cells(event: &Event) -> [String; 4] {
    [
        text::time(event.at_ms),
        event.kind.as_str().to_owned(),
        event.subject.clone(),
        event.detail.clone(),
    ]
}

/// What stands behind a decision of the agent's own, as docs/metrics.md has it.
pub(super) fn meaning(decision: &str) -> &'static str {
    MEANINGS
        .iter()
        .find(|(name, _)| *name == decision)
        .map_or("", |(_, meaning)| meaning)
}

const MEANINGS: [(&str, &str); 10] = [
    (
        "refused_unauthorized",
        "the client's credentials are not valid",
    ),
    (
        "refused_malformed",
        "no kube-apiserver would read the path, the request cannot be read, or the body broke off",
    ),
    (
        "refused_header",
        "more header fields, or bytes of them, than one of the limits allows",
    ),
    (
        "capable_server_unreachable",
        "servers that serve it are known, but none can be used",
    ),
    (
        "knowledge_unconfirmed",
        "no server is known to serve it, but not every server could be queried",
    ),
    (
        "refused_cancellations",
        "the client cancels more requests than limits.cancellations allows",
    ),
    (
        "refused_tunnels",
        "the client has as many upgraded connections as limits.tunnelsPerClient allows",
    ),
    (
        "agent_failed",
        "the agent ran out of source ports, descriptors or memory, or its own limits ended the attempt",
    ),
    (
        "server_failed",
        "the server broke off or could not be reached, and another try was not possible or safe",
    ),
    ("server_timeout", "no answer within limits.responseTimeout"),
];

fn sums(
    minutes: &[Minute],
    of: fn(&Minute) -> &BTreeMap<Arc<str>, u64>,
) -> BTreeMap<Arc<str>, u64> {
    let mut all: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    for (name, count) in minutes.iter().flat_map(of) {
        *all.entry(Arc::clone(name)).or_default() += count;
    }
    all
}

fn errors(counts: BTreeMap<Arc<str>, u64>) -> Vec<ErrorRow> {
    let rows = counts.into_iter().map(|(decision, count)| ErrorRow {
        meaning: meaning(&decision).to_owned(),
        decision: decision.to_string(),
        count,
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| {
        b.count
            .cmp(&a.count)
            .then_with(|| a.decision.cmp(&b.decision))
    });
    rows
}

/// By type and client over all minutes, and how many rows are left out.
fn prevented(minutes: &[Minute]) -> (Vec<PreventedRow>, u64) {
    let mut all: BTreeMap<(&str, &str, u16), u64> = BTreeMap::new();
    for row in minutes.iter().flat_map(|minute| &minute.prevented) {
        let instead_of = match &*row.reason {
            "verb_on_peer" => 405,
            _ => 404,
        };
        *all.entry((&row.resource, &row.client, instead_of))
            .or_default() += row.count;
    }
    let rows = all
        .into_iter()
        .map(|((resource, client, instead_of), count)| PreventedRow {
            resource: resource.to_owned(),
            client: client.to_owned(),
            instead_of,
            count,
        });
    let mut rows: Vec<_> = rows.collect();
    // The order of the names is that of the map, and the sort is stable.
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    let left_out = rows.len().saturating_sub(MOST) as u64;
    rows.truncate(MOST);
    (rows, left_out)
}

/// Each arming since `from`, with the end of its retirement. A guard that is armed already arms no second time.
fn convergences(events: &[Event], from: u64) -> Vec<Convergence> {
    let mut all: Vec<Convergence> = Vec::new();
    let mut open = false;
    for event in events {
        match event.kind {
            Kind::GuardArmed if !open => {
                open = true;
                all.push(Convergence {
                    from_ms: event.at_ms,
                    signs: event.value.clone(),
                    ..Convergence::default()
                });
            }
            Kind::RetirementEnded if open => {
                if let Some(last) = all.last_mut() {
                    // The first end: what comes later in the same upgrade begins with a sign of its own, which is not known.
                    if last.ended_ms.is_none() {
                        last.ended_ms = Some(event.at_ms);
                        last.detail.clone_from(&event.detail);
                    }
                }
            }
            Kind::GuardIdle | Kind::AgentStarted => open = false,
            _ => {}
        }
    }
    all.retain(|one| one.from_ms >= from);
    all
}

/// How long, within a time, something held that one kind of event begins and another ends. The agent's end ends it too: what held
/// after that is not known.
fn lasted(events: &[Event], (begins, ends): (Kind, Kind), (from, to): (u64, u64)) -> u64 {
    let mut since = None;
    let mut sum = 0;
    let mut add = |since: u64, until: u64| {
        let (since, until) = (since.clamp(from, to), until.clamp(from, to));
        sum += until.saturating_sub(since);
    };
    for event in events {
        if event.kind == begins {
            since.get_or_insert(event.at_ms);
        } else if (event.kind == ends || event.kind == Kind::AgentStarted)
            && let Some(since) = since.take()
        {
            add(since, event.at_ms);
        }
    }
    if let Some(since) = since {
        add(since, to);
    }
    sum
}

fn seconds(ms: u64) -> String {
    crate::text::table::age(ms)
}

#[cfg(test)]
mod tests;
