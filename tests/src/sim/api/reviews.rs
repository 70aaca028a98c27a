//! Resources that are questions: nothing is stored, the answer comes back at once.

use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    decode::decode,
    encode,
    handler::{Answer, Request, reply},
    negotiate::Output,
    query::Query,
    request_info::{RequestInfo, ResourcePath},
    resource::Target,
    status::{self, Status},
};
use crate::sim::{clock, store::StoreError};

pub(super) fn serves(path: &ResourcePath) -> bool {
    matches!(
        path.group.as_str(),
        "authentication.k8s.io" | "authorization.k8s.io"
    )
}

pub(super) async fn answer(mut request: Request, target: &Target, output: Output) -> Answer {
    if target.path.resource == "selfsubjectreviews" && request.app.faults.lacks_reviews() {
        return Err(status::page_not_found());
    }
    let object = decode(&mut request).await?;
    match target.path.resource.as_str() {
        "selfsubjectreviews" => self_subject_review(&request, target, output),
        "selfsubjectaccessreviews" | "subjectaccessreviews" | "localsubjectaccessreviews" => {
            access_review(&request, target, object, output)
        }
        "tokenreviews" => {
            let policy = request.app.policy.load();
            let user = object["spec"]["token"]
                .as_str()
                .and_then(|token| policy.tokens.get(token));
            let status = match user {
                Some(user) => {
                    json!({"authenticated": true, "user": {"username": user.name, "uid": user.uid, "groups": user.groups}})
                }
                None => json!({"authenticated": false}),
            };
            created(object, status, target, output)
        }
        "selfsubjectrulesreviews" => {
            let status = json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true});
            created(object, status, target, output)
        }
        _ => Err(status::method_not_allowed()),
    }
}

/// `create` of a subresource whose effect is not simulated (eviction, binding, token): accepted if the object is there.
pub(super) async fn subresource(request: Request, target: &Target, output: Output) -> Answer {
    let name = &target.path.name;
    let found = request.app.store.get(&target.key(name)).await;
    found.map_err(|error: StoreError| status::store(error, &target.path, name))?;
    Ok(reply(
        StatusCode::CREATED,
        output,
        encode::write(&Status::success(None), output)?,
    ))
}

fn self_subject_review(request: &Request, target: &Target, output: Output) -> Answer {
    #[derive(Serialize)]
    struct Review<'a> {
        kind: &'a str,
        #[serde(rename = "apiVersion")]
        api_version: &'a str,
        metadata: Value,
        status: ReviewStatus<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ReviewStatus<'a> {
        user_info: UserInfo<'a>,
    }
    /// `authentication.k8s.io/v1 UserInfo`.
    #[derive(Serialize)]
    struct UserInfo<'a> {
        username: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        uid: &'a str,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        groups: &'a [String],
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        extra: &'a std::collections::BTreeMap<String, Vec<String>>,
    }
    let user = &request.user;
    let review = Review {
        kind: &target.resource.kind,
        api_version: &target.api_version,
        metadata: json!({"creationTimestamp": clock::now()}),
        status: ReviewStatus {
            user_info: UserInfo {
                username: &user.name,
                uid: &user.uid,
                groups: &user.groups,
                extra: &user.extra,
            },
        },
    };
    Ok(reply(
        StatusCode::CREATED,
        output,
        encode::write(&review, output)?,
    ))
}

fn access_review(request: &Request, target: &Target, object: Value, output: Output) -> Answer {
    let mut user = request.user.clone();
    if !target.path.resource.starts_with("self") {
        user.name = text(&object["spec"]["user"]);
        user.groups = object["spec"]["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
    }
    let resource = &object["spec"]["resourceAttributes"];
    let mut info = if resource.is_object() {
        let path = ResourcePath {
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            namespace: text(&resource["namespace"]),
            resource: text(&resource["resource"]),
            name: text(&resource["name"]),
            subresource: text(&resource["subresource"]),
            ..ResourcePath::default()
        };
        RequestInfo {
            path: String::new(),
            verb: String::new(),
            resource: Some(path),
        }
    } else {
        let path = text(&object["spec"]["nonResourceAttributes"]["path"]);
        RequestInfo::parse(&Method::GET, &path, &Query::default())
            .map_err(|error| status::bad_request(error.0))?
    };
    info.verb = text(if resource.is_object() {
        &resource["verb"]
    } else {
        &object["spec"]["nonResourceAttributes"]["verb"]
    });
    let allowed = request.app.policy.load().allows(&user, &info);
    created(object, json!({"allowed": allowed}), target, output)
}

fn created(mut object: Value, status: Value, target: &Target, output: Output) -> Answer {
    object["status"] = status;
    object["metadata"]["creationTimestamp"] = Value::Null;
    Ok(reply(
        StatusCode::CREATED,
        output,
        encode::object(&object, target.meta(), output, encode::Include::None)?,
    ))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
