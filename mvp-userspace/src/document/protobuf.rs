//! Documents as protobuf.
//!
//! Field numbers: `api/apidiscovery/v2/generated.proto`, which v2beta1 shares, and apimachinery
//! `pkg/apis/meta/v1/generated.proto`. proto2 in which Go writes every field that is not a list or a pointer, hence `required`.

use prost::Message;

use super::encode::AggregatedVersion;
use super::legacy::{
    ApiGroup, ApiGroupList, ApiResource, ApiResourceList, ApiVersions, GroupVersionForDiscovery,
};
use super::types::{Document, Freshness, GroupVersionKind, Resource, Scope, Text};
use crate::envelope;

/// `APIGroupDiscoveryList` in its envelope.
pub fn aggregated_protobuf(document: &Document, version: AggregatedVersion) -> Vec<u8> {
    envelope::wrap(
        version.api_version(),
        "APIGroupDiscoveryList",
        &ListProto::of(document),
    )
}

impl ApiVersions {
    /// The encoding in its envelope, without apiVersion, as in JSON.
    pub fn to_protobuf(&self) -> Vec<u8> {
        let addresses = self.server_addresses.iter().map(|address| AddressProto {
            client_cidr: address.client_cidr.to_string(),
            server_address: address.server_address.to_string(),
        });
        let message = VersionsProto {
            versions: strings(&self.versions),
            server_addresses: addresses.collect(),
        };
        envelope::wrap("", "APIVersions", &message)
    }
}

impl ApiGroupList {
    /// In its envelope.
    pub fn to_protobuf(&self) -> Vec<u8> {
        let message = GroupListProto {
            groups: self.groups.iter().map(GroupProto::of).collect(),
        };
        envelope::wrap("v1", "APIGroupList", &message)
    }
}

impl ApiGroup {
    /// In its envelope.
    pub fn to_protobuf(&self) -> Vec<u8> {
        envelope::wrap("v1", "APIGroup", &GroupProto::of(self))
    }
}

impl ApiResourceList {
    /// In its envelope. [`ApiResourceList::from_protobuf`] is the other way.
    pub fn to_protobuf(&self) -> Vec<u8> {
        let message = ResourceListProto {
            group_version: self.group_version.to_string(),
            resources: self.resources.iter().map(ResourceProto::of).collect(),
        };
        envelope::wrap(&self.api_version, "APIResourceList", &message)
    }
}

fn strings(texts: &[Text]) -> Vec<String> {
    texts.iter().map(Text::to_string).collect()
}

#[derive(Message, PartialEq)]
struct ListProto {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMetaProto>,
    #[prost(message, repeated, tag = "2")]
    items: Vec<GroupDiscoveryProto>,
}

#[derive(Message, PartialEq)]
struct ListMetaProto {
    #[prost(string, required, tag = "1")]
    self_link: String,
    #[prost(string, required, tag = "2")]
    resource_version: String,
    #[prost(string, required, tag = "3")]
    continue_: String,
}

#[derive(Message, PartialEq)]
struct GroupDiscoveryProto {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMetaProto>,
    #[prost(message, repeated, tag = "2")]
    versions: Vec<VersionDiscoveryProto>,
}

/// The metadata of an object that has nothing but a name; readers take absent fields as empty.
#[derive(Message, PartialEq)]
struct ObjectMetaProto {
    #[prost(string, required, tag = "1")]
    name: String,
}

#[derive(Message, PartialEq)]
struct VersionDiscoveryProto {
    #[prost(string, required, tag = "1")]
    version: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<ResourceDiscoveryProto>,
    #[prost(string, required, tag = "3")]
    freshness: String,
}

#[derive(Message, PartialEq)]
struct ResourceDiscoveryProto {
    #[prost(string, required, tag = "1")]
    resource: String,
    #[prost(message, optional, tag = "2")]
    response_kind: Option<KindProto>,
    #[prost(string, required, tag = "3")]
    scope: String,
    #[prost(string, required, tag = "4")]
    singular_resource: String,
    #[prost(string, repeated, tag = "5")]
    verbs: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    short_names: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    categories: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    subresources: Vec<SubresourceDiscoveryProto>,
}

#[derive(Message, PartialEq)]
struct SubresourceDiscoveryProto {
    #[prost(string, required, tag = "1")]
    subresource: String,
    #[prost(message, optional, tag = "2")]
    response_kind: Option<KindProto>,
    #[prost(message, repeated, tag = "3")]
    accepted_types: Vec<KindProto>,
    #[prost(string, repeated, tag = "4")]
    verbs: Vec<String>,
}

