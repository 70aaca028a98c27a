//! create, update, patch, apply, delete. Every change is read, computed and compared-and-swapped, as kube-apiserver does
//! with etcd (`GuaranteedUpdate`).

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    admission,
    encode::{self, TypeMeta},
    handler::{Answer, Request, read_body, reply},
    managed::{self, Manager},
    negotiate::Output,
    patch, protobuf,
    resource::{Target, reply_object},
    selectors::Selectors,
    status::{self, Details, Failure, Status},
};
use crate::sim::{
    clock,
    store::{Object, StoreError, revision},
};

const OBJECT_TYPES: &str =
    "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
     application/apply-patch+yaml";
/// A change that meets another one is computed again this often.
const ATTEMPTS: usize = 5;

pub(super) async fn create(mut request: Request, target: Target, output: Output) -> Answer {
    let mut object = decode(&mut request).await?;
    admission::check_type(
        &mut object,
        &target,
        (&target.api_version, &target.resource.kind),
    )?;
    let object = insert(&request, &target, object, false).await?;
    reply_object(&request, &target, StatusCode::CREATED, &object, output)
}

pub(super) async fn update(mut request: Request, target: Target, output: Output) -> Answer {
    let mut wanted = decode(&mut request).await?;
    admission::check_type(
        &mut wanted,
        &target,
        (&target.api_version, &target.resource.kind),
    )?;
    let name = target.path.name.clone();
    let stated = wanted["metadata"]["name"].as_str().unwrap_or(&name);
    if stated != name {
        let message = format!(
            "the name of the object ({stated}) does not match the name on the URL ({name})"
        );
        return Err(status::bad_request(message));
    }
    let expected = revision(&wanted);
    let change = |current: &Value| {
        if expected != 0 && expected != revision(current) {
            return Err(status::store(StoreError::Conflict, &target.path, &name));
        }
        Ok(wanted.clone())
    };
    let object = modify(&request, &target, false, change).await?;
    reply_object(&request, &target, StatusCode::OK, &object, output)
}

pub(super) async fn patch(mut request: Request, target: Target, output: Output) -> Answer {
    let content_type = request.content_type();
    if content_type == "application/apply-patch+yaml" {
        return apply(request, target, output).await;
    }
    let kind = Kind::of(&content_type, target.resource.custom)?;
    let document = parse(&take_body(&mut request).await?)?;
    let expected = if kind == Kind::Operations {
        0
    } else {
        revision(&document)
    };
    let change = |current: &Value| {
        if expected != 0 && expected != revision(current) {
            return Err(status::store(
                StoreError::Conflict,
                &target.path,
                &target.path.name,
            ));
        }
        let mut next = current.clone();
        kind.apply(&mut next, &document)?;
        Ok(next)
    };
    let object = modify(&request, &target, false, change).await?;
    reply_object(&request, &target, StatusCode::OK, &object, output)
}

