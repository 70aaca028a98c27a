//! The set of everything one server serves, as routing needs it.

use super::VerbSet;

/// One (group, version, resource, subresource) with its verbs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiEntry {
    /// Empty for the core group.
    pub group: Box<str>,
    /// As it stands in the path, for example `v1`.
    pub version: Box<str>,
    /// The plural, lower-case name in the path.
    pub resource: Box<str>,
    /// It is empty for the resource itself.
    pub subresource: Box<str>,
    /// The verbs that discovery lists. A document that lists none leaves the set empty.
    pub verbs: VerbSet,
}

/// Sorted by key, each key once (the verbs of duplicates are united).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiSet {
    entries: Vec<ApiEntry>,
}

impl ApiEntry {
    /// What entries are sorted and found by: group, version, resource, subresource.
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
    /// Takes entries in any order; of those with the same key the verbs are united.
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

    /// Sorted by [`ApiEntry::key`], without duplicates.
    pub fn entries(&self) -> &[ApiEntry] {
        &self.entries
    }
}
