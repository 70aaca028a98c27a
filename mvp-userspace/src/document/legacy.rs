//! Discovery in its unaggregated shapes: what `/apis`, `/apis/<group>` and `/apis/<group>/<version>` answer.
//!
//! Shapes, field order and what is left out when empty: `apimachinery/pkg/apis/meta/v1/types.go`.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::order::combine;
use super::types::{
    Document, Freshness, Group, GroupVersionKind, Resource, Scope, Subresource, Text, Version,
    is_kind, united,
};
use crate::api::{GroupVersion, is_path_segment};

/// `APIVersions`: the answer of `/api`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiVersions {
    /// The versions of the core group, in order of preference: `v1`.
    pub versions: Vec<Text>,
    /// At which address clients of a network reach the server, as `--advertise-address` has it.
    pub server_addresses: Vec<ServerAddress>,
}

/// `ServerAddressByClientCIDR`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct ServerAddress {
    /// A network in CIDR notation; `0.0.0.0/0` for everybody.
    #[serde(rename = "clientCIDR")]
    pub client_cidr: Text,
    /// `host:port`.
    #[serde(rename = "serverAddress")]
    pub server_address: Text,
}

/// `APIGroupList`: the answer of `/apis`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiGroupList {
    /// In order of preference, without the core group.
    pub groups: Vec<ApiGroup>,
}

/// `APIGroup`: the answer of `/apis/<group>`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiGroup {
    /// Never empty: the core group has no `APIGroup`.
    pub name: Text,
    /// In order of preference.
    pub versions: Vec<GroupVersionForDiscovery>,
    /// What clients use that do not ask for a version. Empty if the group has none.
    pub preferred: GroupVersionForDiscovery,
}

/// `GroupVersionForDiscovery`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupVersionForDiscovery {
    /// `apps/v1`
    pub group_version: Text,
    /// `v1`
    pub version: Text,
}

/// `APIResourceList`: the answer of `/api/v1` and `/apis/<group>/<version>`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiResourceList {
    /// kube-apiserver leaves it out for the core group.
    pub api_version: Text,
    /// `apps/v1`; `v1` for the core group.
    pub group_version: Text,
    /// Resources and subresources in one list.
    pub resources: Vec<ApiResource>,
}

/// `APIResource`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResource {
    /// `pods`, or `pods/log` for a subresource.
    pub name: Text,
    /// Empty for subresources, and for resources of old servers.
    pub singular_name: Text,
    /// Whether the path has a namespace in it.
    pub namespaced: bool,
    /// Empty: that of the list. So is `version`.
    #[serde(skip_serializing_if = "is_empty")]
    pub group: Text,
    /// Empty: that of the list.
    #[serde(skip_serializing_if = "is_empty")]
    pub version: Text,
    /// The kind of the objects, for example `Deployment`.
    pub kind: Text,
    /// In the order in which the server lists them: alphabetically.
    pub verbs: Vec<Text>,
    /// Abbreviations that kubectl expands, for example `deploy`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<Text>,
    /// Groupings that kubectl expands, for example `all`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<Text>,
    /// Identifies the version in which objects are stored (`StorageVersionHash`); empty for custom resources and subresources.
    #[serde(skip_serializing_if = "is_empty")]
    pub storage_version_hash: Text,
}

/// All groups with a name. The core group is not in this list.
pub fn api_group_list(document: &Document) -> ApiGroupList {
    let groups = document
        .groups
        .iter()
        .filter(|group| !group.name.is_empty());
    ApiGroupList {
        groups: groups.map(group_of).collect(),
    }
}

/// `None` if the document does not hold the group.
pub fn api_group(document: &Document, group: &str) -> Option<ApiGroup> {
    document.group(group).map(group_of)
}

