//! What was counted, minute by minute, for a day. Bounded in minutes and in rows, whatever clients call themselves.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::text::printable;

/// Minutes that are kept: a day.
pub const MOST_MINUTES: u64 = 24 * 60;
/// Rows of prevented errors in one minute; what is beyond them is counted in rows that name no type and no client.
pub(super) const ROWS: usize = 256;
/// The same in all minutes together: beyond them the oldest minutes keep only their sums.
pub(super) const ALL_ROWS: usize = 4096;
/// Decisions that are told apart in one minute; the agent has fewer.
pub(super) const DECISIONS: usize = 48;
/// Bytes of a client's name, a decision or a resource.
pub(super) const NAME: usize = 96;
/// The decisions of rows.
pub(super) const REASONS: [&str; 3] = ["peer_serves", "subresource_on_peer", "verb_on_peer"];
/// Stands for names that are not kept.
pub(super) const OTHER: &str = "other";

/// One minute. Minutes in which nothing was counted are not there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Minute {
    /// Minutes since 1970.
    pub minute: u64,
    /// Requests by decision, as in `mvp_requests_total`.
    pub requests: BTreeMap<Arc<str>, u64>,
    /// The part of them that the agent itself answered with 500 or above.
    pub failed: BTreeMap<Arc<str>, u64>,
    /// The part of them that the agent itself refused, with 400 to 499.
    pub refused: BTreeMap<Arc<str>, u64>,
    /// Answers of servers of 500 and above, which the agent passed on.
    pub server_errors: u64,
    /// Requests that another server than the local one answered.
    pub forwarded: u64,
    /// The part of them that the local server would have answered with a false 404 or 405.
    pub prevented: Vec<Prevented>,
    /// Requests that another server answered while the local one was down.
    pub served_while_down: u64,
    /// Second attempts of requests whose first attempt failed.
    pub retries: u64,
    /// Client connections that were forwarded whole.
    pub relayed: u64,
    /// Connections of before, by what became of them, as in `mvp_retired_connections_total`.
    pub retired: BTreeMap<Arc<str>, u64>,
}

/// Requests of one client for one type that the local server does not serve, answered by a server that does.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Prevented {
    /// The decision: `peer_serves`, `subresource_on_peer` or `verb_on_peer`.
    pub reason: Arc<str>,
    /// `GROUP/VERSION/RESOURCE[/SUBRESOURCE]`; the core group is empty.
    pub resource: Arc<str>,
    /// The beginning of the client's User-Agent, which it chooses itself.
    pub client: Arc<str>,
    /// Requests of that minute.
    pub count: u64,
}

/// The last day.
#[derive(Clone, Debug, Default)]
pub struct Series {
    minutes: BTreeMap<u64, Minute>,
    names: Names,
    rows: usize,
}

/// Each name once in memory.
#[derive(Clone, Debug, Default)]
struct Names(HashSet<Arc<str>>);

impl Series {
    /// Adds what was counted to its minute. `now`: the current minute; what is more than a day older goes, and what claims to be
    /// later is not taken.
    pub fn add(&mut self, counted: Minute, now: u64) {
        let oldest = now.saturating_sub(MOST_MINUTES - 1);
        self.forget(oldest);
        if counted.is_empty() || counted.minute < oldest || counted.minute > now + 1 {
            return;
        }
        let Self {
            minutes,
            names,
            rows,
        } = self;
        let minute = minutes.entry(counted.minute).or_default();
        minute.minute = counted.minute;
        for (kept, new) in [
            (&mut minute.requests, counted.requests),
            (&mut minute.failed, counted.failed),
            (&mut minute.refused, counted.refused),
            (&mut minute.retired, counted.retired),
        ] {
            for (name, count) in new {
                add_to(kept, names, &name, count);
            }
        }
        for (kept, new) in [
            (&mut minute.server_errors, counted.server_errors),
            (&mut minute.forwarded, counted.forwarded),
            (&mut minute.served_while_down, counted.served_while_down),
            (&mut minute.retries, counted.retries),
            (&mut minute.relayed, counted.relayed),
        ] {
            *kept = kept.saturating_add(new);
        }
        for row in counted.prevented {
            *rows += add_row(&mut minute.prevented, names, &row);
        }
        self.fold();
    }

