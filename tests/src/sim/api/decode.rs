//! Objects in request bodies.

use serde_json::Value;

use super::{
    handler::{Request, read_body},
    protobuf,
    status::{self, Failure},
};

const OBJECT_TYPES: &str =
    "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The object in the request body.
pub(super) async fn decode(request: &mut Request) -> Result<Value, Failure> {
    match request.content_type().as_str() {
        "" | "application/json" | "application/yaml" => parse(&take_body(request).await?),
        protobuf::MEDIA_TYPE => protobuf::decode(&take_body(request).await?),
        _ => Err(status::unsupported_media_type(OBJECT_TYPES)),
    }
}

pub(super) async fn take_body(request: &mut Request) -> Result<bytes::Bytes, Failure> {
    match request.body.take() {
        Some(body) => read_body(body).await,
        None => Ok(bytes::Bytes::new()),
    }
}

/// JSON, or YAML.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Failure> {
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
