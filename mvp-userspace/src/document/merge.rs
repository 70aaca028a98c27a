//! One document of the documents of several servers.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use super::order::combine;
use super::priority::{Priorities, Stability, stability};
use super::types::{
    Document, Freshness, Group, GroupVersionKind, Named, Resource, Scope, Subresource, Text,
    Version, is_kind,
};

/// What one server says.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The groups of one root.
    pub document: &'a Document,
    /// False if the server cannot be reached and this is what it said last.
    pub alive: bool,
}

/// Everything that any server has, in an order and with contents that do not depend on the order of `inputs`. Inputs that say
/// the same are merged to just that.
///
/// Order: names that some server has in an order keep it, else groups come by priority and name, versions by priority and
/// Kubernetes' order, resources and subresources by name (`combine`). Unless all servers list a group's versions alike, one
/// that only unreachable servers have comes after all others, and then GA comes before beta before alpha, whatever a list says:
/// clients take the first.
///
/// Contents:
/// - A group version is `Current` if a reachable server has it so. What only an unreachable server lists in such a group version
///   stays in it, since clients drop a `Stale` one altogether. Without a reachable server everything is `Stale`.
/// - Verbs that are not the same everywhere are united and sorted, as the native merge does.
/// - Kind with scope, and the singular name: one that says something before an empty one, then that of a reachable server, then
///   the smallest. Not that of any given server: the result must not change when servers are renamed.
pub fn merge(inputs: &[Input<'_>], priorities: &Priorities) -> Document {
    let sources: Vec<Source<'_, [Group]>> = inputs
        .iter()
        .map(|input| Source {
            item: input.document.groups.as_slice(),
            alive: input.alive,
        })
        .collect();
    let key = |name| (Reverse(priorities.group(name)), name);
    let groups = unite(&sources, |_, _| 0, key, |found| group(found, priorities));
    Document { groups }
}

/// What each server that has a name says about it.
struct Source<'a, T: ?Sized> {
    item: &'a T,
    alive: bool,
}

impl<'a, T: ?Sized> Source<'a, T> {
    fn part<P: ?Sized>(&self, part: impl Fn(&'a T) -> &'a P) -> Source<'a, P> {
        Source {
            item: part(self.item),
            alive: self.alive,
        }
    }
}