/// Server-side apply as create-or-merge: no field is taken away from anybody, no conflict is raised.
async fn apply(mut request: Request, target: Target, output: Output) -> Answer {
    if request.query.get("fieldManager").is_none_or(str::is_empty) {
        let cause = "fieldManager: Required value: is required for apply patch";
        return Err(status::invalid(&target.path, "PatchOptions", "", cause));
    }
    let mut document = parse(&take_body(&mut request).await?)?;
    admission::check_type(
        &mut document,
        &target,
        (&target.api_version, &target.resource.kind),
    )?;
    document["metadata"]["name"] = json!(target.path.name);
    for _ in 0..ATTEMPTS {
        let change = |current: &Value| {
            let mut next = current.clone();
            patch::merge(&mut next, &document);
            Ok(next)
        };
        match modify(&request, &target, true, change).await {
            Ok(object) => return reply_object(&request, &target, StatusCode::OK, &object, output),
            Err(Failure::Status(status))
                if status.code == 404 && target.path.subresource.is_empty() => {}
            Err(failure) => return Err(failure),
        }
        match insert(&request, &target, document.clone(), true).await {
            Ok(object) => {
                return reply_object(&request, &target, StatusCode::CREATED, &object, output);
            }
            // Somebody made it in between.
            Err(Failure::Status(status)) if status.reason == "AlreadyExists" => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(status::store(
        StoreError::Conflict,
        &target.path,
        &target.path.name,
    ))
}

pub(super) async fn delete(mut request: Request, target: Target, output: Output) -> Answer {
    let name = target.path.name.clone();
    let options = delete_options(&mut request).await?;
    let failed = |error| status::store(error, &target.path, &name);
    for _ in 0..ATTEMPTS {
        let current = request
            .app
            .store
            .get(&target.key(&name))
            .await
            .map_err(failed)?;
        preconditions(&options["preconditions"], &current, &target, &name)?;
        match remove(&request, &target, &current).await {
            Err(StoreError::Conflict) => continue,
            Err(error) => return Err(failed(error)),
            Ok(Some(pending)) => {
                return reply_object(&request, &target, StatusCode::OK, &pending, output);
            }
            Ok(None) => {
                let uid = current["metadata"]["uid"]
                    .as_str()
                    .unwrap_or_default()
                    .into();
                let (group, kind) = (target.path.group.clone(), target.path.resource.clone());
                let status = Status::success(Some(Details {
                    name,
                    group,
                    kind,
                    uid,
                    ..Details::default()
                }));
                return Ok(reply(
                    StatusCode::OK,
                    output,
                    encode::write(&status, output)?,
                ));
            }
        }
    }
    Err(failed(StoreError::Conflict))
}

pub(super) async fn delete_collection(
    mut request: Request,
    target: Target,
    output: Output,
) -> Answer {
    delete_options(&mut request).await?;
    let selectors = Selectors::parse(&request.query)?;
    let failed = |error| status::store(error, &target.path, "");
    let (objects, revision) = request
        .app
        .store
        .list(&target.scope())
        .await
        .map_err(failed)?;
    let mut items = Vec::new();
    for object in objects
        .into_iter()
        .filter(|object| selectors.matches(object))
    {
        match remove(&request, &target, &object).await {
            Ok(_) => items.push(object),
            // Changed or gone meanwhile: not part of this collection any more.
            Err(StoreError::Conflict | StoreError::NotFound) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let meta = encode::ListMeta {
        resource_version: revision.to_string(),
        ..encode::ListMeta::default()
    };
    let include = encode::Include::parse(request.query.get("includeObject"));
    Ok(reply(
        StatusCode::OK,
        output,
        encode::list(
            &items,
            target.meta(),
            target.resource.custom,
            &meta,
            output,
            include,
        )?,
    ))
}

/// get, update and patch of `autoscaling/v1 Scale`.
pub(super) async fn scale(
    request: &mut Request,
    target: &Target,
    verb: &str,
    output: Output,
) -> Answer {
    let name = target.path.name.clone();
    let object = if verb == "get" {
        request
            .app
            .store
            .get(&target.key(&name))
            .await
            .map_err(|error| status::store(error, &target.path, &name))?
    } else {
        let content_type = request.content_type();
        let wanted = parse(&take_body(request).await?)?;
        let kind = if verb == "patch" {
            Some(Kind::of(&content_type, true)?)
        } else {
            None
        };
        let change = |current: &Value| {
            let mut scale = scale_of(current);
            match kind {
                Some(kind) => kind.apply(&mut scale, &wanted)?,
                None => scale = wanted.clone(),
            }
            let mut next = current.clone();
            next["spec"]["replicas"] = scale["spec"]["replicas"].clone();
            Ok(next)
        };
        // The scale changes the object itself, not its status.
        let mut whole = target.clone();
        whole.path.subresource.clear();
        modify(request, &whole, false, change).await?
    };
    let meta = TypeMeta {
        api_version: "autoscaling/v1",
        kind: "Scale",
    };
    Ok(reply(
        StatusCode::OK,
        output,
        encode::object(&scale_of(&object), meta, output, encode::Include::Metadata)?,
    ))
}

/// Stores a new object.
async fn insert(
    request: &Request,
    target: &Target,
    mut object: Value,
    apply: bool,
) -> Result<Object, Failure> {
    let name = admission::new_metadata(&mut object, target)?;
    admission::namespace_allows(request, target, &name).await?;
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
    admission::defaults(&mut object, target, &name);
    if request.dry_run() {
        return match request.app.store.get(&target.key(&name)).await {
            Ok(_) => Err(status::already_exists(&target.path, &name)),
            Err(_) => Ok(object.into()),
        };
    }
    let created = request.app.store.create(&target.key(&name), object).await;
    let created = created.map_err(|error| status::store(error, &target.path, &name))?;
    changed_definitions(request, target).await;
    Ok(created)
}

/// Changes the object that the path names.
async fn modify(
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

/// Removes an object, or marks it when something still has to happen; then it is given back.
async fn remove(
    request: &Request,
    target: &Target,
    current: &Object,
) -> Result<Option<Object>, StoreError> {
    let store = &request.app.store;
    let name = current["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = current["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default();
    let mut key = target.key(name);
    key.namespace = namespace.into();
    let expected = revision(current);
    let is_namespace = target.path.group.is_empty() && target.path.resource == "namespaces";
    let held = current["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|all| !all.is_empty());
    if request.dry_run() {
        return Ok(None);
    }
    if !held && !is_namespace {
        store.delete(&key, Some(expected)).await?;
        changed_definitions(request, target).await;
        return Ok(None);
    }
    let mut marked = (**current).clone();
    if marked["metadata"]["deletionTimestamp"].is_null() {
        marked["metadata"]["deletionTimestamp"] = json!(clock::now());
        marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if is_namespace {
            marked["status"]["phase"] = json!("Terminating");
        }
    }
    let marked = store.update(&key, marked, expected).await?;
    if is_namespace {
        let (store, name) = (store.clone(), name.to_owned());
        // The namespace controller works apart from the request that started it.
        tokio::spawn(async move { store.reap(&name).await });
    }
    Ok(Some(marked))
}

/// This server sees its own changes of CustomResourceDefinitions before it answers, if it is not told to be late.
async fn changed_definitions(request: &Request, target: &Target) {
    if target.path.resource == "customresourcedefinitions" {
        request.app.refresh_definitions_now().await;
    }
}

fn preconditions(
    wanted: &Value,
    current: &Value,
    target: &Target,
    name: &str,
) -> Result<(), Failure> {
    for field in ["uid", "resourceVersion"] {
        if let Some(value) = wanted[field].as_str()
            && current["metadata"][field] != *value
        {
            let cause = format!(
                "Precondition failed: {field} in precondition: {value}, in object meta: {}",
                current["metadata"][field]
            );
            return Err(status::conflict(&target.path, name, &cause));
        }
    }
    Ok(())
}

fn scale_of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let replicas = object["spec"]["replicas"].as_u64().unwrap_or(0);
    let current = object["status"]["replicas"].as_u64().unwrap_or(0);
    json!({"metadata": metadata, "spec": {"replicas": replicas}, "status": {"replicas": current}})
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Merge,
    Operations,
}

impl Kind {
    fn of(content_type: &str, custom: bool) -> Result<Self, Failure> {
        match content_type {
            "application/json-patch+json" => Ok(Self::Operations),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Merge),
            _ => Err(status::unsupported_media_type(PATCH_TYPES)),
        }
    }

    fn apply(self, target: &mut Value, document: &Value) -> Result<(), Failure> {
        match self {
            Self::Operations => patch::json_patch(target, document),
            Self::Merge => {
                patch::merge(target, document);
                Ok(())
            }
        }
    }
}

/// The object in the request body.
pub(super) async fn decode(request: &mut Request) -> Result<Value, Failure> {
    match request.content_type().as_str() {
        "" | "application/json" | "application/yaml" => parse(&take_body(request).await?),
        protobuf::MEDIA_TYPE => protobuf::decode(&take_body(request).await?),
        _ => Err(status::unsupported_media_type(OBJECT_TYPES)),
    }
}

async fn delete_options(request: &mut Request) -> Result<Value, Failure> {
    let bytes = take_body(request).await?;
    match request.content_type().as_str() {
        _ if bytes.is_empty() => Ok(Value::Null),
        // What these options could say is not simulated.
        protobuf::MEDIA_TYPE => Ok(Value::Null),
        _ => parse(&bytes),
    }
}

async fn take_body(request: &mut Request) -> Result<bytes::Bytes, Failure> {
    match request.body.take() {
        Some(body) => read_body(body).await,
        None => Ok(bytes::Bytes::new()),
    }
}

/// JSON, or YAML.
fn parse(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).or_else(|json| {
        let malformed =
            || status::bad_request(format!("the object provided is unrecognized: {json}"));
        if bytes
            .first()
            .is_none_or(|first| matches!(first, b'{' | b'['))
        {
            return Err(malformed());
        }
        serde_saphyr::from_slice(bytes).map_err(|_| malformed())
    })
}
