//! Properties and examples of the merge.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::merge::{Input, merge};
use super::priority::{Priorities, stability};
use super::testing::{any_document, document, kind, resource, shown, texts};
use super::types::{Document, Freshness, GroupVersionKind, Scope, Version};

fn live(document: &Document) -> Input<'_> {
    Input {
        document,
        alive: true,
    }
}

fn dead(document: &Document) -> Input<'_> {
    Input {
        document,
        alive: false,
    }
}

fn merged(inputs: &[Input<'_>]) -> Document {
    merge(inputs, &Priorities::default())
}

/// Every (group, version, resource, subresource) with verbs and lists, order aside.
type Content = BTreeMap<[String; 4], BTreeSet<String>>;

fn content(document: &Document) -> Content {
    let mut content = Content::new();
    let mut add =
        |group: &str, version: &str, resource: &str, subresource: &str, words: Vec<String>| {
            let key = [group, version, resource, subresource].map(str::to_owned);
            content.entry(key).or_default().extend(words);
        };
    for g in &document.groups {
        add(&g.name, "", "", "", vec![]);
        for v in &g.versions {
            add(&g.name, &v.version, "", "", vec![]);
            for r in &v.resources {
                let mut words: Vec<String> = r.verbs.iter().map(|x| format!("verb {x}")).collect();
                words.extend(r.short_names.iter().map(|x| format!("short {x}")));
                words.extend(r.categories.iter().map(|x| format!("category {x}")));
                add(&g.name, &v.version, &r.resource, "", words);
                for s in &r.subresources {
                    let mut words: Vec<String> =
                        s.verbs.iter().map(|x| format!("verb {x}")).collect();
                    words.extend(s.accepted_types.iter().map(|x| format!("accepts {x:?}")));
                    add(&g.name, &v.version, &r.resource, &s.subresource, words);
                }
            }
        }
    }
    content
}

/// What is decided where servers differ, freshness included.
fn decided(document: &Document) -> BTreeMap<String, String> {
    let mut decided = BTreeMap::new();
    for g in &document.groups {
        for v in &g.versions {
            decided.insert(
                format!("{}/{}", g.name, v.version),
                format!("{:?}", v.freshness),
            );
            for r in &v.resources {
                let name = format!("{}/{}/{}", g.name, v.version, r.resource);
                let said = format!("{:?} {:?} {}", r.response_kind, r.scope, r.singular);
                decided.insert(name.clone(), said);
                for s in &r.subresources {
                    decided.insert(
                        format!("{name}/{}", s.subresource),
                        format!("{:?}", s.response_kind),
                    );
                }
            }
        }
    }
    decided
}

#[test]
fn versions_of_two_releases() {
    let old = document(
        "apps/v1: deployments deployments/scale
         scheduling.k8s.io/v1: priorityclasses
         scheduling.k8s.io/v1alpha2: podgroups workloads
         resource.k8s.io/v1beta1: deviceclasses",
    );
    let new = document(
        "apps/v1: deployments deployments/status
         lifecycle.k8s.io/v1alpha1: evictions
         scheduling.k8s.io/v1: priorityclasses
         scheduling.k8s.io/v1beta1: podgroups
         scheduling.k8s.io/v1alpha3: podgroups compositepodgroups
         resource.k8s.io/v1: deviceclasses
         resource.k8s.io/v1beta2: deviceclasses",
    );
    let expected = "apps/v1: deployments deployments/scale deployments/status
lifecycle.k8s.io/v1alpha1: evictions
scheduling.k8s.io/v1: priorityclasses
scheduling.k8s.io/v1beta1: podgroups
scheduling.k8s.io/v1alpha3: podgroups compositepodgroups
scheduling.k8s.io/v1alpha2: podgroups workloads
resource.k8s.io/v1: deviceclasses
resource.k8s.io/v1beta2: deviceclasses
resource.k8s.io/v1beta1: deviceclasses";
    assert_eq!(shown(&merged(&[live(&old), live(&new)])), expected);
}

#[test]
fn an_alpha_is_not_preferred_through_a_third_server() {
    let lists = [
        "g/v1alpha1: x\ng/v2: x",
        "g/v2: x\ng/v1: x",
        "g/v1: x\ng/v1alpha1: x",
    ]
    .map(document);
    let inputs: Vec<_> = lists.iter().map(live).collect();
    assert_eq!(shown(&merged(&inputs)), "g/v2: x\ng/v1: x\ng/v1alpha1: x");
    // What all servers say stands.
    let odd = document("g/v1alpha1: x\ng/v1: x");
    assert_eq!(merged(&[live(&odd), live(&odd)]), odd);
}

#[test]
fn dead_servers_keep_their_groups_but_do_not_lead() {
    let dying =
        document("new.io/v1: things\napps/v2: deployments\napps/v1: deployments daemonsets");
    let living = document("apps/v1beta1: deployments\napps/v1: deployments");
    let both = merged(&[dead(&dying), live(&living)]);
    assert_eq!(
        shown(&both),
        "new.io/v1!: things\napps/v1: deployments daemonsets\napps/v1beta1: deployments\napps/v2!: deployments"
    );
    let none = merged(&[dead(&living)]);
    assert_eq!(
        shown(&none),
        "apps/v1beta1!: deployments\napps/v1!: deployments"
    );
}

#[test]
fn stale_only_where_no_reachable_server_is_current() {
    let stale = document("g/v1!:");
    let current = document("g/v1: things");
    for (inputs, freshness) in [
        ([live(&stale), live(&current)], Freshness::Current),
        ([live(&stale), dead(&current)], Freshness::Stale),
        ([dead(&stale), live(&current)], Freshness::Current),
    ] {
        let merged = merged(&inputs);
        assert_eq!(merged.version("g", "v1").unwrap().freshness, freshness);
        assert_eq!(merged.version("g", "v1").unwrap().resources.len(), 1);
    }
}

#[test]
fn verbs_stay_as_they_are_or_are_sorted() {
    let mut a = document("g/v1: things");
    let mut b = a.clone();
    a.groups[0].versions[0].resources[0].verbs = texts(&["watch", "delete"]);
    b.groups[0].versions[0].resources[0].verbs = texts(&["watch", "delete"]);
    b.groups[0].versions[0].resources[0].short_names = texts(&["t"]);
    let verbs = |d: &Document| d.groups[0].versions[0].resources[0].verbs.clone();
    assert_eq!(
        verbs(&merged(&[live(&a), live(&b)])),
        texts(&["watch", "delete"])
    );
    b.groups[0].versions[0].resources[0].verbs = texts(&["watch", "get"]);
    assert_eq!(
        verbs(&merged(&[live(&a), live(&b)])),
        texts(&["delete", "get", "watch"])
    );
}

#[test]
fn scalar_fields_come_from_a_reachable_server_that_says_something() {
    let one = |kind: Option<GroupVersionKind>, scope, singular: &str| {
        let mut d = document("g/v1: things");
        let r = &mut d.groups[0].versions[0].resources[0];
        *r = resource("things", &["get"]);
        (r.response_kind, r.scope, r.singular) = (kind, scope, singular.into());
        d
    };
    let a = one(Some(kind("Zebra")), Scope::Namespaced, "");
    let b = one(Some(kind("Ape")), Scope::Cluster, "ape");
    let none = one(None, Scope::Cluster, "zzz");
    let said = |inputs: &[Input<'_>]| {
        let r = merged(inputs).groups[0].versions[0].resources[0].clone();
        (
            r.response_kind.unwrap().kind.to_string(),
            r.scope,
            r.singular.to_string(),
        )
    };
    assert_eq!(
        said(&[live(&a), live(&b)]),
        ("Ape".into(), Scope::Cluster, "ape".into())
    );
    assert_eq!(
        said(&[live(&a), dead(&b)]),
        ("Zebra".into(), Scope::Namespaced, "ape".into())
    );
    assert_eq!(
        said(&[dead(&a), live(&none)]),
        ("Zebra".into(), Scope::Namespaced, "zzz".into())
    );
}

#[test]
fn unknown_groups_come_by_given_priority() {
    let a = document("example.com/v1: a");
    let b = document("metrics.k8s.io/v1beta1: b");
    assert_eq!(
        shown(&merged(&[live(&b), live(&a)])),
        "example.com/v1: a\nmetrics.k8s.io/v1beta1: b"
    );
    let priorities = Priorities::of_services([("metrics.k8s.io", "v1beta1", 2_000, 100)]);
    let result = merge(&[live(&a), live(&b)], &priorities);
    assert_eq!(
        shown(&result),
        "metrics.k8s.io/v1beta1: b\nexample.com/v1: a"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn idempotent(a in any_document()) {
        prop_assert_eq!(&merged(&[live(&a)]), &a);
        prop_assert_eq!(&merged(&[live(&a), live(&a), dead(&a)]), &a);
    }

    #[test]
    fn commutative(documents in prop::collection::vec((any_document(), any::<bool>()), 0..4)) {
        let mut inputs: Vec<_> = documents
            .iter()
            .map(|(document, alive)| Input { document, alive: *alive })
            .collect();
        let first = merged(&inputs);
        for _ in 0..inputs.len() {
            inputs.rotate_left(1);
            prop_assert_eq!(&merged(&inputs), &first);
        }
        inputs.reverse();
        prop_assert_eq!(&merged(&inputs), &first);
        prop_assert_eq!(&merged(&[live(&first), live(&first)]), &first);
    }

    #[test]
    fn associative_in_content(a in any_document(), b in any_document(), c in any_document()) {
        let all = merged(&[live(&a), live(&b), live(&c)]);
        let left = merged(&[live(&merged(&[live(&a), live(&b)])), live(&c)]);
        let right = merged(&[live(&a), live(&merged(&[live(&b), live(&c)]))]);
        prop_assert_eq!(content(&all), content(&left));
        prop_assert_eq!(content(&all), content(&right));
        prop_assert_eq!(decided(&all), decided(&left));
        prop_assert_eq!(decided(&all), decided(&right));
    }

    #[test]
    fn nothing_is_lost_and_nothing_made_up(
        documents in prop::collection::vec((any_document(), any::<bool>()), 0..4),
    ) {
        let inputs: Vec<_> = documents
            .iter()
            .map(|(document, alive)| Input { document, alive: *alive })
            .collect();
        let result = merged(&inputs);
        let mut expected = Content::new();
        for (document, _) in &documents {
            for (key, words) in content(document) {
                expected.entry(key).or_default().extend(words);
            }
        }
        prop_assert_eq!(content(&result), expected);

        // Each key once, and what routing would read is the union as well.
        let keys: Vec<_> = result.api_set().entries().iter().map(|e| format!("{:?}", e.key())).collect();
        let union: BTreeSet<_> = documents
            .iter()
            .flat_map(|(d, _)| d.api_set().entries().iter().map(|e| format!("{:?}", e.key())).collect::<Vec<_>>())
            .collect();
        prop_assert_eq!(keys.iter().cloned().collect::<BTreeSet<_>>(), union);

        for group in &result.groups {
            for version in &group.versions {
                let has = |alive: bool| documents.iter().any(|(d, a)| {
                    *a == alive && d.version(&group.name, &version.version).is_some()
                });
                let current = documents.iter().any(|(d, alive)| {
                    let found = d.version(&group.name, &version.version);
                    *alive && found.is_some_and(|v| v.freshness == Freshness::Current)
                });
                prop_assert_eq!(version.freshness == Freshness::Current, current);
                prop_assert!(has(true) || has(false));
            }
        }
    }

    #[test]
    fn versions_are_ordered_by_who_serves_them_and_how_finished_they_are(
        documents in prop::collection::vec((any_document(), any::<bool>()), 1..4),
    ) {
        let inputs: Vec<_> = documents
            .iter()
            .map(|(document, alive)| Input { document, alive: *alive })
            .collect();
        for group in &merged(&inputs).groups {
            let lists: BTreeSet<Vec<_>> = documents
                .iter()
                .filter_map(|(d, _)| d.group(&group.name))
                .map(|g| g.versions.iter().map(|v| v.version.clone()).collect::<Vec<_>>())
                .filter(|list| !list.is_empty())
                .collect();
            let is_served = |v: &Version| documents.iter().any(|(d, alive)| {
                *alive && d.version(&group.name, &v.version).is_some()
            });
            let rank = |v: &Version| (!is_served(v), stability(&v.version));
            prop_assert!(lists.len() == 1 || group.versions.is_sorted_by_key(rank), "{:?}", group.versions);
        }
    }

    #[test]
    fn documents_of_one_order_keep_it(a in any_document(), masks in prop::collection::vec(any::<u64>(), 2..4)) {
        // Each server has some of the names of one document. Its versions are in Kubernetes' order.
        let mut whole = a;
        for group in &mut whole.groups {
            group.versions.sort_by(|x, y| super::priority::compare_versions(&x.version, &y.version));
        }
        let parts: Vec<Document> = masks.iter().map(|mask| part(&whole, *mask)).collect();
        let inputs: Vec<_> = parts.iter().map(live).collect();
        let result = merged(&inputs);
        for part in &parts {
            prop_assert!(is_subsequence(
                part.groups.iter().map(|g| &g.name),
                result.groups.iter().map(|g| &g.name),
            ));
            for group in &part.groups {
                let into = result.group(&group.name).unwrap();
                prop_assert!(is_subsequence(
                    group.versions.iter().map(|v| &v.version),
                    into.versions.iter().map(|v| &v.version),
                ));
                for version in &group.versions {
                    let into = result.version(&group.name, &version.version).unwrap();
                    prop_assert!(is_subsequence(
                        version.resources.iter().map(|r| &r.resource),
                        into.resources.iter().map(|r| &r.resource),
                    ));
                }
            }
        }
    }
}

/// Every item of `document` with one bit of `mask` or another set.
fn part(document: &Document, mask: u64) -> Document {
    let mut bit = 0;
    let mut chosen = || {
        bit = (bit + 7) % 64;
        mask & (1 << bit) != 0
    };
    let mut part = document.clone();
    part.groups.retain_mut(|group| {
        group.versions.retain_mut(|version| {
            version.resources.retain(|_| chosen());
            chosen()
        });
        chosen()
    });
    part
}

fn is_subsequence<T: PartialEq>(
    part: impl Iterator<Item = T>,
    mut whole: impl Iterator<Item = T>,
) -> bool {
    let mut part = part;
    part.all(|item| whole.any(|found| found == item))
}
