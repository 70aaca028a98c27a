//! Documents for tests: compact to write, and random ones of few names, so that they overlap.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::types::{
    Document, Freshness, Group, GroupVersionKind, Resource, Scope, Subresource, Text, Version,
};

/// `group/version: resource resource/subresource, ...`, one group version a line; `!` behind the version: stale. Every verb list
/// is `get`.
pub(super) fn document(text: &str) -> Document {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (gv, names) = line.split_once(':').unwrap();
        let (group, version) = gv.split_once('/').unwrap();
        let mut resources: Vec<Resource> = Vec::new();
        for name in names.split_whitespace() {
            match name.split_once('/') {
                None => resources.push(resource(name, &["get"])),
                Some((_, subresource)) => {
                    let parent = resources.last_mut().unwrap();
                    parent.subresources.push(Subresource {
                        subresource: subresource.into(),
                        response_kind: Some(kind("Sub")),
                        accepted_types: Vec::new(),
                        verbs: texts(&["get"]),
                    });
                }
            }
        }
        let version = Version {
            version: version.trim_end_matches('!').into(),
            resources,
            freshness: if version.ends_with('!') {
                Freshness::Stale
            } else {
                Freshness::Current
            },
        };
        match groups.iter_mut().find(|found| *found.name == *group) {
            Some(found) => found.versions.push(version),
            None => groups.push(Group {
                name: group.into(),
                versions: vec![version],
            }),
        }
    }
    Document { groups }
}

pub(super) fn resource(name: &str, verbs: &[&str]) -> Resource {
    Resource {
        resource: name.into(),
        response_kind: Some(kind(name)),
        scope: Scope::Namespaced,
        singular: name.into(),
        verbs: texts(verbs),
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
    }
}

pub(super) fn kind(name: &str) -> GroupVersionKind {
    GroupVersionKind {
        kind: name.into(),
        ..GroupVersionKind::default()
    }
}

pub(super) fn texts(names: &[&str]) -> Vec<Text> {
    names.iter().map(|name| (*name).into()).collect()
}

/// As in [`document`], without verbs.
pub(super) fn shown(document: &Document) -> String {
    let mut lines = Vec::new();
    for group in &document.groups {
        for version in &group.versions {
            let mut names = Vec::new();
            for resource in &version.resources {
                names.push(resource.resource.to_string());
                let subresources = resource.subresources.iter();
                names.extend(
                    subresources.map(|s| format!("{}/{}", resource.resource, s.subresource)),
                );
            }
            let stale = if version.freshness == Freshness::Stale {
                "!"
            } else {
                ""
            };
            lines.push(format!(
                "{}/{}{stale}: {}",
                group.name,
                version.version,
                names.join(" ")
            ));
        }
    }
    lines.join("\n")
}

pub(super) fn any_document() -> impl Strategy<Value = Document> {
    named(
        &["apps", "autoscaling", "example.com", "zeta.io", "a<b"],
        3,
        any_versions,
    )
    .prop_map(|groups| Document {
        groups: groups
            .into_iter()
            .map(|(name, versions)| Group { name, versions })
            .collect(),
    })
}

fn any_versions() -> BoxedStrategy<Vec<Version>> {
    let names = &["v1", "v2", "v1beta1", "v1beta2", "v1alpha1", "stable"];
    let content = || (any_resources(), prop::bool::weighted(0.8));
    named(names, 3, content)
        .prop_map(|versions| {
            let version = |(version, (resources, current))| Version {
                version,
                resources,
                freshness: if current {
                    Freshness::Current
                } else {
                    Freshness::Stale
                },
            };
            versions.into_iter().map(version).collect()
        })
        .boxed()
}

fn any_resources() -> BoxedStrategy<Vec<Resource>> {
    let content = || {
        (
            any_kind(),
            any::<bool>(),
            select(vec!["", "one", "other"]),
            any_texts(&["get", "list", "watch", "create", "délete"]),
            any_texts(&["x", "y", "&"]),
            any_texts(&["all", "none"]),
            any_subresources(),
        )
    };
    named(&["alphas", "betas", "gammas", "deltas"], 2, content)
        .prop_map(|resources| {
            let resources = resources.into_iter();
            resources
                .map(
                    |(resource, (kind, namespaced, singular, verbs, short, categories, subs))| {
                        Resource {
                            resource,
                            response_kind: kind,
                            scope: if namespaced {
                                Scope::Namespaced
                            } else {
                                Scope::Cluster
                            },
                            singular: singular.into(),
                            verbs,
                            short_names: short,
                            categories,
                            subresources: subs,
                        }
                    },
                )
                .collect()
        })
        .boxed()
}

fn any_subresources() -> BoxedStrategy<Vec<Subresource>> {
    let content = || {
        let accepted = subsequence(vec![kind("Eviction"), kind("Scale")], 0..=2).prop_shuffle();
        (any_kind(), accepted, any_texts(&["get", "patch", "update"]))
    };
    named(&["status", "scale", "log"], 2, content)
        .prop_map(|subresources| {
            let subresource = |(subresource, (response_kind, accepted_types, verbs))| Subresource {
                subresource,
                response_kind,
                accepted_types,
                verbs,
            };
            subresources.into_iter().map(subresource).collect()
        })
        .boxed()
}

fn any_kind() -> impl Strategy<Value = Option<GroupVersionKind>> {
    let kind = (
        select(vec!["", "other"]),
        select(vec!["", "v9"]),
        select(vec!["", "Thing", "Item"]),
    );
    prop::option::weighted(
        0.9,
        kind.prop_map(|(group, version, kind)| GroupVersionKind {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }),
    )
}

fn any_texts(names: &[&str]) -> impl Strategy<Value = Vec<Text>> + use<> {
    let all = texts(names);
    let count = 0..=all.len();
    subsequence(all, count).prop_shuffle()
}

/// Up to `most` of `names` in any order, each with a value of `content`.
fn named<S: Strategy + 'static, F: Fn() -> S>(
    names: &[&str],
    most: usize,
    content: F,
) -> impl Strategy<Value = Vec<(Text, S::Value)>> + use<S, F> {
    let contents = prop::collection::vec(content(), most);
    let chosen = subsequence(texts(names), 0..=most).prop_shuffle();
    (chosen, contents).prop_map(|(names, contents)| names.into_iter().zip(contents).collect())
}