/// `None` if the document does not hold the group version. A hash of storage versions, which aggregated discovery does not
/// carry, is not in it.
pub fn api_resource_list(
    document: &Document,
    group: &str,
    version: &str,
) -> Option<ApiResourceList> {
    let found = document.version(group, version)?;
    let gv = GroupVersion {
        group: group.into(),
        version: version.into(),
    };
    let mut resources = Vec::new();
    for resource in &found.resources {
        if let Some(kind) = resource
            .response_kind
            .as_ref()
            .filter(|_| resource.is_served())
        {
            resources.push(ApiResource {
                name: resource.resource.clone(),
                singular_name: resource.singular.clone(),
                verbs: resource.verbs.clone(),
                short_names: resource.short_names.clone(),
                categories: resource.categories.clone(),
                ..api_resource(&gv, kind, resource.scope)
            });
        }
        for subresource in &resource.subresources {
            let kind = subresource.response_kind.clone().unwrap_or_default();
            resources.push(ApiResource {
                name: format!("{}/{}", resource.resource, subresource.subresource).into(),
                verbs: subresource.verbs.clone(),
                ..api_resource(&gv, &kind, resource.scope)
            });
        }
    }
    Some(ApiResourceList {
        api_version: if group.is_empty() { "" } else { "v1" }.into(),
        group_version: gv.to_string().into(),
        resources,
    })
}

/// Adds to the local server's answer what `view` has beyond it: resources, subresources and verbs. All else stays as the local
/// server said it, with its order; what is new stands where the view has it. A list whose verbs grow is sorted.
pub fn merge_resource_list(
    local: ApiResourceList,
    view: &Document,
    group: &str,
    version: &str,
) -> ApiResourceList {
    let Some(view) = api_resource_list(view, group, version) else {
        return local;
    };
    let names = |list: &ApiResourceList| -> Vec<Text> {
        let mut seen = HashSet::new();
        let names = list.resources.iter().map(|resource| resource.name.clone());
        names.filter(|name| seen.insert(name.clone())).collect()
    };
    let lists = [names(&local), names(&view)];
    let borrowed: Vec<Vec<&Text>> = lists.iter().map(|names| names.iter().collect()).collect();
    let order = combine(&borrowed, |_| 0, |name| name);

    // For each name the first entry counts, with the verbs of all later ones.
    let mut resources: HashMap<Text, (ApiResource, Vec<Text>)> = HashMap::new();
    for resource in local.resources.into_iter().chain(view.resources) {
        match resources.get_mut(&resource.name) {
            Some((_, more)) => more.extend(resource.verbs),
            None => {
                let name = resource.name.clone();
                resources.insert(name, (resource, Vec::new()));
            }
        }
    }
    let united = order.into_iter().filter_map(|name| {
        let (mut resource, more) = resources.remove(name)?;
        unite_verbs(&mut resource.verbs, more);
        Some(resource)
    });
    ApiResourceList {
        resources: united.collect(),
        ..local
    }
}

impl Document {
    /// The document that a server would give out itself if it had aggregated discovery, from its lists of resources.
    ///
    /// As apiserver's `endpoints/installer.go:ConvertGroupVersionIntoToDiscovery`: subresources stand with their parents, and one
    /// without a parent gets one that is not served. Where Go refuses a subresource whose scope is not its parent's, the parent's
    /// counts. What no request path can name is left out.
    pub fn from_legacy_lists(lists: &[(GroupVersion, ApiResourceList)]) -> Self {
        let named = lists.iter().filter(|(gv, _)| {
            is_path_segment(&gv.version) && (gv.group.is_empty() || is_path_segment(&gv.group))
        });
        let groups = named.map(|(gv, list)| Group {
            name: (*gv.group).into(),
            versions: vec![Version {
                version: (*gv.version).into(),
                resources: resources_of(list),
                freshness: Freshness::Current,
            }],
        });
        Self {
            groups: united(groups.collect()),
        }
    }
}