#[derive(Message, PartialEq)]
struct KindProto {
    #[prost(string, required, tag = "1")]
    group: String,
    #[prost(string, required, tag = "2")]
    version: String,
    #[prost(string, required, tag = "3")]
    kind: String,
}

#[derive(Message, PartialEq)]
struct VersionsProto {
    #[prost(string, repeated, tag = "1")]
    versions: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    server_addresses: Vec<AddressProto>,
}

#[derive(Message, PartialEq)]
struct AddressProto {
    #[prost(string, required, tag = "1")]
    client_cidr: String,
    #[prost(string, required, tag = "2")]
    server_address: String,
}

#[derive(Message, PartialEq)]
struct GroupListProto {
    #[prost(message, repeated, tag = "1")]
    groups: Vec<GroupProto>,
}

#[derive(Message, PartialEq)]
struct GroupProto {
    #[prost(string, required, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    versions: Vec<GroupVersionProto>,
    #[prost(message, optional, tag = "3")]
    preferred: Option<GroupVersionProto>,
}

#[derive(Message, PartialEq)]
struct GroupVersionProto {
    #[prost(string, required, tag = "1")]
    group_version: String,
    #[prost(string, required, tag = "2")]
    version: String,
}

#[derive(Message, PartialEq)]
struct ResourceListProto {
    #[prost(string, required, tag = "1")]
    group_version: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<ResourceProto>,
}

#[derive(Message, PartialEq)]
struct ResourceProto {
    #[prost(string, required, tag = "1")]
    name: String,
    #[prost(bool, required, tag = "2")]
    namespaced: bool,
    #[prost(string, required, tag = "3")]
    kind: String,
    #[prost(message, optional, tag = "4")]
    verbs: Option<VerbsProto>,
    #[prost(string, repeated, tag = "5")]
    short_names: Vec<String>,
    #[prost(string, required, tag = "6")]
    singular_name: String,
    #[prost(string, repeated, tag = "7")]
    categories: Vec<String>,
    #[prost(string, required, tag = "8")]
    group: String,
    #[prost(string, required, tag = "9")]
    version: String,
    #[prost(string, required, tag = "10")]
    storage_version_hash: String,
}

#[derive(Message, PartialEq)]
struct VerbsProto {
    #[prost(string, repeated, tag = "1")]
    items: Vec<String>,
}

impl ListProto {
    fn of(document: &Document) -> Self {
        let groups = document.groups.iter().map(|group| GroupDiscoveryProto {
            metadata: Some(ObjectMetaProto {
                name: group.name.to_string(),
            }),
            versions: group
                .versions
                .iter()
                .map(|version| VersionDiscoveryProto {
                    version: version.version.to_string(),
                    resources: version
                        .resources
                        .iter()
                        .map(ResourceDiscoveryProto::of)
                        .collect(),
                    freshness: match version.freshness {
                        Freshness::Current => "Current".to_owned(),
                        Freshness::Stale => "Stale".to_owned(),
                    },
                })
                .collect(),
        });
        Self {
            metadata: Some(ListMetaProto::default()),
            items: groups.collect(),
        }
    }
}

impl ResourceDiscoveryProto {
    fn of(resource: &Resource) -> Self {
        let subresources =
            resource
                .subresources
                .iter()
                .map(|subresource| SubresourceDiscoveryProto {
                    subresource: subresource.subresource.to_string(),
                    response_kind: subresource.response_kind.as_ref().map(KindProto::of),
                    accepted_types: subresource
                        .accepted_types
                        .iter()
                        .map(KindProto::of)
                        .collect(),
                    verbs: strings(&subresource.verbs),
                });
        Self {
            resource: resource.resource.to_string(),
            response_kind: resource.response_kind.as_ref().map(KindProto::of),
            scope: match resource.scope {
                Scope::Cluster => "Cluster".to_owned(),
                Scope::Namespaced => "Namespaced".to_owned(),
            },
            singular_resource: resource.singular.to_string(),
            verbs: strings(&resource.verbs),
            short_names: strings(&resource.short_names),
            categories: strings(&resource.categories),
            subresources: subresources.collect(),
        }
    }
}

impl KindProto {
    fn of(kind: &GroupVersionKind) -> Self {
        Self {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            kind: kind.kind.to_string(),
        }
    }
}

impl GroupProto {
    fn of(group: &ApiGroup) -> Self {
        let version = |version: &GroupVersionForDiscovery| GroupVersionProto {
            group_version: version.group_version.to_string(),
            version: version.version.to_string(),
        };
        Self {
            name: group.name.to_string(),
            versions: group.versions.iter().map(version).collect(),
            preferred: Some(version(&group.preferred)),
        }
    }
}

