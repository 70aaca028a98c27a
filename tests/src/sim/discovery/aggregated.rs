//! Aggregated discovery: `APIGroupDiscoveryList` of `/api` and `/apis` (k8s.io/api/apidiscovery).

use http::header;
use serde::Serialize;

use super::{
    Answer, Request, Text,
    accept::{Document, Media},
    json, protobuf,
};
use crate::sim::surface::{Group, Resource, Subresource, Surface, Version};

pub(super) struct Documents {
    api: Aggregated,
    apis: Aggregated,
}

/// One list, in the versions of its own API. All share the ETag, as do all encodings.
struct Aggregated {
    etag: String,
    v2: Text,
    v2beta1: Text,
}

impl Documents {
    pub(super) fn new(surface: &Surface) -> Documents {
        let list = |core: bool| {
            let groups = surface
                .groups
                .iter()
                .filter(|group| group.name.is_empty() == core);
            // Go wrote the zero time of ObjectMeta as null before its field got omitzero (1.34).
            let items: Vec<_> = groups
                .map(|group| item(group, surface.minor <= 33))
                .collect();
            let list = |api_version| List {
                kind: "APIGroupDiscoveryList",
                api_version,
                metadata: Nothing {},
                items: &items,
            };
            // The ETag is that of the list before it got its kind (aggregated/etag.go).
            let bare = List {
                kind: "",
                ..list("")
            };
            Aggregated {
                etag: format!("\"{}\"", json::sha512(&json::compact(&bare))),
                v2: text(&list("apidiscovery.k8s.io/v2")),
                v2beta1: text(&list("apidiscovery.k8s.io/v2beta1")),
            }
        };
        Documents {
            api: list(true),
            apis: list(false),
        }
    }

    /// `If-None-Match` must be the ETag byte for byte, without a list, a `W/` or a `*` (aggregated/etag.go).
    pub(super) fn answer(
        &self,
        root: &str,
        document: Document,
        media: Media,
        request: &Request<'_>,
    ) -> Answer {
        let list = if root == "api" { &self.api } else { &self.apis };
        let (version, text) = match document {
            Document::V2Beta1 => ("v2beta1", &list.v2beta1),
            _ => ("v2", &list.v2),
        };
        let answer = if request.header(header::IF_NONE_MATCH) == Some(&list.etag) {
            Answer {
                status: 304,
                headers: Vec::new(),
                body: bytes::Bytes::new(),
            }
        } else {
            let content_type = format!(
                "{};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList",
                media.name()
            );
            Answer::new(200, &content_type, text.of(media, request))
        };
        answer
            .with("Cache-Control", "public")
            .with("ETag", &list.etag)
            .with("Vary", "Accept")
    }
}

fn text(list: &List<'_>) -> Text {
    let object = protobuf::ApiGroupDiscoveryList {
        metadata: protobuf::ListMeta::default(),
        items: list.items.iter().map(GroupItem::to_protobuf).collect(),
    };
    let protobuf = protobuf::body(list.api_version, list.kind, &object);
    Text::new(list, protobuf)
}

impl GroupItem<'_> {
    fn to_protobuf(&self) -> protobuf::ApiGroupDiscovery {
        let versions = self.versions.iter();
        let versions = versions.map(|version| protobuf::ApiVersionDiscovery {
            version: version.version.to_owned(),
            resources: version
                .resources
                .iter()
                .map(ResourceItem::to_protobuf)
                .collect(),
            freshness: version.freshness.to_owned(),
        });
        protobuf::ApiGroupDiscovery {
            metadata: protobuf::ObjectMeta {
                name: self.metadata.name.to_owned(),
                ..protobuf::ObjectMeta::default()
            },
            versions: versions.collect(),
        }
    }
}

impl ResourceItem<'_> {
    fn to_protobuf(&self) -> protobuf::ApiResourceDiscovery {
        let subresources = self.subresources.iter();
        let subresources = subresources.map(|sub| protobuf::ApiSubresourceDiscovery {
            subresource: sub.subresource.to_owned(),
            response_kind: Some(sub.response_kind.to_protobuf()),
            accepted_types: sub.accepted_types.iter().map(Kind::to_protobuf).collect(),
            verbs: sub.verbs.to_vec(),
        });
        protobuf::ApiResourceDiscovery {
            resource: self.resource.to_owned(),
            response_kind: Some(self.response_kind.to_protobuf()),
            scope: self.scope.to_owned(),
            singular_resource: self.singular_resource.to_owned(),
            verbs: self.verbs.to_vec(),
            short_names: self.short_names.to_vec(),
            categories: self.categories.to_vec(),
            subresources: subresources.collect(),
        }
    }
}

impl Kind<'_> {
    fn to_protobuf(&self) -> protobuf::GroupVersionKind {
        protobuf::GroupVersionKind {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            kind: self.kind.to_owned(),
        }
    }
}

// Fields stand in the order of the Go types.

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    metadata: Nothing,
    items: &'a [GroupItem<'a>],
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct GroupItem<'a> {
    metadata: Metadata<'a>,
    versions: Vec<VersionItem<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    /// `Some` is written as null.
    #[serde(skip_serializing_if = "Option::is_none")]
    creation_timestamp: Option<()>,
}

#[derive(Serialize)]
struct VersionItem<'a> {
    version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resources: Vec<ResourceItem<'a>>,
    freshness: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceItem<'a> {
    resource: &'a str,
    response_kind: Kind<'a>,
    scope: &'a str,
    singular_resource: &'a str,
    verbs: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    short_names: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    categories: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<SubresourceItem<'a>>,
}

#[derive(Serialize)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubresourceItem<'a> {
    subresource: &'a str,
    response_kind: Kind<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accepted_types: Vec<Kind<'a>>,
    verbs: &'a [String],
}

fn item(group: &Group, with_timestamp: bool) -> GroupItem<'_> {
    GroupItem {
        metadata: Metadata {
            name: &group.name,
            creation_timestamp: with_timestamp.then_some(()),
        },
        versions: group.versions.iter().map(version_item).collect(),
    }
}

fn version_item(version: &Version) -> VersionItem<'_> {
    VersionItem {
        version: &version.name,
        resources: version.resources.iter().map(resource_item).collect(),
        freshness: "Current",
    }
}

fn resource_item(resource: &Resource) -> ResourceItem<'_> {
    ResourceItem {
        resource: &resource.name,
        response_kind: Kind {
            group: &resource.kind_group,
            version: &resource.kind_version,
            kind: &resource.kind,
        },
        scope: if resource.namespaced {
            "Namespaced"
        } else {
            "Cluster"
        },
        singular_resource: &resource.singular,
        verbs: &resource.verbs,
        short_names: &resource.short_names,
        categories: &resource.categories,
        subresources: resource.subresources.iter().map(subresource_item).collect(),
    }
}

fn subresource_item(subresource: &Subresource) -> SubresourceItem<'_> {
    SubresourceItem {
        subresource: &subresource.name,
        response_kind: Kind {
            group: &subresource.kind_group,
            version: &subresource.kind_version,
            kind: &subresource.kind,
        },
        accepted_types: subresource
            .accepted_types
            .iter()
            .map(|(group, version, kind)| Kind {
                group,
                version,
                kind,
            })
            .collect(),
        verbs: &subresource.verbs,
    }
}
