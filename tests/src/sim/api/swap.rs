//! How a change gets into the store: read, computed and compared-and-swapped, as kube-apiserver does with etcd
//! (`GuaranteedUpdate`).

use serde_json::{Value, json};

use super::{
    admission,
    handler::Request,
    managed::{self, Manager},
    resource::Target,
    status::{self, Failure},
};
use crate::sim::store::{Object, StoreError, revision};

/// A change that meets another one is computed again this often.
pub(super) const ATTEMPTS: usize = 5;

/// A name that is generated and taken is generated again so often (apiserver `pkg/registry/generic/registry/store.go`,
/// `maxNameGenerationCreateAttempts`; before 1.30 it was not).
const NAMES: usize = 8;

/// Stores a new object.
pub(super) async fn insert(
    request: &Request,
    target: &Target,
    object: Value,
    apply: bool,
) -> Result<Object, Failure> {
    let given = object["metadata"]["name"].as_str().unwrap_or_default();
    let attempts = if given.is_empty() { NAMES } else { 1 };
    let mut taken = given.to_owned();
    for _ in 0..attempts {
        let mut object = object.clone();
        taken = admission::new_metadata(&mut object, target)?;
        if let Some(created) = insert_named(request, target, object, &taken, apply).await? {
            return Ok(created);
        }
    }
    Err(status::already_exists(&target.path, &taken))
}

/// `None`: the name is taken.
async fn insert_named(
    request: &Request,
    target: &Target,
    mut object: Value,
    name: &str,
    apply: bool,
) -> Result<Option<Object>, Failure> {
    admission::namespace_allows(request, target, name).await?;
    if target.has_status()
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
    let manager = request.manager();
    managed::record(
        &mut object,
        None,
        &Manager {
            name: &manager,
            apply,
            api_version: &target.api_version,
            subresource: "",
        },
    );
    admission::defaults(&mut object, target, name);
    let key = target.key(name);
    if request.dry_run() {
        let taken = request.app.store.get(&key).await.is_ok();
        return Ok((!taken).then(|| object.into()));
    }
    match request.app.store.create(&key, object).await {
        Ok(created) => {
            changed_definitions(request, target).await;
            Ok(Some(created))
        }
        Err(StoreError::Exists) => Ok(None),
        Err(error) => Err(status::store(error, &target.path, name)),
    }
}

/// Changes the object that the path names.
pub(super) async fn modify(
    request: &Request,
    target: &Target,
    apply: bool,
    change: impl Fn(&Value) -> Result<Value, Failure>,
) -> Result<Object, Failure> {
    let name = &target.path.name;
    let key = target.key(name);
    let failed = |error| status::store(error, &target.path, name);
    let manager = request.manager();
    for _ in 0..ATTEMPTS {
        let current = request.app.store.get(&key).await.map_err(failed)?;
        let mut next = change(&current)?;
        keep(&mut next, &current, target);
        if !same(&next, &current) || apply {
            let subresource = &target.path.subresource;
            let manager = Manager {
                name: &manager,
                apply,
                api_version: &target.api_version,
                subresource,
            };
            managed::record(&mut next, Some(&current), &manager);
        }
        if same(&next, &current) || request.dry_run() {
            // A write without effect keeps the revision.
            return Ok(if request.dry_run() {
                next.into()
            } else {
                current
            });
        }
        let expected = revision(&current);
        let gone = !next["metadata"]["deletionTimestamp"].is_null()
            && next["metadata"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty);
        let done = if gone && target.path.resource != "namespaces" {
            request.app.store.delete(&key, Some(expected)).await
        } else {
            request.app.store.update(&key, next, expected).await
        };
        match done {
            Err(StoreError::Conflict) => continue,
            Err(error) => return Err(failed(error)),
            Ok(object) => {
                changed_definitions(request, target).await;
                if gone {
                    request
                        .app
                        .store
                        .reap(target.namespace())
                        .await
                        .map_err(failed)?;
                }
                return Ok(object);
            }
        }
    }
    Err(failed(StoreError::Conflict))
}

/// What an update cannot change: identity, and either the status or everything but the status.
fn keep(next: &mut Value, current: &Value, target: &Target) {
    if target.path.subresource == "status" {
        let mut whole = current.clone();
        whole["status"] = next["status"].clone();
        *next = whole;
    } else if target.has_status() && target.path.subresource.is_empty() {
        match current.get("status") {
            Some(status) => next["status"] = status.clone(),
            None => drop(
                next.as_object_mut()
                    .and_then(|fields| fields.remove("status")),
            ),
        }
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "generateName",
        "resourceVersion",
    ] {
        match current["metadata"].get(field) {
            Some(value) => next["metadata"][field] = value.clone(),
            None => drop(
                next["metadata"]
                    .as_object_mut()
                    .and_then(|fields| fields.remove(field)),
            ),
        }
    }
    if next["metadata"]["managedFields"].is_null()
        && let Some(managed) = current["metadata"].get("managedFields")
    {
        next["metadata"]["managedFields"] = managed.clone();
    }
    let generation = current["metadata"]["generation"].as_u64();
    if let Some(generation) = generation {
        next["metadata"]["generation"] = json!(if next["spec"] == current["spec"] {
            generation
        } else {
            generation + 1
        });
    }
    if target.path.resource == "customresourcedefinitions" && next["spec"] != current["spec"] {
        admission::established(next);
    }
}

/// Equal but for the times at which fields were written.
fn same(next: &Value, current: &Value) -> bool {
    let fields = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]["managedFields"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            entry["time"] = Value::Null;
        }
        for field in ["kind", "apiVersion"] {
            object[field] = Value::Null;
        }
        object
    };
    fields(next) == fields(current)
}

/// This server sees its own changes of CustomResourceDefinitions before it answers, if it is not told to be late.
pub(super) async fn changed_definitions(request: &Request, target: &Target) {
    if target.path.resource == "customresourcedefinitions" {
        request.app.refresh_definitions_now().await;
    }
}
