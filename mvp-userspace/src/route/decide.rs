//! The rules by which a [`super::Plan`] is made. `docs/routing.md` has the same order as a table.

use super::{Reason, RouteTable, ServerSet};
use crate::api::Key;
use crate::request::{PathClass, RequestInfo, classify};
use crate::tls::IdentityClass;

/// What is known about a request beside what it asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Context {
    /// A trusted front proxy has marked it `x-kubernetes-peer-proxied: true`.
    pub hop_marked: bool,
    /// False: everything is answered by the local server (`UnknownVersionInteroperabilityProxy=false`).
    pub interoperability: bool,
    /// How the caller is conveyed: a server that is not proved for it is no candidate.
    pub class: IdentityClass,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Target {
    /// The local server, whatever its health.
    Local,
    /// Any of these. All can answer, all were available, and the local one is not among them.
    Servers(ServerSet),
    /// The local server is asked (or, if it is not available, any other), but its 404 for an unknown type may not be passed
    /// on before a refresh: decide again with the new table; if the key is still unknown, [`super::verdict_unknown`].
    Unknown,
    /// A capable server is known but none can be used now: 503 with `Retry-After`.
    Unavailable,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Decision {
    pub target: Target,
    pub reason: Reason,
}

/// Decides where a request goes. Pure but for the servers' health (one atomic load for each server that is considered); no
/// allocation.
pub(super) fn decide(info: &RequestInfo<'_>, table: &RouteTable, ctx: Context) -> Decision {
    if !ctx.interoperability {
        return local(Reason::InteroperabilityOff);
    }
    if ctx.hop_marked {
        return local(Reason::HopMarked);
    }
    if info.is_resource {
        resource(info, table, ctx.class)
    } else {
        non_resource(&info.path, table, ctx.class)
    }
}

/// Those of `set` that a request of this class may be sent to now.
pub(super) fn usable(table: &RouteTable, set: ServerSet, class: IdentityClass) -> ServerSet {
    table.proved(table.available(set), class)
}

fn resource(info: &RequestInfo<'_>, table: &RouteTable, class: IdentityClass) -> Decision {
    let key = info.key();
    let Some(entry) = table.lookup(key) else {
        return published(key, table, class).unwrap_or(Decision {
            target: Target::Unknown,
            reason: Reason::UnknownKey,
        });
    };
    let with_verb = entry.serving(info.verb);
    let (capable, verb_nowhere) = match with_verb.is_empty() {
        true => (entry.servers(), true),
        false => (with_verb, false),
    };
    let here = table.local_set();
    let local_capable = !capable.intersection(here).is_empty();
    if local_capable && !usable(table, here, class).is_empty() {
        return local(match verb_nowhere {
            true => Reason::VerbNowhere,
            false => Reason::LocalServes,
        });
    }
    let local_unknown = table.local().is_some_and(|local| local.is_unknown());
    let others = usable(table, capable.difference(here), class);
    if !others.is_empty() {
        let reason = if verb_nowhere {
            Reason::VerbNowhere
        } else if local_capable {
            Reason::LocalDown
        } else if local_unknown {
            Reason::LocalUnknown
        } else if !entry.servers().intersection(here).is_empty() {
            Reason::VerbOnPeer
        } else if local_serves_parent(key, table) {
            Reason::SubresourceOnPeer
        } else {
            Reason::PeerServes
        };
        return servers(others, reason);
    }
    if let Some(decision) = published(key, table, class)
        && decision != UNREACHABLE
    {
        return decision;
    }
    if local_unknown {
        // It may well serve the key; if it does not, its 404 must not pass: `Unknown`, not `Local`.
        return Decision {
            target: Target::Unknown,
            reason: Reason::LocalUnknown,
        };
    }
    UNREACHABLE
}

/// Where a request goes by what servers published about themselves: after all that servers say, since it is without verbs and may be
/// wrong. `None`: nobody published the key.
fn published(key: Key<'_>, table: &RouteTable, class: IdentityClass) -> Option<Decision> {
    let set = table.published(key).difference(table.local_set());
    if set.is_empty() {
        return None;
    }
    let usable = usable(table, set, class);
    if !usable.is_empty() {
        return Some(servers(usable, Reason::StorageVersion));
    }
    let local_unknown = table.local().is_some_and(|local| local.is_unknown());
    Some(match local_unknown {
        // It may well serve the key itself.
        true => Decision {
            target: Target::Unknown,
            reason: Reason::LocalUnknown,
        },
        false => UNREACHABLE,
    })
}

fn non_resource(path: &str, table: &RouteTable, class: IdentityClass) -> Decision {
    let (group, version) = match classify(path) {
        PathClass::Probe => return local(Reason::Probe),
        PathClass::Discovery { group, version } | PathClass::OpenApi { group, version } => {
            (group, version)
        }
        PathClass::Resource | PathClass::Other => ("", ""),
    };
    let here = table.local_set();
    let local_available = !usable(table, here, class).is_empty();
    if (group, version) != ("", "") {
        let serving = table.serves_group_version(group, version);
        let others = usable(table, serving.difference(here), class);
        let listed_here = !serving.intersection(here).is_empty();
        let local_unknown = table.local().is_some_and(|local| local.is_unknown());
        if listed_here && local_available {
            return local(Reason::NonResource);
        }
        if !others.is_empty() {
            return servers(
                others,
                match listed_here {
                    true => Reason::LocalDown,
                    false => Reason::DiscoveryOnPeer,
                },
            );
        }
        // Somebody serves it, so a 404 from one who is known not to would be false.
        let local_may_serve = local_unknown && local_available;
        if !serving.is_empty() && !local_may_serve {
            return UNREACHABLE;
        }
    }
    if local_available {
        return local(Reason::NonResource);
    }
    let others = usable(table, table.all().difference(here), class);
    match others.is_empty() {
        true => local(Reason::NonResource),
        false => servers(others, Reason::LocalDown),
    }
}

const UNREACHABLE: Decision = Decision {
    target: Target::Unavailable,
    reason: Reason::CapableServerUnreachable,
};

fn local(reason: Reason) -> Decision {
    Decision {
        target: Target::Local,
        reason,
    }
}

fn servers(set: ServerSet, reason: Reason) -> Decision {
    Decision {
        target: Target::Servers(set),
        reason,
    }
}

fn local_serves_parent(key: Key<'_>, table: &RouteTable) -> bool {
    let parent = Key {
        subresource: "",
        ..key
    };
    !key.subresource.is_empty()
        && table
            .lookup(parent)
            .is_some_and(|entry| !entry.servers().intersection(table.local_set()).is_empty())
}

#[cfg(test)]
mod tests;
