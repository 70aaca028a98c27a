//! From StorageVersion objects and identity Leases to what servers serve. No I/O.
//!
//! A server with the feature gates `StorageVersionAPI` and `APIServerIdentity` writes, when it starts, one entry for each of its stored
//! resources into the object `<group>.<resource>` (`k8s.io/apiserver/pkg/storageversion/manager.go`; the core group is called `core`
//! there). An entry names the server by the name of its identity Lease, and `servedVersions` (1.28 and later) names the group versions
//! that it serves. Whoever may write these objects may write anything into them: they add nobody to the members, and what a server says
//! itself goes before them (`docs/security.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;

use crate::api::{ApiEntry, ApiSet, MAX_NAME, VerbSet, is_path_segment};
use crate::config::Endpoint;
use crate::discovery::ByServer;

/// A release with all alpha types has about 90 stored resources.
const MAX_OBJECTS: usize = 4096;
/// Entries of one object, and versions of one entry, that are looked at.
const MAX_ENTRIES: usize = 256;
const MAX_VERSIONS: usize = 64;

/// Every object, by name.
#[derive(Debug, Default)]
pub(super) struct StorageVersions(BTreeMap<String, Vec<Entry>>);

/// What one server says of one resource.
#[derive(Debug)]
struct Entry {
    server: String,
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
}

impl StorageVersions {
    pub(super) fn listed(&mut self, objects: &[StorageVersion]) {
        self.0.clear();
        for object in objects {
            self.applied(object);
        }
    }

    pub(super) fn applied(&mut self, object: &StorageVersion) {
        let name = name(object);
        if self.0.len() < MAX_OBJECTS || self.0.contains_key(name) {
            self.0.insert(name.to_owned(), entries(object));
        }
    }

    pub(super) fn deleted(&mut self, object: &StorageVersion) {
        self.0.remove(name(object));
    }

    /// By server. Entries whose Lease is gone, or leads to no address that is listed, are nobody's.
    pub(super) fn by_server(&self, identities: &BTreeMap<&str, Endpoint>) -> ByServer {
        let mut found: BTreeMap<(String, u16), Vec<ApiEntry>> = BTreeMap::new();
        for entry in self.0.values().flatten() {
            let Some(endpoint) = identities.get(entry.server.as_str()) else {
                continue;
            };
            let place = (endpoint.host.clone(), endpoint.port);
            found.entry(place).or_default().push(ApiEntry {
                group: entry.group.clone(),
                version: entry.version.clone(),
                resource: entry.resource.clone(),
                subresource: "".into(),
                verbs: VerbSet::EMPTY,
            });
        }
        let sets = found.into_iter();
        sets.map(|(place, entries)| (place, Arc::new(ApiSet::new(entries))))
            .collect()
    }
}

fn name(object: &StorageVersion) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

fn entries(object: &StorageVersion) -> Vec<Entry> {
    // A resource has no dot in its name, and a group has any number.
    let Some((group, resource)) = name(object).rsplit_once('.') else {
        return Vec::new();
    };
    let group = if group == "core" { "" } else { group };
    if !is_sound(resource) {
        return Vec::new();
    }
    let status = object.status.iter();
    let servers = status.flat_map(|status| status.storage_versions.iter().flatten());
    let mut found = Vec::new();
    for server in servers.take(MAX_ENTRIES) {
        if server.api_server_id.len() > MAX_NAME {
            continue;
        }
        let versions = server.served_versions.iter().flatten().take(MAX_VERSIONS);
        let versions: BTreeSet<_> = versions
            .filter_map(|text| group_version(group, text))
            .collect();
        found.extend(versions.into_iter().map(|(group, version)| Entry {
            server: server.api_server_id.clone(),
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
        }));
    }
    found
}

/// `apps/v1`, or `v1` of the object's own group. A resource with storage in common with another group's names that group's versions too.
fn group_version<'a>(group: &'a str, text: &'a str) -> Option<(&'a str, &'a str)> {
    let (group, version) = text.split_once('/').unwrap_or((group, text));
    let sound = (group.is_empty() || is_sound(group)) && is_sound(version);
    sound.then_some((group, version))
}

fn is_sound(name: &str) -> bool {
    name.len() <= MAX_NAME && is_path_segment(name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apiserverinternal::v1alpha1::{
        ServerStorageVersion, StorageVersionStatus,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;

    use super::*;

    fn object(name: &str, servers: &[(&str, &[&str])]) -> StorageVersion {
        let servers = servers.iter().map(|(id, versions)| ServerStorageVersion {
            api_server_id: (*id).to_owned(),
            served_versions: Some(versions.iter().map(|v| (*v).to_owned()).collect()),
            ..ServerStorageVersion::default()
        });
        StorageVersion {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            status: Some(StorageVersionStatus {
                storage_versions: Some(servers.collect()),
                ..StorageVersionStatus::default()
            }),
            ..StorageVersion::default()
        }
    }

    fn endpoint(host: &str) -> Endpoint {
        Endpoint {
            name: host.to_owned(),
            host: host.to_owned(),
            port: 6443,
        }
    }

    fn keys(by_server: &ByServer, host: &str) -> Vec<String> {
        let set = by_server.get(&(host.to_owned(), 6443));
        let entries = set.map(|set| set.entries()).unwrap_or_default();
        entries
            .iter()
            .map(|e| format!("{}/{} {}", e.group, e.version, e.resource))
            .collect()
    }

    #[test]
    fn each_server_has_what_it_published() {
        let identities = BTreeMap::from([("a", endpoint("10.0.0.1")), ("b", endpoint("10.0.0.2"))]);
        let mut known = StorageVersions::default();
        known.listed(&[
            object("core.pods", &[("a", &["v1"]), ("b", &["v1"])]),
            object("apps.deployments", &[("b", &["apps/v1", "apps/v1"])]),
            // A server without a Lease, and one of a release that does not say what it serves.
            object("batch.jobs", &[("gone", &["batch/v1"]), ("a", &[])]),
            object(
                "events.k8s.io.events",
                &[("a", &["events.k8s.io/v1", "v1"])],
            ),
        ]);
        let now = known.by_server(&identities);
        assert_eq!(
            keys(&now, "10.0.0.1"),
            ["/v1 pods", "events.k8s.io/v1 events"]
        );
        assert_eq!(keys(&now, "10.0.0.2"), ["/v1 pods", "apps/v1 deployments"]);
        assert_eq!(now.len(), 2);

        known.applied(&object("core.pods", &[("b", &["v1"])]));
        known.deleted(&object("events.k8s.io.events", &[]));
        let now = known.by_server(&identities);
        assert!(keys(&now, "10.0.0.1").is_empty());
        assert_eq!(keys(&now, "10.0.0.2"), ["/v1 pods", "apps/v1 deployments"]);
    }

    proptest! {
        #[test]
        fn only_what_a_path_can_name_is_kept(name in "\\PC{0,40}", version in "\\PC{0,20}") {
            let identities = BTreeMap::from([("a", endpoint("10.0.0.1"))]);
            let mut known = StorageVersions::default();
            known.applied(&object(&name, &[("a", &[&version])]));
            for set in known.by_server(&identities).values() {
                for entry in set.entries() {
                    prop_assert!(is_path_segment(&entry.resource) && is_path_segment(&entry.version));
                    prop_assert!(entry.group.is_empty() || is_path_segment(&entry.group));
                }
            }
        }
    }
}
