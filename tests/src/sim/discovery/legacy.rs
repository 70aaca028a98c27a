//! Legacy discovery: `APIVersions`, `APIGroupList`, `APIGroup`, `APIResourceList` (k8s.io/apimachinery meta/v1).

use std::collections::HashMap;

use serde::Serialize;

use super::{Text, protobuf};
use crate::sim::surface::{Group, Surface, Version};

/// Every document but `/api`, which holds the server's address.
pub(super) struct Documents {
    groups: Text,
    /// By path without its first slash: `apis/apps`, `apis/apps/v1`, `api/v1`.
    below: HashMap<String, Text>,
}

impl Documents {
    pub(super) fn new(surface: &Surface) -> Documents {
        let mut below = HashMap::new();
        let mut groups = Vec::new();
        for group in &surface.groups {
            for version in &group.versions {
                let (path, group_version) = match group.name.as_str() {
                    "" => (format!("api/{}", version.name), version.name.clone()),
                    name => (
                        format!("apis/{name}/{}", version.name),
                        format!("{name}/{}", version.name),
                    ),
                };
                let list = resources(group, version, &group_version);
                let object = list.rest.to_protobuf();
                below.insert(path, list.text(&object));
            }
            if !group.name.is_empty() {
                let own = WithKind {
                    kind: "APIGroup",
                    api_version: "v1",
                    rest: api_group(group),
                };
                let object = own.rest.to_protobuf();
                below.insert(format!("apis/{}", group.name), own.text(&object));
                groups.push(api_group(group));
            }
        }
        let groups = WithKind {
            kind: "APIGroupList",
            api_version: "v1",
            rest: Groups { groups },
        };
        let object = protobuf::ApiGroupList {
            groups: groups
                .rest
                .groups
                .iter()
                .map(ApiGroup::to_protobuf)
                .collect(),
        };
        Documents {
            groups: groups.text(&object),
            below,
        }
    }

    /// `/apis`
    pub(super) fn groups(&self) -> &Text {
        &self.groups
    }

    pub(super) fn get(&self, path: &str) -> Option<&Text> {
        self.below.get(path)
    }
}

/// `/api`: the only version of the core group, and one address for all clients. It has no apiVersion.
pub(super) fn api_versions(server_address: &str) -> Text {
    let document = ApiVersions {
        kind: "APIVersions",
        versions: ["v1"],
        server_address_by_client_cidrs: [ServerAddress {
            client_cidr: "0.0.0.0/0",
            server_address,
        }],
    };
    let object = protobuf::ApiVersions {
        versions: document.versions.map(str::to_owned).to_vec(),
        server_address_by_client_cidrs: vec![protobuf::ServerAddressByClientCidr {
            client_cidr: "0.0.0.0/0".to_owned(),
            server_address: server_address.to_owned(),
        }],
    };
    Text::new(&document, protobuf::body("", document.kind, &object))
}

/// A Status without details, only ever sent as JSON. `serde_json::Value` has no order of fields of its own, so it is
/// given here.
pub(super) fn not_acceptable(message: &str) -> Text {
    let status = Status {
        kind: "Status",
        api_version: "v1",
        metadata: Nothing {},
        status: "Failure",
        message,
        reason: "NotAcceptable",
        code: 406,
    };
    Text::new(&status, Vec::new())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithKind<'a, T> {
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(flatten)]
    rest: T,
}

impl<T: Serialize> WithKind<'_, T> {
    fn text(&self, object: &impl prost::Message) -> Text {
        Text::new(self, protobuf::body(self.api_version, self.kind, object))
    }
}

