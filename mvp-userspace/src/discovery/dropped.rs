//! What servers were seen to stop serving while they ran: a deleted CRD, most often. A server that is down cannot say so, and what
//! was last known of it must not bring the type back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::{ApiEntry, ApiSet};
use crate::document::Document;

/// Far above what anybody deletes within [`super::HubSettings::retain`]; when there is more, the oldest are forgotten first.
const MAX_DROPPED: usize = 4_096;

/// (group, version, resource) by when one server, over one connection and so as one process, stopped listing it. A server that
/// restarts with another version drops types too, but says nothing about others that run the version that has them.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    at: HashMap<Key, Instant>,
}

type Key = (Box<str>, Box<str>, Box<str>);

impl Dropped {
    /// Notes what `before` has and `after` has not.
    pub(super) fn note(&mut self, before: &Document, after: &Document, now: Instant) {
        let left = keys(after).collect::<std::collections::HashSet<_>>();
        for (group, version, resource) in keys(before).filter(|key| !left.contains(key)) {
            if self.at.len() >= MAX_DROPPED {
                let oldest = self.at.iter().min_by_key(|(_, at)| **at);
                if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                    self.at.remove(&oldest);
                }
            }
            self.at
                .insert((group.into(), version.into(), resource.into()), now);
        }
    }

    /// Forgets what is of no use any more: knowledge older than `retain` is not shown anyway.
    pub(super) fn purge(&mut self, now: Instant, retain: Duration) {
        self.at
            .retain(|_, at| now.saturating_duration_since(*at) <= retain);
    }

    /// What is left of a set that was last confirmed at `confirmed`; `None`: all of it.
    pub(super) fn without_keys(&self, set: &ApiSet, confirmed: Instant) -> Option<ApiSet> {
        let gone = |entry: &&ApiEntry| {
            let (group, version, resource, _) = entry.key();
            self.since(confirmed, (group, version, resource))
        };
        let left = || set.entries().iter().filter(|entry| !gone(entry)).cloned();
        let any = !self.at.is_empty() && set.entries().iter().any(|entry| gone(&entry));
        any.then(|| ApiSet::new(left().collect()))
    }

    fn since(&self, confirmed: Instant, (group, version, resource): (&str, &str, &str)) -> bool {
        self.at
            .get(&(group.into(), version.into(), resource.into()) as &Key)
            .is_some_and(|at| *at > confirmed)
    }

    /// What is left of a document that was last confirmed at `confirmed`.
    pub(super) fn without<'d>(
        &self,
        document: &'d Document,
        confirmed: Instant,
    ) -> Cow<'d, Document> {
        let gone = |key: (&str, &str, &str)| self.since(confirmed, key);
        if self.at.is_empty() || !keys(document).any(gone) {
            return Cow::Borrowed(document);
        }
        let mut document = document.clone();
        for group in &mut document.groups {
            let name = group.name.clone();
            for version in &mut group.versions {
                let of = version.version.clone();
                version
                    .resources
                    .retain(|resource| !gone((&*name, &*of, &*resource.resource)));
            }
            // A version that lists nothing, as one whose extension server is down does, was not emptied by this.
            group
                .versions
                .retain(|version| !version.resources.is_empty());
        }
        document.groups.retain(|group| !group.versions.is_empty());
        Cow::Owned(document)
    }
}

fn keys(document: &Document) -> impl Iterator<Item = (&str, &str, &str)> {
    document.groups.iter().flat_map(|group| {
        group.versions.iter().flat_map(move |version| {
            version
                .resources
                .iter()
                .map(move |resource| (&*group.name, &*version.version, &*resource.resource))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Root;

    fn document(resources: &[&str]) -> Document {
        let resources: Vec<_> = resources
            .iter()
            .map(|name| {
                serde_json::json!({
                    "resource": name, "scope": "Namespaced", "singularResource": "", "verbs": ["get"],
                    "responseKind": {"group": "", "version": "", "kind": "K"},
                })
            })
            .collect();
        let list = serde_json::json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": [{"metadata": {"name": "a.example"}, "versions": [
                {"version": "v1", "freshness": "Current", "resources": resources},
            ]}],
        });
        Document::aggregated(list.to_string().as_bytes(), Root::Groups).unwrap()
    }

    #[test]
    fn what_was_dropped_later_is_left_out() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let (both, one) = (document(&["a", "b"]), document(&["a"]));
        let mut dropped = Dropped::default();
        assert!(matches!(dropped.without(&both, start), Cow::Borrowed(_)));
        dropped.note(&both, &one, second(5));
        assert_eq!(*dropped.without(&both, second(4)), one);
        let left = dropped.without_keys(&both.api_set(), second(4)).unwrap();
        assert_eq!(left, one.api_set());
        assert_eq!(dropped.without_keys(&both.api_set(), second(6)), None);
        // Told after it was dropped: it is there again.
        assert_eq!(*dropped.without(&both, second(6)), both);
        assert_eq!(*dropped.without(&one, second(4)), one);
        dropped.note(&one, &Document::default(), second(7));
        assert_eq!(*dropped.without(&both, second(4)), Document::default());
        dropped.purge(second(66), Duration::from_secs(60));
        assert_eq!(*dropped.without(&both, second(4)), document(&["b"]));
        dropped.purge(second(100), Duration::from_secs(60));
        assert!(dropped.at.is_empty());
    }

    #[test]
    fn there_is_a_bound() {
        let mut dropped = Dropped::default();
        let start = Instant::now();
        for n in 0..MAX_DROPPED as u64 + 10 {
            let name = format!("r{n}");
            let before = document(&[&name]);
            dropped.note(
                &before,
                &Document::default(),
                start + Duration::from_millis(n),
            );
        }
        assert_eq!(dropped.at.len(), MAX_DROPPED);
        let first = document(&["r0"]);
        assert_eq!(
            *dropped.without(&first, start - Duration::from_secs(1)),
            first
        );
    }
}
