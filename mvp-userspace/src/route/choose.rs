//! Which of several capable servers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{RouteTable, Server, ServerSet};

/// The server of `set` that gets the next request: available ones first, then the one with the fewest outstanding requests,
/// ties by `random`. `None` if the set is empty.
pub(super) fn choose(table: &RouteTable, set: ServerSet, random: u64) -> Option<Arc<Server>> {
    let mut best = (true, usize::MAX);
    let mut ties = ServerSet::EMPTY;
    for index in set.iter() {
        let Some(member) = table.member(index) else {
            continue;
        };
        let load = (
            !member.server.available(),
            member.server.outstanding.load(Ordering::Relaxed),
        );
        if load < best {
            best = load;
            ties = ServerSet::EMPTY;
        }
        if load == best {
            ties.insert(index);
        }
    }
    let nth = random.checked_rem(ties.len() as u64)?;
    let index = ties.iter().nth(nth as usize)?;
    table.member(index).map(|member| member.server.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::testing::{member, table};
    use crate::route::{Failure, ReadyzOutcome};

    fn three() -> RouteTable {
        table([
            member("a", true, &["v1 pods"]),
            member("b", false, &["v1 pods"]),
            member("c", false, &["v1 pods"]),
        ])
    }

    fn name(server: Option<Arc<Server>>) -> Option<String> {
        server.map(|s| s.name.to_string())
    }

    #[test]
    fn least_outstanding_then_random() {
        let table = three();
        let pick = |random| name(choose(&table, table.all(), random));
        assert_eq!(pick(0).as_deref(), Some("a"));
        assert_eq!(pick(1).as_deref(), Some("b"));
        assert_eq!(pick(5).as_deref(), Some("c"));
        let load = |index: usize, n| {
            table.members()[index]
                .server
                .outstanding
                .store(n, Ordering::Relaxed)
        };
        load(0, 2);
        load(1, 1);
        load(2, 2);
        for random in 0..6 {
            assert_eq!(pick(random).as_deref(), Some("b"));
        }
    }

    #[test]
    fn available_first_but_not_only() {
        let table = three();
        let b = &table.members()[1].server;
        table.members()[0].server.failed(Failure::Refused);
        table.members()[2].server.probed(ReadyzOutcome::NotReady);
        b.outstanding.store(100, Ordering::Relaxed);
        let pick = |exclude| name(choose(&table, table.all().difference(exclude), 0));
        assert_eq!(pick(ServerSet::EMPTY).as_deref(), Some("b"));
        assert_eq!(pick(ServerSet::one(1)).as_deref(), Some("a"));
        assert_eq!(pick(table.all()), None);
        // A set of another table may name more servers than this one has.
        assert_eq!(name(choose(&table, ServerSet::one(9), 0)), None);
    }

    #[test]
    fn an_extreme_load_is_still_chosen() {
        let table = three();
        let b = &table.members()[1].server;
        b.failed(Failure::Refused);
        b.outstanding.store(usize::MAX, Ordering::Relaxed);
        let chosen = choose(&table, ServerSet::one(1), 7);
        assert_eq!(name(chosen).as_deref(), Some("b"));
    }

    proptest! {
        #[test]
        fn never_excluded_always_from_the_set(
            servers in proptest::collection::vec((any::<bool>(), 0usize..4), 1..64),
            set in any::<u64>(),
            exclude in any::<u64>(),
            random in any::<u64>(),
        ) {
            let table = table((0..servers.len()).map(|i| member(&format!("s{i}"), i == 0, &[])));
            for (member, (up, load)) in table.members().iter().zip(&servers) {
                member.server.outstanding.store(*load, Ordering::Relaxed);
                if !up {
                    member.server.failed(Failure::Refused);
                }
            }
            let of = |bits: u64| (0..64).filter(|i| bits >> i & 1 == 1).collect::<ServerSet>();
            let (set, exclude) = (of(set), of(exclude));
            let candidates: Vec<_> = set.difference(exclude).iter().filter(|i| *i < servers.len()).collect();
            match choose(&table, set.difference(exclude), random) {
                None => prop_assert!(candidates.is_empty()),
                Some(server) => {
                    let index = table.position(&server).unwrap();
                    prop_assert!(candidates.contains(&index));
                    let rank = |i: usize| (!servers[i].0, servers[i].1);
                    prop_assert!(candidates.iter().all(|c| rank(index) <= rank(*c)));
                }
            }
        }
    }
}
