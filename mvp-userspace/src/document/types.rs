//! One server's discovery document, or the merge of several, with everything clients read from it.
//!
//! Shape, field order and what is left out when empty: `api/apidiscovery/v2/types.go`; v2beta1 has the same.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::api::{ApiEntry, ApiSet, GroupVersion, VerbSet};

/// A name. Documents repeat the same few over and over (verbs, kinds), and the merge shares them with what it was made of.
pub type Text = Arc<str>;

/// `APIGroupDiscoveryList`: the groups of one discovery root, in order of preference.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Document {
    /// In order of preference; a group occurs once.
    pub groups: Vec<Group>,
}

/// `APIGroupDiscovery`. Serializes as its JSON, as the types below do.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Group {
    /// Empty for the core group.
    #[serde(rename = "metadata", serialize_with = "metadata")]
    pub name: Text,
    /// In order of preference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Version>,
}

/// `APIVersionDiscovery`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Version {
    /// The version's name, for example `v1`.
    pub version: Text,
    /// In the server's order; a resource occurs once. Empty for a version that is stale from the beginning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// Whether the server that lists it could confirm it.
    pub freshness: Freshness,
}

/// Clients drop a group version that is `Stale` and report it as failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
pub enum Freshness {
    /// The server has it from the API server in charge.
    Current,
    /// The aggregated server in charge could not be asked lately; what is listed may be out of date.
    Stale,
}

/// Where the objects of a resource live.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Scope {
    /// Paths have no namespace.
    Cluster,
    /// Paths have a namespace.
    Namespaced,
}

/// `APIResourceDiscovery`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// The plural name in request paths.
    pub resource: Text,
    /// Absent, or with an empty kind, if only subresources of it are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_kind: Option<GroupVersionKind>,
    /// Whether paths of the resource have a namespace.
    pub scope: Scope,
    /// The singular name, by which kubectl also finds the resource; often empty.
    #[serde(rename = "singularResource")]
    pub singular: Text,
    /// In the server's order. Empty if only subresources are served.
    pub verbs: Vec<Text>,
    /// Abbreviations that kubectl expands, for example `deploy`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<Text>,
    /// Groupings that kubectl expands, for example `all`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<Text>,
    /// What is below the resource's objects, in the server's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subresources: Vec<Subresource>,
}

/// `APISubresourceDiscovery`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subresource {
    /// The name without that of the resource, for example `scale`.
    pub subresource: Text,
    /// The kind of its objects; absent if they have none, as for `pods/exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_kind: Option<GroupVersionKind>,
    /// The kinds that may be sent to it, where they differ from that of the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepted_types: Vec<GroupVersionKind>,
    /// In the server's order.
    pub verbs: Vec<Text>,
}

/// `metav1.GroupVersionKind`. An empty group and version mean those of the enclosing group version.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct GroupVersionKind {
    /// Empty: that of the enclosing group version.
    pub group: Text,
    /// Empty: that of the enclosing group version.
    pub version: Text,
    /// The name of the type, for example `Deployment`.
    pub kind: Text,
}

impl Document {
    /// The group of this name; the empty name is the core group.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| *group.name == *name)
    }

    /// One version of one group; `None` if either is not listed.
    pub fn version(&self, group: &str, version: &str) -> Option<&Version> {
        let versions = &self.group(group)?.versions;
        versions.iter().find(|found| *found.version == *version)
    }

    /// What routing needs of the document: each key once, sorted.
    pub fn api_set(&self) -> ApiSet {
        ApiSet::new(self.entries())
    }

    /// Its keys, in its order. A version that is `Stale` keeps the resources that it lists.
    pub fn entries(&self) -> Vec<ApiEntry> {
        let mut entries = Vec::new();
        for (group, version) in self.group_versions() {
            for resource in &version.resources {
                let mut push = |subresource: &str, verbs: &[Text]| {
                    entries.push(ApiEntry {
                        group: (*group.name).into(),
                        version: (*version.version).into(),
                        resource: (*resource.resource).into(),
                        subresource: subresource.into(),
                        verbs: VerbSet::from_names(verbs.iter().map(|verb| &**verb)),
                    });
                };
                if resource.is_served() {
                    push("", &resource.verbs);
                }
                for subresource in &resource.subresources {
                    push(&subresource.subresource, &subresource.verbs);
                }
            }
        }
        entries
    }

    /// Group versions that are `Stale`, in the document's order.
    pub fn stale(&self) -> Vec<GroupVersion> {
        self.group_versions()
            .filter(|(_, version)| version.freshness == Freshness::Stale)
            .map(|(group, version)| GroupVersion {
                group: (*group.name).into(),
                version: (*version.version).into(),
            })
            .collect()
    }

    fn group_versions(&self) -> impl Iterator<Item = (&Group, &Version)> {
        self.groups
            .iter()
            .flat_map(|group| group.versions.iter().map(move |version| (group, version)))
    }
}

