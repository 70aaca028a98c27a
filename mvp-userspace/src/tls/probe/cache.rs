//! What probes have shown, and which are due. Pure; time is passed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{ProbeError, Probed};

/// (server, name) pairs remembered. Names come from clients: a client can fill the table, which costs the others relaying and
/// nothing else, and it can have at most this many handshakes made in 20 seconds.
pub const MAX_PROBES: usize = 256;
/// Between two probes of one pair, whether they succeed or not.
const REFRESH: Duration = Duration::from_secs(20);
/// A pair that nobody asked for in so long is probed no more, and gives way to another.
const IN_USE: Duration = Duration::from_secs(60);
/// The time after which a name is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// A probe that has not come back in so long never will: its task was dropped.
const LOST: Duration = Duration::from_secs(120);

/// What is known of one server under one name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProbeView {
    /// Time since the last probe that succeeded.
    pub age: Duration,
    /// Since the certificate was first seen, without another in between.
    pub unchanged_for: Duration,
    /// It leads to the CA that issued the certificate which the agent itself shows for the name.
    pub same_ca: bool,
    /// Its names include the one that was asked for; true if none was.
    pub valid_for_name: bool,
    /// End of the certificate's validity, Unix seconds.
    pub not_after: i64,
}

/// A server, by its name in the membership, and the name to ask it for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    /// Its name in the membership.
    pub server: Box<str>,
    /// The name in lower case.
    pub server_name: Option<Box<str>>,
}

/// What probes of servers showed. Bounded: the target that was used least recently gives way.
#[derive(Debug, Default)]
pub struct ProbeCache {
    entries: HashMap<Target, Entry>,
}

#[derive(Debug)]
struct Entry {
    used: Instant,
    /// The last probe's begin.
    begun: Option<Instant>,
    under_way: bool,
    seen: Option<Seen>,
    error: Option<String>,
}

#[derive(Debug)]
struct Seen {
    probed: Probed,
    at: Instant,
    /// When this certificate was first seen.
    since: Instant,
}

impl ProbeCache {
    /// What is known, and a note that it is asked for. `None`: nothing yet, or no room to remember the question.
    pub fn view(
        &mut self,
        server: &str,
        server_name: Option<&str>,
        now: Instant,
    ) -> Option<ProbeView> {
        let target = Target::new(server, server_name);
        if let Some(entry) = self.entries.get_mut(&target) {
            entry.used = entry.used.max(now);
            return entry.view(now);
        }
        if self.entries.len() >= MAX_PROBES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let idle = oldest.filter(|(_, entry)| since(entry.used, now) > IN_USE);
            let target = idle.map(|(target, _)| target.clone())?;
            self.entries.remove(&target);
        }
        self.entries.insert(
            target,
            Entry {
                used: now,
                begun: None,
                under_way: false,
                seen: None,
                error: None,
            },
        );
        None
    }

    /// Why the last probe failed; `None` if it did not.
    pub fn last_error(&self, server: &str, server_name: Option<&str>) -> Option<String> {
        self.entries
            .get(&Target::new(server, server_name))?
            .error
            .clone()
    }

    /// The probes to be made now; each counts as under way until [`Self::done`]. Those that have waited longest first.
    pub fn due(&mut self, now: Instant) -> Vec<Target> {
        self.entries
            .retain(|_, entry| since(entry.used, now) <= FORGOTTEN);
        let mut due: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_due(now))
            .collect();
        due.sort_by_key(|(_, entry)| entry.begun);
        due.into_iter()
            .map(|(target, entry)| {
                entry.begun = Some(now);
                entry.under_way = true;
                target.clone()
            })
            .collect()
    }

    /// A probe came back. What was known before stands, and ages, if it failed.
    pub fn done(&mut self, target: &Target, result: Result<Probed, ProbeError>, now: Instant) {
        let Some(entry) = self.entries.get_mut(target) else {
            return;
        };
        entry.under_way = false;
        match result {
            Err(error) => entry.error = Some(error.to_string()),
            Ok(probed) => {
                entry.error = None;
                let since = match &entry.seen {
                    Some(seen) if seen.probed.fingerprint == probed.fingerprint => seen.since,
                    _ => now,
                };
                entry.seen = Some(Seen {
                    probed,
                    at: now,
                    since,
                });
            }
        }
    }
}

impl Target {
    fn new(server: &str, server_name: Option<&str>) -> Self {
        Self {
            server: server.into(),
            server_name: server_name.map(|name| name.to_ascii_lowercase().into()),
        }
    }
}

impl Entry {
    fn view(&self, now: Instant) -> Option<ProbeView> {
        let seen = self.seen.as_ref()?;
        Some(ProbeView {
            age: since(seen.at, now),
            unchanged_for: since(seen.since, now),
            same_ca: seen.probed.same_ca,
            valid_for_name: seen.probed.valid_for_name,
            not_after: seen.probed.not_after,
        })
    }

    fn is_due(&self, now: Instant) -> bool {
        let wait = if self.under_way { LOST } else { REFRESH };
        since(self.used, now) <= IN_USE && self.begun.is_none_or(|begun| since(begun, now) >= wait)
    }
}

fn since(then: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(then)
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
