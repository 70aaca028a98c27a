//! create, update, patch, apply, and the scale subresource.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    admission,
    decode::{decode, parse, take_body},
    encode::{self, TypeMeta},
    handler::{Answer, Request, reply},
    negotiate::Output,
    patch,
    resource::{Target, reply_object},
    status::{self, Failure},
    swap::{ATTEMPTS, insert, modify},
};
use crate::sim::store::{StoreError, revision};

const PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
     application/apply-patch+yaml";

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