    /// The minutes in which something was counted, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Minute> {
        self.minutes.values()
    }

    fn forget(&mut self, oldest: u64) {
        if self.minutes.keys().next().is_none_or(|at| *at >= oldest) {
            return;
        }
        self.minutes = self.minutes.split_off(&oldest);
        self.count_rows();
    }

    /// While there are too many rows, the oldest minute that has several keeps only their sums.
    fn fold(&mut self) {
        while self.rows > ALL_ROWS {
            let Self { minutes, names, .. } = self;
            let several = |minute: &&mut Minute| minute.prevented.iter().any(Prevented::is_named);
            let Some(minute) = minutes.values_mut().find(several) else {
                break;
            };
            let named = std::mem::take(&mut minute.prevented);
            for row in named {
                add_row(&mut minute.prevented, names, &row.unnamed());
            }
            self.count_rows();
        }
    }

    fn count_rows(&mut self) {
        self.rows = self.minutes.values().map(|m| m.prevented.len()).sum();
        self.names.forget();
    }
}

impl PartialEq for Series {
    fn eq(&self, other: &Self) -> bool {
        self.minutes == other.minutes
    }
}

impl Eq for Series {}

impl Minute {
    /// Nothing was counted in it.
    pub fn is_empty(&self) -> bool {
        let nothing = Self {
            minute: self.minute,
            ..Self::default()
        };
        *self == nothing
    }

    /// False 404s and 405s that were prevented.
    pub fn prevented(&self) -> u64 {
        self.prevented.iter().map(|row| row.count).sum()
    }
}

impl Prevented {
    fn is_named(&self) -> bool {
        *self.client != *OTHER || *self.resource != *OTHER
    }

    fn unnamed(&self) -> Self {
        Self {
            reason: Arc::clone(&self.reason),
            resource: OTHER.into(),
            client: OTHER.into(),
            count: self.count,
        }
    }

    fn is_of(&self, reason: &str, resource: &str, client: &str) -> bool {
        *self.reason == *reason && *self.resource == *resource && *self.client == *client
    }
}

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        let name = printable(name, NAME);
        if let Some(known) = self.0.get(&*name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(&*name);
        self.0.insert(Arc::clone(&new));
        new
    }

    /// Names that no minute has any more.
    fn forget(&mut self) {
        self.0.retain(|name| Arc::strong_count(name) > 1);
    }
}

fn add_to(kept: &mut BTreeMap<Arc<str>, u64>, names: &mut Names, name: &str, count: u64) {
    let name = printable(name, NAME);
    let told_apart = kept.len() - usize::from(kept.contains_key(OTHER));
    let name = match told_apart < DECISIONS || kept.contains_key(&*name) {
        true => names.get(&name),
        false => names.get(OTHER),
    };
    let kept = kept.entry(name).or_default();
    *kept = kept.saturating_add(count);
}