/// Merges lists of named things: each name once, ordered by [`combine`], merged by `one`.
fn unite<'a, T: Clone + Named + PartialEq, K: Ord>(
    lists: &[Source<'a, [T]>],
    class: impl Fn(&str, &[Source<'a, T>]) -> u8,
    key: impl Fn(&'a str) -> K,
    one: impl Fn(&[Source<'a, T>]) -> T,
) -> Vec<T> {
    let mut found: HashMap<&str, Vec<Source<'a, T>>> = HashMap::new();
    let mut names: Vec<Vec<&'a str>> = Vec::with_capacity(lists.len());
    for list in lists {
        names.push(list.item.iter().map(|item| &**item.name()).collect());
        for item in list.item {
            let source = Source {
                item,
                alive: list.alive,
            };
            found.entry(item.name()).or_default().push(source);
        }
    }
    let class = |name: &str| found.get(name).map_or(0, |sources| class(name, sources));
    combine(&names, class, key)
        .into_iter()
        .filter_map(|name| found.get(name))
        .map(|sources| match said_by_all(sources) {
            Some(item) => item.clone(),
            None => one(sources),
        })
        .collect()
}

/// What all sources say alike, if one of them can be reached: that is the merge.
fn said_by_all<'a, T: PartialEq>(sources: &[Source<'a, T>]) -> Option<&'a T> {
    let first = sources.first()?.item;
    let alike = sources.iter().all(|s| s.item == first) && sources.iter().any(|s| s.alive);
    alike.then_some(first)
}

fn group(sources: &[Source<'_, Group>], priorities: &Priorities) -> Group {
    let name = name_of(sources);
    let lists: Vec<_> = sources
        .iter()
        .map(|s| s.part(|g| g.versions.as_slice()))
        .collect();
    let class = |name: &str, found: &[Source<'_, Version>]| {
        let finished = match stability(name) {
            Stability::General => 0,
            Stability::Beta => 1,
            Stability::Alpha => 2,
            Stability::Other => 3,
        };
        if found.iter().any(|s| s.alive) {
            finished
        } else {
            finished + 4
        }
    };
    let key = |version| priorities.version(&name, version);
    let versions = unite(&lists, class, key, version);
    Group { name, versions }
}

fn version(sources: &[Source<'_, Version>]) -> Version {
    let lists: Vec<_> = sources
        .iter()
        .map(|s| s.part(|v| v.resources.as_slice()))
        .collect();
    let current = |s: &Source<'_, Version>| s.alive && s.item.freshness == Freshness::Current;
    Version {
        version: name_of(sources),
        resources: unite(&lists, |_, _| 0, |name| name, resource),
        freshness: match sources.iter().any(current) {
            true => Freshness::Current,
            false => Freshness::Stale,
        },
    }
}

fn resource(sources: &[Source<'_, Resource>]) -> Resource {
    let lists: Vec<_> = sources
        .iter()
        .map(|s| s.part(|r| r.subresources.as_slice()))
        .collect();
    let (response_kind, scope) = response_kind(sources, |r| (r.response_kind.as_ref(), r.scope));
    let singular = sources
        .iter()
        .map(|s| (s.item.singular.is_empty(), !s.alive, &s.item.singular))
        .min();
    Resource {
        resource: name_of(sources),
        response_kind,
        scope,
        singular: singular
            .map(|(_, _, name)| name.clone())
            .unwrap_or_default(),
        verbs: verbs(sources, |r| &r.verbs),
        short_names: listed(sources, |r| &r.short_names),
        categories: listed(sources, |r| &r.categories),
        subresources: unite(&lists, |_, _| 0, |name| name, subresource),
    }
}

fn subresource(sources: &[Source<'_, Subresource>]) -> Subresource {
    let (response_kind, _) = response_kind(sources, |s| (s.response_kind.as_ref(), Scope::Cluster));
    Subresource {
        subresource: name_of(sources),
        response_kind,
        accepted_types: listed(sources, |s| &s.accepted_types),
        verbs: verbs(sources, |s| &s.verbs),
    }
}

fn name_of<T: Named>(sources: &[Source<'_, T>]) -> Text {
    let first = sources.first();
    first.map(|s| s.item.name().clone()).unwrap_or_default()
}

/// Kind and scope go together: a resource that changed its scope has another kind of object behind it.
fn response_kind<T>(
    sources: &[Source<'_, T>],
    said: impl Fn(&T) -> (Option<&GroupVersionKind>, Scope),
) -> (Option<GroupVersionKind>, Scope) {
    let best = sources
        .iter()
        .map(|s| {
            let (kind, scope) = said(s.item);
            (!is_kind(kind), !s.alive, kind, scope)
        })
        .min();
    best.map_or((None, Scope::Cluster), |(_, _, kind, scope)| {
        (kind.cloned(), scope)
    })
}

/// The verbs of a CRD's resource are not sorted, those of a built-in one are.
fn verbs<T>(sources: &[Source<'_, T>], of: impl Fn(&T) -> &Vec<Text>) -> Vec<Text> {
    let mut lists = sources.iter().map(|s| of(s.item));
    let Some(first) = lists.next() else {
        return Vec::new();
    };
    if lists.clone().all(|list| list == first) {
        return first.clone();
    }
    let all: BTreeSet<&Text> = lists.chain([first]).flatten().collect();
    all.into_iter().cloned().collect()
}

fn listed<T, I: Clone + Eq + Hash + Ord>(
    sources: &[Source<'_, T>],
    of: impl Fn(&T) -> &Vec<I>,
) -> Vec<I> {
    let lists: Vec<Vec<&I>> = sources
        .iter()
        .map(|s| of(s.item).iter().collect())
        .collect();
    combine(&lists, |_| 0, |item| item)
        .into_iter()
        .cloned()
        .collect()
}