impl Resource {
    /// False if the resource is only the parent of its subresources.
    pub fn is_served(&self) -> bool {
        is_kind(self.response_kind.as_ref())
    }

    /// How many keys it has: itself, if it is served, and its subresources.
    pub(super) fn entries(&self) -> usize {
        usize::from(self.is_served()) + self.subresources.len()
    }
}

/// True if the kind says something.
pub(super) fn is_kind(kind: Option<&GroupVersionKind>) -> bool {
    kind.is_some_and(|kind| !kind.kind.is_empty())
}

/// What a list holds once a name.
pub(super) trait Named {
    fn name(&self) -> &Text;

    /// Takes over what another of the same name says. Its own scalar fields stay.
    fn append(&mut self, other: Self);

    /// Unites duplicates among the children.
    fn settle(&mut self);
}

/// Each name once, where it came first.
pub(super) fn united<T: Named>(items: Vec<T>) -> Vec<T> {
    let mut places: HashMap<Text, usize> = HashMap::with_capacity(items.len());
    let mut united: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        match places.entry(item.name().clone()) {
            Entry::Occupied(place) => {
                if let Some(first) = united.get_mut(*place.get()) {
                    first.append(item);
                }
            }
            Entry::Vacant(place) => {
                place.insert(united.len());
                united.push(item);
            }
        }
    }
    for item in &mut united {
        item.settle();
    }
    united
}

impl Named for Group {
    fn name(&self) -> &Text {
        &self.name
    }

    fn append(&mut self, other: Self) {
        self.versions.extend(other.versions);
    }

    fn settle(&mut self) {
        self.versions = united(std::mem::take(&mut self.versions));
    }
}

impl Named for Version {
    fn name(&self) -> &Text {
        &self.version
    }

    fn append(&mut self, other: Self) {
        self.resources.extend(other.resources);
        if other.freshness == Freshness::Current {
            self.freshness = Freshness::Current;
        }
    }

    fn settle(&mut self) {
        self.resources = united(std::mem::take(&mut self.resources));
    }
}

impl Named for Resource {
    fn name(&self) -> &Text {
        &self.resource
    }

    fn append(&mut self, other: Self) {
        if !self.is_served() {
            self.response_kind = other.response_kind;
        }
        self.verbs.extend(other.verbs);
        self.short_names.extend(other.short_names);
        self.categories.extend(other.categories);
        self.subresources.extend(other.subresources);
    }

    fn settle(&mut self) {
        keep_first(&mut self.verbs);
        keep_first(&mut self.short_names);
        keep_first(&mut self.categories);
        self.subresources = united(std::mem::take(&mut self.subresources));
    }
}

impl Named for Subresource {
    fn name(&self) -> &Text {
        &self.subresource
    }

    fn append(&mut self, other: Self) {
        if !is_kind(self.response_kind.as_ref()) {
            self.response_kind = other.response_kind;
        }
        self.verbs.extend(other.verbs);
        self.accepted_types.extend(other.accepted_types);
    }

    fn settle(&mut self) {
        keep_first(&mut self.verbs);
        keep_first(&mut self.accepted_types);
    }
}

fn keep_first<T: Clone + Eq + Hash>(items: &mut Vec<T>) {
    if items.len() > 1 {
        let mut seen = std::collections::HashSet::with_capacity(items.len());
        items.retain(|item| seen.insert(item.clone()));
    }
}

/// An `ObjectMeta` of which discovery fills in the name only. Servers before 1.34 add `"creationTimestamp":null`; we do not.
fn metadata<S: Serializer>(name: &Text, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Metadata<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        name: &'a str,
    }
    Metadata { name }.serialize(serializer)
}