/// How many rows there are more. Only names that are kept are remembered.
fn add_row(kept: &mut Vec<Prevented>, names: &mut Names, row: &Prevented) -> usize {
    let reason = REASONS.iter().find(|reason| **reason == &*row.reason);
    let reason = *reason.unwrap_or(&OTHER);
    let (mut resource, mut client) = (printable(&row.resource, NAME), printable(&row.client, NAME));
    let known = kept
        .iter()
        .any(|other| other.is_of(reason, &resource, &client));
    if !known && kept.len() >= ROWS {
        resource = OTHER.into();
        client = OTHER.into();
    }
    let same = kept
        .iter_mut()
        .find(|other| other.is_of(reason, &resource, &client));
    if let Some(other) = same {
        other.count = other.count.saturating_add(row.count);
        return 0;
    }
    kept.push(Prevented {
        reason: names.get(reason),
        resource: names.get(&resource),
        client: names.get(&client),
        count: row.count,
    });
    1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(resource: &str, client: &str, count: u64) -> Prevented {
        Prevented {
            reason: "peer_serves".into(),
            resource: resource.into(),
            client: client.into(),
            count,
        }
    }

    fn minute(minute: u64, prevented: Vec<Prevented>) -> Minute {
        Minute {
            minute,
            forwarded: 1,
            prevented,
            ..Minute::default()
        }
    }

    #[test]
    fn counts_of_one_minute_are_added() {
        let mut series = Series::default();
        for count in [2, 3] {
            let mut counted = minute(7, vec![row("batch/v1/jobs", "kubectl/v1.36", count)]);
            counted.requests = BTreeMap::from([("peer_serves".into(), count)]);
            series.add(counted, 7);
        }
        let all: Vec<_> = series.iter().collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].prevented(), all[0].forwarded), (5, 2));
        assert_eq!(all[0].requests[&Arc::from("peer_serves")], 5);
        assert_eq!(all[0].prevented.len(), 1);
    }

    #[test]
    fn what_is_older_than_a_day_goes_and_the_future_is_not_taken() {
        let mut series = Series::default();
        series.add(minute(0, Vec::new()), 0);
        series.add(minute(1, Vec::new()), 1);
        series.add(minute(MOST_MINUTES, Vec::new()), MOST_MINUTES);
        let at: Vec<_> = series.iter().map(|minute| minute.minute).collect();
        assert_eq!(at, [1, MOST_MINUTES]);
        series.add(minute(9999, Vec::new()), 5000);
        series.add(minute(1, Vec::new()), 5000);
        assert_eq!(series.iter().count(), 0);
    }

    #[test]
    fn a_client_with_ever_new_names_costs_a_bounded_number_of_rows_and_no_count() {
        let mut series = Series::default();
        let mut sent = 0;
        for at in 0..40 {
            for n in 0..400 {
                series.add(
                    minute(at, vec![row("v1/pods", &format!("evil-{at}-{n}"), 1)]),
                    at,
                );
                sent += 1;
            }
        }
        assert!(series.rows <= ALL_ROWS + 4);
        assert!(series.names.0.len() <= 2 * ALL_ROWS);
        let counted: u64 = series.iter().map(Minute::prevented).sum();
        assert_eq!(counted, sent, "nothing that was counted is lost");
        // The newest minutes still have their names, the oldest have not.
        assert!(series.iter().last().unwrap().prevented.len() >= ROWS);
        assert_eq!(series.iter().next().unwrap().prevented.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_counts_leave_it_bounded(
            counted in proptest::collection::vec(
                (0u64..3000, "(?s).{0,120}", "[a-c]{0,2}", any::<u64>()), 0..60),
            now in 0u64..3000,
        ) {
            let mut series = Series::default();
            for (at, resource, client, count) in counted {
                let mut counted = minute(at, vec![row(&resource, &client, count)]);
                counted.requests = BTreeMap::from([(client.as_str().into(), count)]);
                series.add(counted, now);
            }
            prop_assert!(series.iter().count() as u64 <= MOST_MINUTES + 1);
            for minute in series.iter() {
                prop_assert!(minute.minute <= now + 1 && minute.minute + MOST_MINUTES > now);
                prop_assert!(minute.requests.len() <= DECISIONS + 1);
                prop_assert!(minute.prevented.len() <= ROWS + 4);
            }
            prop_assert!(series.names.0.len() <= 2 * series.iter().map(|minute| minute.prevented.len() + minute.requests.len()).sum::<usize>() + 2);
            prop_assert_eq!(series.rows, series.iter().map(|minute| minute.prevented.len()).sum::<usize>());
            for name in &series.names.0 {
                prop_assert!(name.len() <= NAME + '…'.len_utf8());
            }
        }
    }
}
