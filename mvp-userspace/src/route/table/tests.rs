use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::route::testing::{known, member, table};

fn key(text: &str) -> Key<'_> {
    let (group_version, resource) = text.split_once(' ').unwrap();
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Key {
        group,
        version,
        resource,
        subresource,
    }
}

#[test]
fn lookup_and_group_versions() {
    let table = table([
        member("a", true, &["v1 pods get,list", "apps/v1 deployments"]),
        member("b", false, &["v1 pods get", "apps/v2 deployments"]),
    ]);
    let pods = table.lookup(key("v1 pods")).unwrap();
    assert_eq!(pods.servers(), ServerSet::first(2));
    assert_eq!(pods.serving(Verb::List), ServerSet::one(0));
    assert_eq!(pods.serving(Verb::Proxy), ServerSet::first(2));
    assert_eq!(pods.verbs(1), VerbSet::from_names(["get"]));
    assert!(table.lookup(key("v1 pods/log")).is_none());
    // Parts must not run into each other.
    assert!(table.lookup(key("v1 podsx")).is_none());
    assert!(table.lookup(key("apps/v1d eployments")).is_none());
    assert_eq!(table.serves_group_version("apps", "v1"), ServerSet::one(0));
    assert_eq!(table.serves_group_version("apps", ""), ServerSet::first(2));
    assert_eq!(table.serves_group_version("", "v1"), ServerSet::first(2));
    assert!(table.serves_group_version("batch", "v1").is_empty());
    assert_eq!(&*table.local().unwrap().server.name, "a");
    assert_eq!(table.generation(), 1);
    assert_eq!(table.entries().count(), 3);
}

#[test]
fn differences_down_to_the_verb() {
    let pods = ["v1 pods get,list"];
    let more = ["v1 pods get,list,watch"];
    let log = ["v1 pods get,list", "v1 pods/log get"];
    let compare = |a: &[&str], b: &[&str]| {
        let table = table([member("a", true, a), member("b", false, b)]);
        (table.differs(), table.is_superset(0), table.is_superset(1))
    };
    assert_eq!(compare(&pods, &pods), (false, true, true));
    assert_eq!(compare(&pods, &more), (true, false, true));
    assert_eq!(compare(&log, &pods), (true, true, false));
    assert_eq!(compare(&log, &more), (true, false, false));
    // A key without verbs is a difference too.
    assert_eq!(compare(&["v1 x none"], &[]), (true, true, false));

    let unknown = known(member("b", false, &[]), Knowledge::Never);
    let table_of_two = table([member("a", true, &pods), unknown.clone()]);
    assert!(table_of_two.differs() && !table_of_two.is_superset(0));
    let alone = table([unknown]);
    assert!(!alone.differs() && alone.is_superset(0));
}

#[test]
fn more_servers_than_fit() {
    let table = table((0..70).map(|i| member(&format!("s{i}"), i == 69, &["v1 pods"])));
    assert_eq!(table.members().len(), MAX_SERVERS);
    assert_eq!(table.ignored(), 6);
    assert_eq!(&*table.local().unwrap().server.name, "s69");
    assert_eq!(table.lookup(key("v1 pods")).unwrap().servers().len(), 64);
}

proptest! {
    /// The table against the plainest model of it.
    #[test]
    fn equals_a_map(
        servers in proptest::collection::vec(
            proptest::collection::vec(("(|a|b)", "v[12]", "[pq]{1,2}", "(|s|t)", 0usize..8), 0..20),
            1..6,
        ),
    ) {
        let verbs = |bits: usize| VerbSet::from_names(
            ["get", "list", "watch"].into_iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, v)| v),
        );
        let mut model: BTreeMap<(String, String, String, String), BTreeMap<usize, VerbSet>> = BTreeMap::new();
        let mut members = Vec::new();
        for (index, keys) in servers.iter().enumerate() {
            let mut entries = Vec::new();
            for (group, version, resource, subresource, bits) in keys {
                entries.push(ApiEntry {
                    group: group.as_str().into(),
                    version: version.as_str().into(),
                    resource: resource.as_str().into(),
                    subresource: subresource.as_str().into(),
                    verbs: verbs(*bits),
                });
                let listed = model
                    .entry((group.clone(), version.clone(), resource.clone(), subresource.clone()))
                    .or_default()
                    .entry(index)
                    .or_default();
                *listed = listed.union(verbs(*bits));
            }
            let mut member = member(&format!("s{index}"), index == 0, &[]);
            member.apis = Some(Arc::new(ApiSet::new(entries)));
            members.push(member);
        }
        let count = members.len();
        let table = RouteTable::build(1, members);
        prop_assert_eq!(table.entries().count(), model.len());
        for group in ["", "a", "b", "c"] {
            for version in ["v1", "v2", "v3"] {
                let expected: ServerSet = model
                    .iter()
                    .filter(|((g, v, ..), _)| g == group && v == version)
                    .flat_map(|(_, listed)| listed.keys().copied())
                    .collect();
                prop_assert_eq!(table.serves_group_version(group, version), expected);
                for resource in ["p", "q", "pp", "pq", "qp", "qq", "x"] {
                    for subresource in ["", "s", "t", "u"] {
                        let listed = model.get(&(group.into(), version.into(), resource.into(), subresource.into()));
                        let entry = table.lookup(Key { group, version, resource, subresource });
                        prop_assert_eq!(entry.is_some(), listed.is_some());
                        let (Some(entry), Some(listed)) = (entry, listed) else { continue };
                        prop_assert_eq!(entry.servers(), listed.keys().copied().collect());
                        for (server, verbs) in listed {
                            prop_assert_eq!(entry.verbs(*server), *verbs);
                        }
                        for verb in [Verb::Get, Verb::List, Verb::Watch, Verb::Create] {
                            let able = listed.iter().filter(|(_, v)| v.contains(verb)).map(|(s, _)| *s);
                            prop_assert_eq!(entry.serving(verb), able.collect());
                        }
                    }
                }
            }
        }
        let of = |server: usize| -> BTreeMap<_, _> {
            model.iter().filter_map(|(k, listed)| Some((k, *listed.get(&server)?))).collect()
        };
        let holds = |a: usize, b: usize| of(b).iter().all(|(k, v)| of(a).get(k).is_some_and(|w| w.is_superset(*v)));
        prop_assert_eq!(table.differs(), (0..count).any(|i| of(i) != of(0)));
        for server in 0..count {
            prop_assert_eq!(table.is_superset(server), (0..count).all(|other| holds(server, other)));
        }
    }
}
