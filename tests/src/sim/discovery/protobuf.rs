//! Kubernetes' protobuf of discovery documents. Field numbers are those of the Go types' tags: k8s.io/api/apidiscovery/v2
//! (v2beta1 has the same), k8s.io/apimachinery/pkg/apis/meta/v1 and pkg/runtime. Go writes strings, numbers and structs
//! that are no pointers even when they are empty, which is what `required` does here.

#![allow(
    missing_docs,
    reason = "types and fields are those of Kubernetes' generated.proto, which documents them"
)]

use prost::Message;

/// What every body begins with (k8s.io/apimachinery/pkg/runtime/serializer/protobuf).
pub const MAGIC: &[u8] = b"k8s\0";

/// The envelope of every object: `runtime.Unknown`.
#[derive(Clone, PartialEq, Message)]
pub struct Unknown {
    #[prost(message, required, tag = "1")]
    pub type_meta: TypeMeta,
    #[prost(bytes = "vec", required, tag = "2")]
    pub raw: Vec<u8>,
    #[prost(string, required, tag = "3")]
    pub content_encoding: String,
    #[prost(string, required, tag = "4")]
    pub content_type: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct TypeMeta {
    #[prost(string, required, tag = "1")]
    pub api_version: String,
    #[prost(string, required, tag = "2")]
    pub kind: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiGroupDiscoveryList {
    #[prost(message, required, tag = "1")]
    pub metadata: ListMeta,
    #[prost(message, repeated, tag = "2")]
    pub items: Vec<ApiGroupDiscovery>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiGroupDiscovery {
    #[prost(message, required, tag = "1")]
    pub metadata: ObjectMeta,
    #[prost(message, repeated, tag = "2")]
    pub versions: Vec<ApiVersionDiscovery>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiVersionDiscovery {
    #[prost(string, required, tag = "1")]
    pub version: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<ApiResourceDiscovery>,
    #[prost(string, required, tag = "3")]
    pub freshness: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiResourceDiscovery {
    #[prost(string, required, tag = "1")]
    pub resource: String,
    #[prost(message, optional, tag = "2")]
    pub response_kind: Option<GroupVersionKind>,
    #[prost(string, required, tag = "3")]
    pub scope: String,
    #[prost(string, required, tag = "4")]
    pub singular_resource: String,
    #[prost(string, repeated, tag = "5")]
    pub verbs: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    pub short_names: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    pub categories: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    pub subresources: Vec<ApiSubresourceDiscovery>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiSubresourceDiscovery {
    #[prost(string, required, tag = "1")]
    pub subresource: String,
    #[prost(message, optional, tag = "2")]
    pub response_kind: Option<GroupVersionKind>,
    #[prost(message, repeated, tag = "3")]
    pub accepted_types: Vec<GroupVersionKind>,
    #[prost(string, repeated, tag = "4")]
    pub verbs: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GroupVersionKind {
    #[prost(string, required, tag = "1")]
    pub group: String,
    #[prost(string, required, tag = "2")]
    pub version: String,
    #[prost(string, required, tag = "3")]
    pub kind: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListMeta {
    #[prost(string, required, tag = "1")]
    pub self_link: String,
    #[prost(string, required, tag = "2")]
    pub resource_version: String,
    #[prost(string, required, tag = "3")]
    pub continue_: String,
}

/// The fields that are written in every object.
#[derive(Clone, PartialEq, Message)]
pub struct ObjectMeta {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(string, required, tag = "2")]
    pub generate_name: String,
    #[prost(string, required, tag = "3")]
    pub namespace: String,
    #[prost(string, required, tag = "4")]
    pub self_link: String,
    #[prost(string, required, tag = "5")]
    pub uid: String,
    #[prost(string, required, tag = "6")]
    pub resource_version: String,
    #[prost(int64, required, tag = "7")]
    pub generation: i64,
    /// The zero time is an empty message.
    #[prost(message, required, tag = "8")]
    pub creation_timestamp: Time,
}

#[derive(Clone, PartialEq, Message)]
pub struct Time {}

#[derive(Clone, PartialEq, Message)]
pub struct ApiVersions {
    #[prost(string, repeated, tag = "1")]
    pub versions: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub server_address_by_client_cidrs: Vec<ServerAddressByClientCidr>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ServerAddressByClientCidr {
    #[prost(string, required, tag = "1")]
    pub client_cidr: String,
    #[prost(string, required, tag = "2")]
    pub server_address: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiGroupList {
    #[prost(message, repeated, tag = "1")]
    pub groups: Vec<ApiGroup>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiGroup {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub versions: Vec<GroupVersionForDiscovery>,
    #[prost(message, required, tag = "3")]
    pub preferred_version: GroupVersionForDiscovery,
}

#[derive(Clone, PartialEq, Message)]
pub struct GroupVersionForDiscovery {
    #[prost(string, required, tag = "1")]
    pub group_version: String,
    #[prost(string, required, tag = "2")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiResourceList {
    #[prost(string, required, tag = "1")]
    pub group_version: String,
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<ApiResource>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ApiResource {
    #[prost(string, required, tag = "1")]
    pub name: String,
    #[prost(bool, required, tag = "2")]
    pub namespaced: bool,
    #[prost(string, required, tag = "3")]
    pub kind: String,
    #[prost(message, optional, tag = "4")]
    pub verbs: Option<Verbs>,
    #[prost(string, repeated, tag = "5")]
    pub short_names: Vec<String>,
    #[prost(string, required, tag = "6")]
    pub singular_name: String,
    #[prost(string, repeated, tag = "7")]
    pub categories: Vec<String>,
    #[prost(string, required, tag = "8")]
    pub group: String,
    #[prost(string, required, tag = "9")]
    pub version: String,
    #[prost(string, required, tag = "10")]
    pub storage_version_hash: String,
}

/// A named type of strings in Go, which makes it a message.
#[derive(Clone, PartialEq, Message)]
pub struct Verbs {
    #[prost(string, repeated, tag = "1")]
    pub items: Vec<String>,
}

/// A whole body: the magic, then the envelope, then the object.
pub fn body(api_version: &str, kind: &str, object: &impl Message) -> Vec<u8> {
    let envelope = Unknown {
        type_meta: TypeMeta {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        },
        raw: object.encode_to_vec(),
        content_encoding: String::new(),
        content_type: String::new(),
    };
    [MAGIC, &envelope.encode_to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte what Go's generated code makes of a group without versions: every plain string is there, the times'
    /// message too.
    #[test]
    fn empty_fields_are_written() {
        let list = ApiGroupDiscoveryList {
            metadata: ListMeta::default(),
            items: vec![ApiGroupDiscovery {
                metadata: ObjectMeta {
                    name: "apps".into(),
                    ..ObjectMeta::default()
                },
                versions: Vec::new(),
            }],
        };
        let metadata = b"\x0a\x04apps\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0";
        let mut expected = b"\x0a\x06\x0a\0\x12\0\x1a\0\x12\x16\x0a\x14".to_vec();
        expected.extend(metadata);
        assert_eq!(list.encode_to_vec(), expected);
        let body = body("v1", "APIGroup", &list);
        assert!(body.starts_with(b"k8s\0\x0a\x0e\x0a\x02v1\x12\x08APIGroup\x12\x20"));
        assert!(body.ends_with(b"\x1a\0\x22\0"));
        let envelope = Unknown::decode(&body[MAGIC.len()..]).unwrap();
        assert_eq!(envelope.raw, expected);
    }

    /// The number of every field, by a value that says which one it is.
    #[test]
    fn numbers_are_those_of_the_go_types() {
        let text = |name: &str| name.to_owned();
        let kind = |kind: &str| GroupVersionKind {
            group: text("g"),
            version: text("v"),
            kind: text(kind),
        };
        let resource = ApiResourceDiscovery {
            resource: text("1"),
            response_kind: Some(kind("2")),
            scope: text("3"),
            singular_resource: text("4"),
            verbs: vec![text("5")],
            short_names: vec![text("6")],
            categories: vec![text("7")],
            subresources: vec![ApiSubresourceDiscovery {
                subresource: text("1"),
                response_kind: Some(kind("2")),
                accepted_types: vec![kind("3")],
                verbs: vec![text("4")],
            }],
        };
        let kinds =
            |number: &[u8], kind: &[u8]| [number, b"\x09\x0a\x01g\x12\x01v\x1a\x01", kind].concat();
        let sub = [
            &b"\x0a\x011"[..],
            &kinds(b"\x12", b"2"),
            &kinds(b"\x1a", b"3"),
            b"\x22\x014",
        ]
        .concat();
        assert_eq!(sub.len(), 28);
        let expected = [
            &b"\x0a\x011"[..],
            &kinds(b"\x12", b"2"),
            b"\x1a\x013\x22\x014\x2a\x015\x32\x016\x3a\x017\x42\x1c",
            &sub,
        ];
        assert_eq!(resource.encode_to_vec(), expected.concat());

        let resource = ApiResource {
            name: text("1"),
            namespaced: true,
            kind: text("3"),
            verbs: Some(Verbs {
                items: vec![text("4")],
            }),
            short_names: vec![text("5")],
            singular_name: text("6"),
            categories: vec![text("7")],
            group: text("8"),
            version: text("9"),
            storage_version_hash: text("10"),
        };
        let expected = b"\x0a\x011\x10\x01\x1a\x013\x22\x03\x0a\x014\x2a\x015\x32\x016\x3a\x017\x42\x018\x4a\x019\x52\x0210";
        assert_eq!(resource.encode_to_vec(), expected);
    }
}
