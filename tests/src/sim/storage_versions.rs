//! The StorageVersion objects that servers with the gates `StorageVersionAPI` and `APIServerIdentity` write when they start: for each
//! resource that is stored, which versions each server serves (`k8s.io/apiserver/pkg/storageversion`, `manager.go` and `updater.go`).
//!
//! A server writes its own entries when it starts and does not take them back when it stops. The garbage collector that removes the
//! entries of servers without a Lease belongs to kube-controller-manager, which is not simulated.

use anyhow::Result;
use serde_json::{Value, json};

use super::identity::{change, lease_name};
use super::server::App;
use super::store::Key;
use super::surface::{Group, Resource};

const GROUP: &str = "internal.apiserver.k8s.io";

/// Writes what this server serves, if it has the gates and serves the API itself.
pub(super) async fn publish(app: &App, gates: bool) -> Result<()> {
    let served = app.base.version(GROUP, "v1alpha1").is_some();
    if !gates || !served {
        return Ok(());
    }
    let id = lease_name(&app.name);
    for group in &app.base.groups {
        for (resource, versions) in stored(group) {
            // Which of them it stores is of no interest to anybody here.
            let entry = json!({
                "apiServerID": id,
                "encodingVersion": versions[0],
                "decodableVersions": versions,
                "servedVersions": versions,
            });
            write(app, &group.name, resource, &entry).await?;
        }
    }
    Ok(())
}

/// Every stored resource of a group with the group versions in which it is served.
fn stored(group: &Group) -> impl Iterator<Item = (&str, Vec<String>)> {
    let mut found: Vec<(&str, Vec<String>)> = Vec::new();
    let of = |version: &str| match group.name.as_str() {
        "" => version.to_owned(),
        name => format!("{name}/{version}"),
    };
    for version in &group.versions {
        for resource in version.resources.iter().filter(|one| is_stored(one)) {
            let known = found.iter_mut().find(|(name, _)| *name == resource.name);
            match known {
                Some((_, versions)) => versions.push(of(&version.name)),
                None => found.push((&resource.name, vec![of(&version.name)])),
            }
        }
    }
    found.into_iter()
}

fn is_stored(resource: &Resource) -> bool {
    !resource.storage_version_hash.is_empty()
}

async fn write(app: &App, group: &str, resource: &str, entry: &Value) -> Result<()> {
    // The name must be a DNS subdomain, so that the core group has one here.
    let group = if group.is_empty() { "core" } else { group };
    let key = Key::new(GROUP, "storageversions", "", &format!("{group}.{resource}"));
    let kind = ("internal.apiserver.k8s.io/v1alpha1", "StorageVersion");
    change(&app.store, &key, kind, |current| {
        let mut next = current.cloned().unwrap_or_else(
            || json!({"metadata": {}, "spec": {}, "status": {"storageVersions": []}}),
        );
        let all = next["status"]["storageVersions"].as_array_mut()?;
        match all
            .iter_mut()
            .find(|one| one["apiServerID"] == entry["apiServerID"])
        {
            Some(own) => *own = entry.clone(),
            None => all.push(entry.clone()),
        }
        next["status"]["commonEncodingVersion"] = common(&next["status"]["storageVersions"]);
        (Some(&next) != current).then_some(next)
    })
    .await
}

/// The encoding version on which all servers agree; none if they do not.
fn common(entries: &Value) -> Value {
    let mut versions = entries.as_array().into_iter().flatten();
    let first = versions.next().map(|entry| &entry["encodingVersion"]);
    match first {
        Some(first) if versions.all(|entry| &entry["encodingVersion"] == first) => first.clone(),
        _ => Value::Null,
    }
}
