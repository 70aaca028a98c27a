//! A group and a version without a resource.

use std::fmt;

/// A (group, version) by name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupVersion {
    /// Empty for the core group, whose documents are below `/api`.
    pub group: Box<str>,
    /// As it stands in the path, for example `v1beta1`.
    pub version: Box<str>,
}

impl fmt::Display for GroupVersion {
    /// As `groupVersion` and `apiVersion` fields have it: `v1`, `apps/v1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        f.write_str(&self.version)
    }
}
