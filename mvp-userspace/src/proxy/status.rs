//! The one place that turns any error into a Kubernetes `Status`, in a media type the client accepts.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use prost::Message;
use serde::Serialize;

use super::error::ProxyError;
use super::negotiate;
use crate::document::Media;
use crate::envelope;

/// Says which of an answer's bodies was made by the agent and why.
const ERROR_HEADER: HeaderName = HeaderName::from_static("x-mvp-error");

/// The media types kube-apiserver writes errors in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StatusFormat {
    Json,
    Yaml,
    Protobuf,
}

/// A complete answer for `error`. The body's shape is `metav1.Status` as kube-apiserver writes it.
pub(super) fn error_response(error: &ProxyError, accept: &HeaderMap) -> Response<Bytes> {
    let format = StatusFormat::negotiate(accept);
    let body = format.encode(error);
    let mut response = Response::new(body);
    *response.status_mut() = error.code();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(format.content_type()),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(ERROR_HEADER, HeaderValue::from_static("proxy"));
    if let Some(after) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    let length = HeaderValue::from(response.body().len());
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

impl StatusFormat {
    /// The first of the client's clauses that kube-apiserver can write an error in; JSON when none is, as
    /// `responsewriters.ErrorNegotiated` falls back.
    pub(super) fn negotiate(headers: &HeaderMap) -> Self {
        match negotiate::accept(headers).and_then(negotiate::choose_plain) {
            None | Some(Media::Json) => Self::Json,
            Some(Media::Yaml) => Self::Yaml,
            Some(Media::Protobuf) => Self::Protobuf,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => envelope::CONTENT_TYPE,
        }
    }

    fn encode(self, error: &ProxyError) -> Bytes {
        let status = Status::of(error);
        match self {
            Self::Json => to_json(&status),
            Self::Yaml => {
                serde_saphyr::to_string(&status).map_or_else(|_| to_json(&status), Bytes::from)
            }
            Self::Protobuf => to_protobuf(&status),
        }
    }
}

fn to_json(status: &Status) -> Bytes {
    let mut body = serde_json::to_vec(status).unwrap_or_default();
    body.push(b'\n');
    Bytes::from(body)
}

/// `metav1.Status`, fields in the order kube-apiserver writes them.
#[derive(Serialize)]
struct Status {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    status: &'static str,
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details {
    #[serde(rename = "retryAfterSeconds")]
    retry_after_seconds: u64,
}

impl Status {
    fn of(error: &ProxyError) -> Self {
        Self {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Failure",
            message: error.to_string(),
            reason: error.reason(),
            details: error.retry_after().map(|after| Details {
                retry_after_seconds: after.as_secs(),
            }),
            code: error.code().as_u16(),
        }
    }
}

fn to_protobuf(status: &Status) -> Bytes {
    let raw = StatusProto {
        metadata: Some(ListMetaProto {}),
        status: status.status.to_owned(),
        message: status.message.clone(),
        reason: status.reason.to_owned(),
        details: status.details.as_ref().map(|d| DetailsProto {
            retry_after_seconds: i32::try_from(d.retry_after_seconds).unwrap_or(i32::MAX),
        }),
        code: i32::from(status.code),
    };
    Bytes::from(envelope::wrap(status.api_version, status.kind, &raw))
}

/// Field numbers: apimachinery `pkg/apis/meta/v1/generated.proto`. proto2 with every field written, hence `required`.
#[derive(Message)]
struct StatusProto {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMetaProto>,
    #[prost(string, required, tag = "2")]
    status: String,
    #[prost(string, required, tag = "3")]
    message: String,
    #[prost(string, required, tag = "4")]
    reason: String,
    #[prost(message, optional, tag = "5")]
    details: Option<DetailsProto>,
    #[prost(int32, required, tag = "6")]
    code: i32,
}

#[derive(Message)]
struct ListMetaProto {}

#[derive(Message)]
struct DetailsProto {
    #[prost(int32, required, tag = "5")]
    retry_after_seconds: i32,
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    fn accept(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn format_follows_q_then_order() {
        use StatusFormat::{Json, Protobuf, Yaml};
        for (values, expected) in [
            (vec![], Json),
            (vec!["*/*"], Json),
            (vec!["text/html"], Json),
            (vec!["application/yaml"], Yaml),
            (vec!["application/vnd.kubernetes.protobuf"], Protobuf),
            (
                vec!["application/vnd.kubernetes.protobuf, application/json"],
                Protobuf,
            ),
            (vec!["application/yaml;q=0.5, application/json;q=0.9"], Json),
            // The first header counts, and 0 does not forbid.
            (vec!["application/json;q=0", "application/yaml"], Json),
            (vec!["application/json;q=x, application/yaml"], Yaml),
            (vec!["application/json;as=Table;g=meta.k8s.io;v=v1"], Json),
            (vec!["application/yaml;as=Table;g=meta.k8s.io;v=v1"], Json),
        ] {
            assert_eq!(
                StatusFormat::negotiate(&accept(&values)),
                expected,
                "{values:?}"
            );
        }
    }

    #[test]
    fn unavailable_says_when_to_come_again() {
        let error = ProxyError::NoCapableServer {
            key: "apps/v1 deployments".into(),
        };
        let response = error_response(&error, &accept(&["application/json"]));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["kind"], "Status");
        assert_eq!(body["reason"], "ServiceUnavailable");
        assert_eq!(body["code"], 503);
        assert_eq!(body["details"]["retryAfterSeconds"], 1);
        assert_eq!(body["metadata"], serde_json::json!({}));
    }

    #[test]
    fn yaml_and_protobuf_carry_the_same() {
        let error = ProxyError::Timeout {
            local: false,
            server: "cp-b".into(),
        };
        let yaml = error_response(&error, &accept(&["application/yaml"]));
        assert_eq!(yaml.headers()[CONTENT_TYPE], "application/yaml");
        let text = std::str::from_utf8(yaml.body()).unwrap();
        assert!(
            text.contains("reason: Timeout") && text.contains("code: 504"),
            "{text}"
        );

        let protobuf = error_response(&error, &accept(&["application/vnd.kubernetes.protobuf"]));
        let unknown = envelope::open(protobuf.body()).unwrap();
        assert_eq!(unknown.type_meta.unwrap().kind, "Status");
        let status = StatusProto::decode(unknown.raw.as_slice()).unwrap();
        assert_eq!((status.code, status.reason.as_str()), (504, "Timeout"));
    }
}
