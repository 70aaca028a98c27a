//! The mix of traffic: what the n-th request is. The mix is fixed, so that both halves of the demo see the same.

/// Kinds of requests, as the table shows them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    Get,
    List,
    Create,
    Delete,
    Discovery,
    /// A request for a resource that only 1.36 serves.
    New,
    Watch,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    /// A GET whose answer must be a 200.
    Read { kind: Kind, path: String },
    /// A create and, once answered, a delete, in this collection.
    Cycle { collection: String, name: String },
    /// Aggregated discovery, with the ETag that the client holds.
    Discover { path: &'static str },
}

pub(super) const NAMESPACE: &str = "demo";
pub(super) const CONFIG_MAPS: &str = "/api/v1/namespaces/demo/configmaps";
/// Resources that came with 1.36.
pub(super) const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
pub(super) const BINDINGS: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";
/// Objects that exist all the time: `seed-0` and so on.
pub(super) const SEEDS: u64 = 10;
/// The one object of each new resource.
pub(super) const POLICY: &str = "demo-policy";

const CYCLE: u64 = 20;

impl Kind {
    pub(super) const ALL: [Kind; 7] = [
        Self::Get,
        Self::List,
        Self::Create,
        Self::Delete,
        Self::Discovery,
        Self::New,
        Self::Watch,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Discovery => "discovery",
            Self::New => "1.36 only",
            Self::Watch => "watch",
        }
    }
}

/// The `number`-th operation. While no upgraded server has been ready, a 404 for a new resource is the truth: then
/// `new_keys` is false, and an object that everyone serves is read in its place.
pub(super) fn operation(number: u64, new_keys: bool) -> Operation {
    match number % CYCLE {
        7 | 8 => list(format!("{CONFIG_MAPS}?limit=20")),
        9 => list(format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")),
        10 | 11 => Operation::Cycle {
            collection: CONFIG_MAPS.into(),
            name: format!("cycle-{number}"),
        },
        12 => Operation::Discover { path: "/apis" },
        13 => Operation::Discover { path: "/api" },
        14 | 15 if new_keys => new(format!("{POLICIES}/{POLICY}")),
        16 if new_keys => new(POLICIES.into()),
        17 | 18 if new_keys => new(format!("{BINDINGS}/{POLICY}")),
        19 if new_keys => new(BINDINGS.into()),
        _ => Operation::Read {
            kind: Kind::Get,
            path: format!("{CONFIG_MAPS}/seed-{}", number % SEEDS),
        },
    }
}

/// Which of `clients` sends it: every client sends every kind.
pub(super) fn client(number: u64, clients: usize) -> usize {
    ((number % CYCLE + number / CYCLE) % clients as u64) as usize
}

fn list(path: String) -> Operation {
    Operation::Read {
        kind: Kind::List,
        path,
    }
}

fn new(path: String) -> Operation {
    Operation::Read {
        kind: Kind::New,
        path,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn new_resources_are_asked_for_only_when_some_server_has_them() {
        let is_new = |operation: &Operation| {
            matches!(
                operation,
                Operation::Read {
                    kind: Kind::New,
                    ..
                }
            )
        };
        assert_eq!(
            (0..CYCLE).filter(|&n| is_new(&operation(n, false))).count(),
            0
        );
        assert_eq!(
            (0..CYCLE).filter(|&n| is_new(&operation(n, true))).count(),
            6
        );
    }

    #[test]
    fn every_client_sends_every_operation() {
        let pairs: HashSet<_> = (0..4000).map(|n| (client(n, 12), n % CYCLE)).collect();
        assert_eq!(pairs.len(), 12 * CYCLE as usize);
    }
}
