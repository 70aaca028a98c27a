//! Errors as kube-apiserver words them, each built like the `metav1.Status` it becomes.

use serde::Serialize;

use super::request_info::ResourcePath;
use crate::sim::store::StoreError;

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    Status(Box<Status>),
    /// Text, with the code: the end of the handler chain, and failures before it.
    Text(u16, String),
}

/// `metav1.Status`; the fields stand in Go's order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    pub status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(rename = "retryAfterSeconds", skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u16,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cause {
    pub reason: &'static str,
    pub message: String,
    pub field: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Empty {}

impl Status {
    pub fn failure(
        code: u16,
        reason: &'static str,
        message: impl Into<String>,
        details: Option<Details>,
    ) -> Self {
        Self {
            status: "Failure",
            message: message.into(),
            reason,
            details,
            code,
            ..Self::success(None)
        }
    }

    /// What a finished delete says.
    pub fn success(details: Option<Details>) -> Self {
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Success",
            message: String::new(),
            reason: "",
            details,
            code: 0,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

pub(super) fn unauthorized() -> Failure {
    Status::failure(401, "Unauthorized", "Unauthorized", None).into()
}

/// `details` is empty, not absent: the answer of a group version that has no such resource or subresource.
pub(super) fn no_such_resource() -> Failure {
    let message = "the server could not find the requested resource";
    Status::failure(404, "NotFound", message, Some(Details::default())).into()
}

/// The end of the handler chain: no such group version.
pub(super) fn page_not_found() -> Failure {
    Failure::Text(404, "404 page not found\n".into())
}

/// apiserver `notfoundhandler`, while a server is starting.
pub(super) fn starting() -> Failure {
    let message = "the request has been made before all known HTTP paths have been installed, please try again";
    let details = Details {
        retry_after_seconds: 5,
        ..Details::default()
    };
    Status::failure(503, "ServiceUnavailable", message, Some(details)).into()
}

pub(super) fn method_not_allowed() -> Failure {
    let message = "the server does not allow this method on the requested resource";
    Status::failure(405, "MethodNotAllowed", message, Some(Details::default())).into()
}

/// A resource path, an `Accept` that none of its media types satisfies.
pub(super) fn not_acceptable() -> Failure {
    let message = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
                   application/vnd.kubernetes.protobuf, application/json;stream=watch, \
                   application/vnd.kubernetes.protobuf;stream=watch";
    Status::failure(406, "NotAcceptable", message, Some(Details::default())).into()
}

/// The media type is served, the object it should be converted to (`as=`) is not.
pub(super) fn not_convertible() -> Failure {
    let message = "only the following media types are accepted: application/json, application/yaml, \
                   application/vnd.kubernetes.protobuf";
    Status::failure(406, "NotAcceptable", message, None).into()
}

pub(super) fn unsupported_media_type(accepted: &str) -> Failure {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    );
    Status::failure(415, "UnsupportedMediaType", message, None).into()
}

pub(super) fn bad_request(message: impl Into<String>) -> Failure {
    Status::failure(400, "BadRequest", message, None).into()
}

pub(super) fn internal(message: impl std::fmt::Display) -> Failure {
    let message = format!("Internal error occurred: {message}");
    Status::failure(500, "InternalError", message, None).into()
}

/// The history no longer holds the revision; as a Status because watches send it inside an event.
pub(super) fn expired(message: impl Into<String>) -> Status {
    Status::failure(410, "Expired", message, None)
}

pub(super) fn invalid(path: &ResourcePath, kind: &str, name: &str, cause: &str) -> Failure {
    let qualified = if path.group.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{}", path.group)
    };
    let details = Details {
        kind: kind.into(),
        ..details(path, name)
    };
    Status::failure(
        422,
        "Invalid",
        format!("{qualified} \"{name}\" is invalid: {cause}"),
        Some(details),
    )
    .into()
}

/// `ValidateListOptions` found an option that is not allowed (`apimachinery/pkg/apis/meta/internalversion/validation`).
pub(super) fn forbidden_option(field: &'static str, why: &str) -> Failure {
    let message = format!("Forbidden: {why}");
    let text = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {message}");
    let cause = Cause {
        reason: "FieldValueForbidden",
        message,
        field,
    };
    let details = Details {
        group: "meta.k8s.io".into(),
        kind: "ListOptions".into(),
        causes: vec![cause],
        ..Details::default()
    };
    Status::failure(422, "Invalid", text, Some(details)).into()
}

pub(super) fn not_found(path: &ResourcePath, name: &str) -> Failure {
    let message = format!("{} \"{name}\" not found", qualified(path));
    Status::failure(404, "NotFound", message, Some(details(path, name))).into()
}

pub(super) fn already_exists(path: &ResourcePath, name: &str) -> Failure {
    let message = format!("{} \"{name}\" already exists", qualified(path));
    Status::failure(409, "AlreadyExists", message, Some(details(path, name))).into()
}

pub(super) fn conflict(path: &ResourcePath, name: &str, cause: &str) -> Failure {
    let message = format!(
        "Operation cannot be fulfilled on {} \"{name}\": {cause}",
        qualified(path)
    );
    Status::failure(409, "Conflict", message, Some(details(path, name))).into()
}

/// `cause` is what the authorizer or an admission plugin says.
pub(super) fn forbidden(path: &ResourcePath, cause: &str) -> Failure {
    let name = if path.name.is_empty() {
        String::new()
    } else {
        format!(" \"{}\"", path.name)
    };
    let message = format!("{}{name} is forbidden: {cause}", qualified(path));
    Status::failure(403, "Forbidden", message, Some(details(path, &path.name))).into()
}

pub(super) fn forbidden_path(cause: &str) -> Failure {
    Status::failure(
        403,
        "Forbidden",
        format!("forbidden: {cause}"),
        Some(Details::default()),
    )
    .into()
}

/// What a refused store operation means for this object.
pub(super) fn store(error: StoreError, path: &ResourcePath, name: &str) -> Failure {
    const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";
    match error {
        StoreError::NotFound => not_found(path, name),
        StoreError::Exists => already_exists(path, name),
        StoreError::Conflict => conflict(path, name, MODIFIED),
        StoreError::Compacted(oldest) => {
            expired(format!("too old resource version: {oldest}")).into()
        }
        StoreError::Unreachable(cause) => internal(cause),
    }
}

fn details(path: &ResourcePath, name: &str) -> Details {
    Details {
        name: name.into(),
        group: path.group.clone(),
        kind: path.resource.clone(),
        ..Details::default()
    }
}

/// `schema.GroupResource.String`.
fn qualified(path: &ResourcePath) -> String {
    if path.group.is_empty() {
        path.resource.clone()
    } else {
        format!("{}.{}", path.resource, path.group)
    }
}

fn is_zero(value: &u16) -> bool {
    *value == 0
}
