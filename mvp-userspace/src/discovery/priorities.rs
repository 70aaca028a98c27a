//! What APIService objects say about the order of groups and versions. All servers share them through etcd, so that they
//! also determine the place of a group that only a newer server has.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::api::{MAX_NAME, is_path_segment};
use crate::document::{MAX_VERSIONS, Priorities};

/// The part of an APIService's spec that says in which order a group version is listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiService {
    /// Empty for the core group.
    pub group: Box<str>,
    /// The version of the group.
    pub version: Box<str>,
    /// `groupPriorityMinimum`: groups with a higher one are listed first; the highest of a group's versions counts.
    pub group_priority: i32,
    /// `versionPriority`: orders the versions of a group; those that have the same are ordered by name.
    pub version_priority: i32,
}

/// All APIServices of a cluster by object name, at most [`MAX_VERSIONS`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiServices {
    by_name: BTreeMap<Box<str>, ApiService>,
}

/// `spec` as it stands in the object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ApiServiceSpec {
    group: Option<String>,
    version: Option<String>,
    group_priority_minimum: Option<i32>,
    version_priority: Option<i32>,
}

impl ApiServiceSpec {
    /// `None` if no request path can name the group version.
    pub(super) fn read(self) -> Option<ApiService> {
        let group = self.group.unwrap_or_default();
        let version = self.version.unwrap_or_default();
        let named = is_path_segment(&version) && (group.is_empty() || is_path_segment(&group));
        named.then(|| ApiService {
            group: group.into(),
            version: version.into(),
            group_priority: self.group_priority_minimum.unwrap_or_default(),
            version_priority: self.version_priority.unwrap_or_default(),
        })
    }
}

impl ApiServices {
    /// True if this changes what is known. One object more than the limit is left out: discovery has no place for it either.
    pub fn apply(&mut self, name: &str, service: ApiService) -> bool {
        if name.len() > MAX_NAME {
            return false;
        }
        match self.by_name.get(name) {
            Some(known) if *known == service => return false,
            None if self.by_name.len() >= MAX_VERSIONS => return false,
            _ => {}
        }
        self.by_name.insert(name.into(), service);
        true
    }

    /// True if it was known.
    pub fn delete(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// How many APIServices are known.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether none is known, as before the first list.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The order in which kube-aggregator would list these group versions.
    pub fn priorities(&self) -> Priorities {
        Priorities::of_services(self.by_name.values().map(|service| {
            let (group, version) = (&*service.group, &*service.version);
            (
                group,
                version,
                service.group_priority,
                service.version_priority,
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::GroupVersion;

    fn group(priorities: &Priorities, group: &str) -> Option<i32> {
        priorities.groups.get(group).copied()
    }

    fn version(priorities: &Priorities, group: &str, version: &str) -> Option<i32> {
        let gv = GroupVersion {
            group: group.into(),
            version: version.into(),
        };
        priorities.versions.get(&gv).copied()
    }

    fn service(group: &str, version: &str, group_priority: i32, priority: i32) -> ApiService {
        ApiService {
            group: group.into(),
            version: version.into(),
            group_priority,
            version_priority: priority,
        }
    }

    #[test]
    fn the_highest_of_a_group_counts() {
        let mut services = ApiServices::default();
        assert!(services.apply("v1.", service("", "v1", 18000, 1)));
        assert!(services.apply("v1.apps", service("apps", "v1", 17800, 15)));
        assert!(services.apply("v1beta1.apps", service("apps", "v1beta1", 17900, 9)));
        assert!(!services.apply("v1.apps", service("apps", "v1", 17800, 15)));
        let priorities = services.priorities();
        assert_eq!(group(&priorities, ""), Some(18000));
        assert_eq!(group(&priorities, "apps"), Some(17900));
        assert_eq!(version(&priorities, "apps", "v1"), Some(15));
        assert_eq!(version(&priorities, "apps", "v2"), None);
        assert!(services.delete("v1beta1.apps"));
        assert!(!services.delete("v1beta1.apps"));
        assert_eq!(group(&services.priorities(), "apps"), Some(17800));
    }

    #[test]
    fn a_spec_that_no_path_can_name_is_nothing() {
        let read = |json: &str| serde_json::from_str::<ApiServiceSpec>(json).unwrap().read();
        let full = r#"{"group":"apps","version":"v1","groupPriorityMinimum":17800,"versionPriority":15,"service":null}"#;
        assert_eq!(read(full), Some(service("apps", "v1", 17800, 15)));
        assert_eq!(read(r#"{"version":"v1"}"#), Some(service("", "v1", 0, 0)));
        for bad in ["{}", r#"{"version":null}"#, r#"{"version":"a/b"}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_number_is_bounded() {
        let mut services = ApiServices::default();
        for i in 0..MAX_VERSIONS {
            assert!(services.apply(&i.to_string(), service("g", "v1", 1, 1)));
        }
        assert!(!services.apply("more", service("g", "v1", 2, 2)));
        assert!(services.apply("0", service("g", "v1", 3, 3)), "a known one");
        assert_eq!(services.len(), MAX_VERSIONS);
        assert!(!services.apply(&"n".repeat(MAX_NAME + 1), service("g", "v1", 4, 4)));
    }

    proptest! {
        #[test]
        fn priorities_depend_on_what_is_there_and_not_on_how_it_came(
            steps in proptest::collection::vec((0usize..6, 0usize..3, 0usize..3, any::<i32>(), any::<i32>(), any::<bool>()), 0..40)
        ) {
            let mut services = ApiServices::default();
            let mut model = BTreeMap::new();
            for (name, group, version, group_priority, priority, keep) in steps {
                let name = name.to_string();
                if keep {
                    let one = service(["", "a", "b"][group], ["v1", "v2", "v3"][version], group_priority, priority);
                    let changed = model.insert(name.clone(), one.clone()).as_ref() != Some(&one);
                    prop_assert_eq!(services.apply(&name, one), changed);
                } else {
                    prop_assert_eq!(services.delete(&name), model.remove(&name).is_some());
                }
            }
            let priorities = services.priorities();
            for one in model.values() {
                let of_group = model.values().filter(|o| o.group == one.group);
                prop_assert_eq!(group(&priorities, &one.group), of_group.clone().map(|o| o.group_priority).max());
                let of_version = of_group.filter(|o| o.version == one.version);
                prop_assert_eq!(version(&priorities, &one.group, &one.version), of_version.map(|o| o.version_priority).max());
            }
            let groups: std::collections::BTreeSet<_> = model.values().map(|o| o.group.clone()).collect();
            prop_assert_eq!(priorities.groups.len(), groups.len());
        }
    }
}