impl ResourceProto {
    fn of(resource: &ApiResource) -> Self {
        Self {
            name: resource.name.to_string(),
            namespaced: resource.namespaced,
            kind: resource.kind.to_string(),
            verbs: Some(VerbsProto {
                items: strings(&resource.verbs),
            }),
            short_names: strings(&resource.short_names),
            singular_name: resource.singular_name.to_string(),
            categories: strings(&resource.categories),
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            storage_version_hash: resource.storage_version_hash.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::legacy::{ServerAddress, api_group_list, api_resource_list};
    use crate::document::testing::{any_document, document};

    fn opened<M: Message + Default>(body: &[u8]) -> (String, M) {
        let unknown = envelope::open(body).unwrap();
        let meta = unknown.type_meta.unwrap();
        let message = M::decode(unknown.raw.as_slice()).unwrap();
        (format!("{} {}", meta.api_version, meta.kind), message)
    }

    /// Against bytes written by hand, since the message types read back whatever they write.
    #[test]
    fn bytes_of_a_small_document() {
        let mut small = document("g/v1: things things/status");
        let thing = &mut small.groups[0].versions[0].resources[0];
        thing.short_names = vec!["t".into()];
        thing.categories = vec!["all".into()];
        thing.subresources[0].accepted_types = vec![GroupVersionKind {
            kind: "K".into(),
            ..GroupVersionKind::default()
        }];
        let body = aggregated_protobuf(&small, AggregatedVersion::V2beta1);
        let unknown = envelope::open(&body).unwrap();
        let text =
            |tag: u8, text: &str| [&[tag << 3 | 2, text.len() as u8], text.as_bytes()].concat();
        let message = |tag: u8, parts: &[Vec<u8>]| {
            let content = parts.concat();
            [&[tag << 3 | 2, content.len() as u8][..], &content].concat()
        };
        let kind = |kind: &str| vec![text(1, ""), text(2, ""), text(3, kind)];
        let subresource = [
            text(1, "status"),
            message(2, &kind("Sub")),
            message(3, &kind("K")),
            text(4, "get"),
        ];
        let resource = [
            text(1, "things"),
            message(2, &kind("things")),
            text(3, "Namespaced"),
            text(4, "things"),
            text(5, "get"),
            text(6, "t"),
            text(7, "all"),
            message(8, &subresource),
        ];
        let version = [text(1, "v1"), message(2, &resource), text(3, "Current")];
        let group = [message(1, &[text(1, "g")]), message(2, &version)];
        let list = [
            message(1, &[text(1, ""), text(2, ""), text(3, "")]),
            message(2, &group),
        ];
        assert_eq!(unknown.raw, list.concat());
        let meta = unknown.type_meta.unwrap();
        assert_eq!(meta.api_version, "apidiscovery.k8s.io/v2beta1");
        assert_eq!(meta.kind, "APIGroupDiscoveryList");
    }

    #[test]
    fn unaggregated_lists() {
        let whole = document("g/v1!:\ng/v1beta1: things\nh/v1:");
        let (kind, list) = opened::<GroupListProto>(&api_group_list(&whole).to_protobuf());
        assert_eq!(kind, "v1 APIGroupList");
        assert_eq!(list.groups.len(), 2);
        let g = &list.groups[0];
        assert_eq!(
            (g.name.as_str(), g.versions[0].group_version.as_str()),
            ("g", "g/v1")
        );
        assert_eq!(g.preferred.as_ref().unwrap().version, "v1beta1");

        let versions = ApiVersions {
            versions: vec!["v1".into()],
            server_addresses: vec![ServerAddress {
                client_cidr: "0.0.0.0/0".into(),
                server_address: "192.0.2.1:6443".into(),
            }],
        };
        let (kind, read) = opened::<VersionsProto>(&versions.to_protobuf());
        assert_eq!(kind, " APIVersions");
        assert_eq!(read.versions, ["v1"]);
        assert_eq!(read.server_addresses[0].server_address, "192.0.2.1:6443");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_field_arrives(whole in any_document()) {
            let (_, list) = opened::<ListProto>(&aggregated_protobuf(&whole, AggregatedVersion::V2));
            prop_assert_eq!(list, ListProto::of(&whole));
            for group in &whole.groups {
                for version in &group.versions {
                    let mut list = api_resource_list(&whole, &group.name, &version.version).unwrap();
                    for resource in &mut list.resources {
                        resource.storage_version_hash = "h=".into();
                    }
                    prop_assert_eq!(&ApiResourceList::from_protobuf(&list.to_protobuf()).unwrap(), &list);
                }
            }
        }
    }
}
