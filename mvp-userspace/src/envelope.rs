//! Kubernetes' protobuf envelope: `runtime.Unknown` behind the magic number `k8s\0`.
//!
//! Field numbers: apimachinery `pkg/runtime/generated.proto`. proto2 in which Go writes every field, hence `required`.

use prost::Message;

/// The media type, without parameters, of every document in an envelope.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// What an envelope holds.
#[derive(Clone, Eq, Message, PartialEq)]
pub(crate) struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub type_meta: Option<TypeMeta>,
    /// The object itself.
    #[prost(bytes = "vec", required, tag = "2")]
    pub raw: Vec<u8>,
    #[prost(string, required, tag = "3")]
    pub content_encoding: String,
    #[prost(string, required, tag = "4")]
    pub content_type: String,
}

/// `runtime.TypeMeta`: what the object in an envelope is.
#[derive(Clone, Eq, Message, PartialEq)]
pub(crate) struct TypeMeta {
    #[prost(string, required, tag = "1")]
    pub api_version: String,
    #[prost(string, required, tag = "2")]
    pub kind: String,
}

/// `object` as kube-apiserver sends it.
pub(crate) fn wrap(api_version: &str, kind: &str, object: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        }),
        raw: object.encode_to_vec(),
        content_encoding: String::new(),
        content_type: String::new(),
    };
    let mut body = MAGIC.to_vec();
    body.reserve_exact(unknown.encoded_len());
    body.extend_from_slice(&unknown.encode_to_vec());
    body
}

/// Takes the envelope off. Errors say what is wrong with the sender's bytes.
pub(crate) fn open(body: &[u8]) -> Result<Unknown, String> {
    let rest = body.strip_prefix(MAGIC);
    let rest = rest.ok_or_else(|| "it does not begin with k8s\\0".to_owned())?;
    let unknown = Unknown::decode(rest).map_err(|e| e.to_string())?;
    if !unknown.content_encoding.is_empty() {
        return Err(format!("content encoding {:?}", unknown.content_encoding));
    }
    Ok(unknown)
}
