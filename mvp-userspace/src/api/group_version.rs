//! A group and a version without a resource.

/// A (group, version) by name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupVersion {
    pub group: Box<str>,
    pub version: Box<str>,
}