#[derive(Serialize)]
struct Groups<'a> {
    groups: Vec<ApiGroup<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiGroup<'a> {
    name: &'a str,
    versions: Vec<GroupVersion<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_version: Option<GroupVersion<'a>>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion<'a> {
    group_version: String,
    version: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resources<'a> {
    group_version: &'a str,
    resources: Vec<ApiResource<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiResource<'a> {
    name: String,
    singular_name: &'a str,
    namespaced: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    kind: &'a str,
    verbs: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    short_names: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    categories: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    storage_version_hash: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiVersions<'a> {
    kind: &'a str,
    versions: [&'a str; 1],
    #[serde(rename = "serverAddressByClientCIDRs")]
    server_address_by_client_cidrs: [ServerAddress<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerAddress<'a> {
    #[serde(rename = "clientCIDR")]
    client_cidr: &'a str,
    server_address: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: Nothing,
    status: &'a str,
    message: &'a str,
    reason: &'a str,
    code: u16,
}

#[derive(Serialize)]
struct Nothing {}

impl ApiGroup<'_> {
    fn to_protobuf(&self) -> protobuf::ApiGroup {
        protobuf::ApiGroup {
            name: self.name.to_owned(),
            versions: self
                .versions
                .iter()
                .map(GroupVersion::to_protobuf)
                .collect(),
            preferred_version: self
                .preferred_version
                .as_ref()
                .map(GroupVersion::to_protobuf)
                .unwrap_or_default(),
        }
    }
}

impl GroupVersion<'_> {
    fn to_protobuf(&self) -> protobuf::GroupVersionForDiscovery {
        protobuf::GroupVersionForDiscovery {
            group_version: self.group_version.clone(),
            version: self.version.to_owned(),
        }
    }
}

impl Resources<'_> {
    fn to_protobuf(&self) -> protobuf::ApiResourceList {
        let resources = self.resources.iter();
        let resources = resources.map(|resource| protobuf::ApiResource {
            name: resource.name.clone(),
            namespaced: resource.namespaced,
            kind: resource.kind.to_owned(),
            verbs: Some(protobuf::Verbs {
                items: resource.verbs.to_vec(),
            }),
            short_names: resource.short_names.to_vec(),
            singular_name: resource.singular_name.to_owned(),
            categories: resource.categories.to_vec(),
            group: resource.group.to_owned(),
            version: resource.version.to_owned(),
            storage_version_hash: resource.storage_version_hash.to_owned(),
        });
        protobuf::ApiResourceList {
            group_version: self.group_version.to_owned(),
            resources: resources.collect(),
        }
    }
}

fn api_group(group: &Group) -> ApiGroup<'_> {
    let versions: Vec<_> = group
        .versions
        .iter()
        .map(|version| GroupVersion {
            group_version: format!("{}/{}", group.name, version.name),
            version: &version.name,
        })
        .collect();
    ApiGroup {
        name: &group.name,
        preferred_version: versions.first().cloned(),
        versions,
    }
}

/// The core group's list has no apiVersion: it is so old that its kind was never given one.
fn resources<'a>(
    group: &'a Group,
    version: &'a Version,
    group_version: &'a str,
) -> WithKind<'a, Resources<'a>> {
    // A kind of the enclosing group and version is written without them, custom resources' too.
    let foreign = |kind_group: &'a str, kind_version: &'a str| {
        if kind_group == group.name && kind_version == version.name {
            ("", "")
        } else {
            (kind_group, kind_version)
        }
    };
    let mut resources = Vec::new();
    for resource in &version.resources {
        let kind = foreign(&resource.kind_group, &resource.kind_version);
        resources.push(ApiResource {
            name: resource.name.clone(),
            singular_name: &resource.singular,
            namespaced: resource.namespaced,
            group: kind.0,
            version: kind.1,
            kind: &resource.kind,
            verbs: &resource.verbs,
            short_names: &resource.short_names,
            categories: &resource.categories,
            storage_version_hash: &resource.storage_version_hash,
        });
        for subresource in &resource.subresources {
            let kind = foreign(&subresource.kind_group, &subresource.kind_version);
            resources.push(ApiResource {
                name: format!("{}/{}", resource.name, subresource.name),
                singular_name: "",
                namespaced: resource.namespaced,
                group: kind.0,
                version: kind.1,
                kind: &subresource.kind,
                verbs: &subresource.verbs,
                short_names: &[],
                categories: &[],
                storage_version_hash: "",
            });
        }
    }
    WithKind {
        kind: "APIResourceList",
        api_version: if group.name.is_empty() { "" } else { "v1" },
        rest: Resources {
            group_version,
            resources,
        },
    }
}