fn resources_of(list: &ApiResourceList) -> Vec<Resource> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut resources: Vec<Resource> = Vec::new();
    let parents = list
        .resources
        .iter()
        .filter(|entry| !entry.name.contains('/'));
    for entry in parents.filter(|entry| entry.is_nameable()) {
        places.entry(&entry.name).or_insert(resources.len());
        resources.push(Resource {
            response_kind: Some(entry.kind()),
            singular: entry.singular_name.clone(),
            verbs: entry.verbs.clone(),
            short_names: entry.short_names.clone(),
            categories: entry.categories.clone(),
            ..parent(&entry.name, entry.scope())
        });
    }
    for entry in &list.resources {
        let Some((name, subresource)) = entry.name.split_once('/') else {
            continue;
        };
        if !entry.is_nameable() {
            continue;
        }
        let place = *places.entry(name).or_insert_with(|| {
            resources.push(Resource {
                response_kind: Some(GroupVersionKind::default()),
                ..parent(name, entry.scope())
            });
            resources.len() - 1
        });
        let kind = entry.kind();
        let subresource = Subresource {
            subresource: subresource.into(),
            response_kind: Some(if is_kind(Some(&kind)) {
                kind
            } else {
                GroupVersionKind::default()
            }),
            accepted_types: Vec::new(),
            verbs: entry.verbs.clone(),
        };
        if let Some(parent) = resources.get_mut(place) {
            parent.subresources.push(subresource);
        }
    }
    resources
}

impl ApiResource {
    /// Whether a request path can name it.
    pub(super) fn is_nameable(&self) -> bool {
        let (name, subresource) = self.name.split_once('/').unwrap_or((&self.name, "none"));
        is_path_segment(name) && is_path_segment(subresource)
    }

    fn kind(&self) -> GroupVersionKind {
        GroupVersionKind {
            group: self.group.clone(),
            version: self.version.clone(),
            kind: self.kind.clone(),
        }
    }

    fn scope(&self) -> Scope {
        if self.namespaced {
            Scope::Namespaced
        } else {
            Scope::Cluster
        }
    }
}

fn parent(name: &str, scope: Scope) -> Resource {
    Resource {
        resource: name.into(),
        response_kind: None,
        scope,
        singular: "".into(),
        verbs: Vec::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
    }
}

/// The fields that resources and subresources have in common. Group and version of the kind are left out when they are those of
/// the list.
fn api_resource(gv: &GroupVersion, kind: &GroupVersionKind, scope: Scope) -> ApiResource {
    let own = *kind.group == *gv.group && *kind.version == *gv.version;
    let shown = |text: &Text| if own { Text::default() } else { text.clone() };
    ApiResource {
        namespaced: scope == Scope::Namespaced,
        group: shown(&kind.group),
        version: shown(&kind.version),
        kind: kind.kind.clone(),
        ..ApiResource::default()
    }
}

/// The preferred version is the first that clients of aggregated discovery would not drop.
fn group_of(group: &Group) -> ApiGroup {
    let shown = |version: &Version| GroupVersionForDiscovery {
        group_version: match &*group.name {
            "" => version.version.clone(),
            name => format!("{name}/{}", version.version).into(),
        },
        version: version.version.clone(),
    };
    let mut versions = group.versions.iter();
    let preferred = versions
        .find(|version| version.freshness == Freshness::Current)
        .or(group.versions.first());
    ApiGroup {
        name: group.name.clone(),
        versions: group.versions.iter().map(shown).collect(),
        preferred: preferred.map(shown).unwrap_or_default(),
    }
}

fn unite_verbs(known: &mut Vec<Text>, mut more: Vec<Text>) {
    let before: HashSet<&Text> = known.iter().collect();
    more.retain(|verb| !before.contains(verb));
    if !more.is_empty() {
        known.append(&mut more);
        known.sort_unstable();
        known.dedup();
    }
}

fn is_empty(text: &Text) -> bool {
    text.is_empty()
}
