//! The set of everything one server serves, as routing needs it.

use super::VerbSet;

/// One (group, version, resource, subresource) with its verbs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiEntry {
    pub group: Box<str>,
    pub version: Box<str>,
    pub resource: Box<str>,
    /// It is empty for the resource itself.
    pub subresource: Box<str>,
    pub verbs: VerbSet,
}

/// Sorted by key, each key once (the verbs of duplicates are united).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiSet {
    entries: Vec<ApiEntry>,
}

impl ApiEntry {
    pub fn key(&self) -> (&str, &str, &str, &str) {
        (
            &self.group,
            &self.version,
            &self.resource,
            &self.subresource,
        )
    }
}

impl ApiSet {
    pub fn new(mut entries: Vec<ApiEntry>) -> Self {
        entries.sort_by(|a, b| a.key().cmp(&b.key()));
        entries.dedup_by(|later, earlier| {
            let same = later.key() == earlier.key();
            if same {
                earlier.verbs = earlier.verbs.union(later.verbs);
            }
            same
        });
        Self { entries }
    }

    pub fn entries(&self) -> &[ApiEntry] {
        &self.entries
    }
}
