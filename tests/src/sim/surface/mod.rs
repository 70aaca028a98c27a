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

#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub name: String,
    pub resources: Vec<Resource>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub name: String,
    pub singular: String,
    pub kind: String,
    /// Group and version of the kind; empty when they are the enclosing ones.
    pub kind_group: String,
    pub kind_version: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub subresources: Vec<Subresource>,
    /// From a CustomResourceDefinition: other 404 shapes, no protobuf.
    pub custom: bool,
    /// `storageVersionHash` of legacy discovery; empty for resources that are not stored.
    pub storage_version_hash: String,
    /// `openAPIV3Schema` of a CustomResourceDefinition's version.
    pub schema: Option<Arc<serde_json::Value>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Subresource {
    pub name: String,
    pub kind: String,
    pub kind_group: String,
    pub kind_version: String,
    pub verbs: Vec<String>,
    pub accepted_types: Vec<(String, String, String)>,
}

impl Surface {
    pub fn version(&self, group: &str, version: &str) -> Option<&Version> {
        self.groups
            .iter()
            .find(|g| g.name == group)?
            .versions
            .iter()
            .find(|v| v.name == version)
    }

    pub fn resource(&self, group: &str, version: &str, resource: &str) -> Option<&Resource> {
        self.version(group, version)?
            .resources
            .iter()
            .find(|r| r.name == resource)
    }
}
