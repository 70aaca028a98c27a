//! The APIService objects that kube-apiservers keep of what they serve: one for every group version, in the store that
//! all servers share. Legacy `/apis` of a real server lists them, and the aggregator orders its groups by them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    clock,
    store::{Key, Object, Scope, Store, StoreError, revision},
    surface::{Surface, priority},
};

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
/// Who keeps the object (kube-aggregator pkg/controllers/autoregister): `onstart` are those of built-in group versions,
/// made once when a server starts; `true` those of custom resources, which follow them.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Writes what is missing for a server of this surface and removes what custom resources that are gone have left.
/// `seen` is [`list`] from before the surface's definitions were read: whatever of it the surface does not know is gone,
/// and not just newer than the surface.
///
/// Objects of built-in group versions that this server does not have stay: another server may. Real servers of different
/// versions delete them when they start.
///
/// # Errors
/// The store cannot be reached.
pub(super) async fn keep(
    store: &Store,
    surface: &Surface,
    seen: &[Object],
) -> Result<(), StoreError> {
    let wanted: BTreeMap<String, Value> = wanted(surface).collect();
    let present: BTreeSet<&str> = seen.iter().map(name).collect();
    for (name, object) in &wanted {
        if !present.contains(name.as_str()) {
            match store.create(&key(name), object.clone()).await {
                // Another server was faster.
                Ok(_) | Err(StoreError::Exists) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let follows = |object: &&Object| object["metadata"]["labels"][AUTOMANAGED] == "true";
    for object in seen.iter().filter(follows) {
        if !wanted.contains_key(name(object)) {
            match store
                .delete(&key(name(object)), Some(revision(object)))
                .await
            {
                Ok(_) | Err(StoreError::NotFound | StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// All that exist.
///
/// # Errors
/// The store cannot be reached.
pub(super) async fn list(store: &Store) -> Result<Vec<Object>, StoreError> {
    Ok(store.list(&Scope::new(GROUP, RESOURCE, "")).await?.0)
}

/// Name and object of every group version but the aggregator's own, which has none.
fn wanted(surface: &Surface) -> impl Iterator<Item = (String, Value)> {
    let groups = surface.groups.iter().filter(|group| group.name != GROUP);
    groups.flat_map(|group| {
        group.versions.iter().map(|version| {
            let custom = version.resources.iter().all(|resource| resource.custom);
            let name = format!("{}.{}", version.name, group.name);
            let object = object(&name, &group.name, &version.name, custom);
            (name, object)
        })
    })
}

fn object(name: &str, group: &str, version: &str, custom: bool) -> Value {
    let priority = if custom {
        priority::CUSTOM
    } else {
        priority::built_in(group, version)
    };
    let mut spec = json!({
        "version": version,
        "groupPriorityMinimum": priority.group,
        "versionPriority": priority.version,
    });
    if !group.is_empty() {
        spec["group"] = json!(group);
    }
    let now = clock::now();
    json!({
        "metadata": {
            "name": name,
            "uid": Uuid::new_v4().to_string(),
            "creationTimestamp": now,
            "labels": {AUTOMANAGED: if custom { "true" } else { "onstart" }},
        },
        "spec": spec,
        "status": {"conditions": [{
            "type": "Available",
            "status": "True",
            "lastTransitionTime": now,
            "reason": "Local",
            "message": "Local APIServices are always available",
        }]},
    })
}

fn key(name: &str) -> Key {
    Key::new(GROUP, RESOURCE, "", name)
}

fn name(object: &Object) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::definition;
    use crate::sim::surface::surface;

    async fn names(store: &Store) -> BTreeSet<String> {
        let objects = list(store).await.unwrap();
        objects
            .iter()
            .map(|object| name(object).to_owned())
            .collect()
    }

    #[tokio::test]
    async fn custom_ones_follow_their_definitions_and_built_in_ones_stay() {
        let store = Store::in_memory();
        let (old, new) = (surface(31, true), surface(36, true));
        keep(&store, &old, &[]).await.unwrap();
        let widgets = definition("test.example", "widgets", "Widget", json!({}));
        let with = new.with_custom(&[widgets]);
        keep(&store, &with, &list(&store).await.unwrap())
            .await
            .unwrap();
        let all = names(&store).await;
        for name in [
            "v1.",
            "v1.apps",
            "v1beta3.flowcontrol.apiserver.k8s.io",
            "v1.test.example",
        ] {
            assert!(all.contains(name), "{name}");
        }
        assert!(!all.contains("v1.apiregistration.k8s.io"));
        // A server that has not heard of the definition and did not see the object leaves it.
        keep(&store, &old, &[]).await.unwrap();
        assert!(names(&store).await.contains("v1.test.example"));
        keep(&store, &old, &list(&store).await.unwrap())
            .await
            .unwrap();
        let mut rest = all;
        rest.remove("v1.test.example");
        assert_eq!(names(&store).await, rest);
    }
}
