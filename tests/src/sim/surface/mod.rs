//! What a kube-apiserver of a given minor serves: groups, versions, resources, subresources, in the server's own order.

mod custom;
mod parse;
pub mod priority;
mod table;

use std::sync::Arc;

pub use custom::version_order;
pub use parse::{Apis, surface, surface_of};

use super::discovery::Documents;

/// Everything one server serves. Groups, versions and resources stand in the order of that server's discovery documents.
#[derive(Clone, Debug, PartialEq)]
pub struct Surface {
    /// Kubernetes minor, 31 to 36.
    pub minor: u8,
    /// The core group has the name "" and comes first; it is `/api`, all others are `/apis`.
    pub groups: Vec<Group>,
    /// The discovery and OpenAPI documents of these groups, made when first asked for. Whoever changes `groups` of a
    /// surface that has answered before must put `Documents::default()` here; a clone starts empty.
    pub documents: Documents,
}

/// An API group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Empty for the core group.
    pub name: String,
    /// In the order in which they are listed.
    pub versions: Vec<Version>,
}

/// One version of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// For example `v1beta1`.
    pub name: String,
    /// In the order in which they are listed.
    pub resources: Vec<Resource>,
}

/// A resource of a group version.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The plural name in paths.
    pub name: String,
    /// The singular name; empty where the server says none.
    pub singular: String,
    /// The kind of its objects.
    pub kind: String,
    /// Group and version of the kind; empty when they are the enclosing ones.
    pub kind_group: String,
    /// See `kind_group`.
    pub kind_version: String,
    /// Whether paths have a namespace.
    pub namespaced: bool,
    /// In the order in which they are listed.
    pub verbs: Vec<String>,
    /// Abbreviations such as `deploy`.
    pub short_names: Vec<String>,
    /// Groupings such as `all`.
    pub categories: Vec<String>,
    /// In the order in which they are listed.
    pub subresources: Vec<Subresource>,
    /// From a CustomResourceDefinition: other 404 shapes, no protobuf.
    pub custom: bool,
    /// `storageVersionHash` of legacy discovery; empty for resources that are not stored.
    pub storage_version_hash: String,
    /// `openAPIV3Schema` of a CustomResourceDefinition's version.
    pub schema: Option<Arc<serde_json::Value>>,
}

/// What is below an object of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Subresource {
    /// Without the resource's name, for example `scale`.
    pub name: String,
    /// The kind that it answers with; empty: none is said.
    pub kind: String,
    /// The group of the kind; empty: the enclosing one.
    pub kind_group: String,
    /// The version of the kind; empty: the enclosing one.
    pub kind_version: String,
    /// In the order in which they are listed.
    pub verbs: Vec<String>,
    /// Group, version and kind of what may be sent to it.
    pub accepted_types: Vec<(String, String, String)>,
}

impl Surface {
    /// One version of one group, if it is served.
    pub fn version(&self, group: &str, version: &str) -> Option<&Version> {
        self.groups
            .iter()
            .find(|g| g.name == group)?
            .versions
            .iter()
            .find(|v| v.name == version)
    }

    /// One resource of a group version, if it is served.
    pub fn resource(&self, group: &str, version: &str, resource: &str) -> Option<&Resource> {
        self.version(group, version)?
            .resources
            .iter()
            .find(|r| r.name == resource)
    }
}
