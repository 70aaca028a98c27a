//! What happens to relayed connections when a condition no longer holds. Their clients cannot be asked to leave, because the TLS is not
//! the agent's. They can only be ended: in a silent moment, or at once if a client might otherwise get a false 404.

use std::sync::Arc;
use std::time::Duration;

use super::permit::{self, ProbeFacts, RelayConditions};
use crate::api::{ApiEntry, ApiSet, Key, Verb};
use crate::codes::codes;
use crate::route::{Knowledge, RouteTable, Server};

/// Silence in both directions after which ending a connection disturbs no request.
pub const SILENCE: Duration = Duration::from_secs(5);
/// Differences between servers must last for so long. Servers take up to two polls to agree on every CRD that is created or
/// deleted, which must not cost the relayed connections each time.
pub const GRACE: Duration = Duration::from_secs(3);

codes! {
    /// Why a relayed connection is ended. `docs/relay.md` lists them; a test compares.
    RetireReason {
        ServerGone "server_gone" "the server left the membership",
        LostKey "lost_key" "the server no longer serves something that another does",
        NotSuperset "not_superset" "another server has come to serve something that this one does not",
        LocalSuffices "local_suffices" "the local server serves all that any other does",
        ServerNotConfirmed "server_not_confirmed" "what the server serves is not freshly confirmed",
        ServerUnavailable "server_unavailable" "the server cannot be used now",
        OtherCa "other_ca" "the server's certificate for this name is no longer of the CA that issued the agent's own",
        NameNotCovered "name_not_covered" "the server's certificate is no longer valid for this name",
        Draining "draining" "the agent is draining",
        Share "share" "more than relay.maxShare of this node's connections are relayed",
    }
}

/// What happens to one relayed connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RelayFate {
    /// It stays.
    Keep,
    /// Ended once it has been silent in both directions for [`SILENCE`]. Asked anew each time: a condition that holds again
    /// lets it stay.
    WhenSilent(RetireReason),
    /// Ended at once, although a request may be cut: it is with a server that cannot answer it rightly any more.
    Now(RetireReason),
}

/// One relayed connection.
#[derive(Clone, Debug)]
pub struct RelayedFacts<'a> {
    /// The server that it is relayed to.
    pub server: &'a Arc<Server>,
    /// What the server served when the connection was relayed.
    pub served: &'a ApiSet,
    /// For how long [`lost_key`] has been true of it without a break; `None`: it is not.
    pub lost_key_for: Option<Duration>,
    /// The same of [`RouteTable::is_superset`] being false.
    pub not_superset_for: Option<Duration>,
    /// The last probe with this connection's server name.
    pub probe: Option<ProbeFacts>,
    /// Time since the last byte in either direction.
    pub silent_for: Duration,
}

impl RelayFate {
    /// Whether the connection is to be ended now.
    pub fn is_due(self, silent_for: Duration) -> bool {
        match self {
            RelayFate::Keep => false,
            RelayFate::WhenSilent(_) => silent_for >= SILENCE,
            RelayFate::Now(_) => true,
        }
    }

    /// Why it ends; `None` if it stays.
    pub fn reason(self) -> Option<RetireReason> {
        match self {
            RelayFate::Keep => None,
            RelayFate::WhenSilent(reason) | RelayFate::Now(reason) => Some(reason),
        }
    }
}

/// One verdict for each of this node's relayed connections, in order. `view.probes` is not read: every connection brings its
/// own.
pub fn retire(connections: &[RelayedFacts<'_>], view: &RelayConditions<'_>) -> Vec<RelayFate> {
    let mut verdicts: Vec<_> = connections.iter().map(|one| verdict(one, view)).collect();
    // Too many: the silent ones first, and no more than are too many.
    let mut kept: Vec<_> = (0..connections.len())
        .filter(|&index| verdicts.get(index) == Some(&RelayFate::Keep))
        .collect();
    let room = (view.max_share * view.open as f64).floor() as usize;
    kept.sort_by_key(|&index| connections.get(index).map(|one| one.silent_for));
    for index in kept.into_iter().skip(room) {
        if let Some(verdict) = verdicts.get_mut(index) {
            *verdict = RelayFate::WhenSilent(RetireReason::Share);
        }
    }
    verdicts
}

/// Whether the server no longer serves something of `served`, verbs and subresources included, that another server serves now.
/// What has vanished everywhere (a CRD was deleted) is not lost. Costs a look-up for each key: to be asked once for each table
/// and set, not for each connection.
pub fn lost_key(server: &Arc<Server>, served: &ApiSet, table: &RouteTable) -> bool {
    let Some(index) = table.position(server) else {
        return true;
    };
    let lost = |api: &ApiEntry| {
        let (group, version, resource, subresource) = api.key();
        let key = Key {
            group,
            version,
            resource,
            subresource,
        };
        table.lookup(key).is_some_and(|entry| {
            // In the table at all, so somebody serves it.
            !entry.servers().contains(index)
                || api.verbs.iter().any(|verb: Verb| {
                    let serving = entry.serving(verb);
                    !serving.is_empty() && !serving.contains(index)
                })
        })
    };
    served.entries().iter().any(lost)
}

fn verdict(one: &RelayedFacts<'_>, view: &RelayConditions<'_>) -> RelayFate {
    use RetireReason::*;
    let member = view
        .table
        .position(one.server)
        .and_then(|index| view.table.member(index));
    let Some(member) = member else {
        return RelayFate::WhenSilent(ServerGone);
    };
    let lasts = |for_so_long: Option<Duration>| for_so_long.is_some_and(|long| long >= GRACE);
    if lasts(one.lost_key_for) {
        return RelayFate::Now(LostKey);
    }
    let reason = if view.draining {
        Draining
    } else if permit::local_suffices(view.table) {
        LocalSuffices
    } else if member.knowledge != Knowledge::Confirmed {
        ServerNotConfirmed
    } else if !member.server.available() {
        ServerUnavailable
    } else if one.probe.is_some_and(|probe| !probe.same_ca) {
        OtherCa
    } else if one.probe.is_some_and(|probe| !probe.valid_for_name) {
        NameNotCovered
    } else if lasts(one.not_superset_for) {
        NotSuperset
    } else {
        return RelayFate::Keep;
    };
    RelayFate::WhenSilent(reason)
}

#[cfg(test)]
#[path = "retire_tests.rs"]
mod tests;
