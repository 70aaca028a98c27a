//! delete and deletecollection.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    decode::{parse, take_body},
    encode,
    handler::{Answer, Request, reply},
    negotiate::Output,
    protobuf,
    resource::{Target, reply_object},
    selectors::Selectors,
    status::{self, Details, Failure, Status},
    swap::{ATTEMPTS, changed_definitions},
};
use crate::sim::{
    clock,
    store::{Object, StoreError, revision},
};

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

pub(super) async fn collection(mut request: Request, target: Target, output: Output) -> Answer {
    delete_options(&mut request).await?;
    let selectors = Selectors::parse(&request.query)?;
    selectors.check(&target, request.app.query_minor)?;
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

async fn delete_options(request: &mut Request) -> Result<Value, Failure> {
    let bytes = take_body(request).await?;
    match request.content_type().as_str() {
        _ if bytes.is_empty() => Ok(Value::Null),
        // What these options could say is not simulated.
        protobuf::MEDIA_TYPE => Ok(Value::Null),
        _ => parse(&bytes),
    }
}
