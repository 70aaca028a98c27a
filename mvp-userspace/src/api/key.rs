//! The route key.

use std::fmt;

/// (group, version, resource, subresource): what servers of different versions differ in. The core group is "".
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    /// As it stands in the path, for example `v1`.
    pub version: &'a str,
    /// The plural, lower-case name in the path, for example `deployments`.
    pub resource: &'a str,
    /// Empty for the resource itself.
    pub subresource: &'a str,
}

/// `apps/v1 deployments/scale`; core: `v1 pods`.
impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        write!(f, "{} {}", self.version, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display() {
        let scale = Key {
            group: "apps",
            version: "v1",
            resource: "deployments",
            subresource: "scale",
        };
        let pods = Key {
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
        };
        assert_eq!(scale.to_string(), "apps/v1 deployments/scale");
        assert_eq!(pods.to_string(), "v1 pods");
    }
}
