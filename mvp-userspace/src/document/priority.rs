//! Kubernetes' order of versions, and the priorities by which kube-apiserver orders groups and versions.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::api::GroupVersion;

/// Priorities beside the built-in ones, as APIService objects have them. They are shared by all servers of a cluster and win
/// over the built-in table.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Priorities {
    /// `spec.groupPriorityMinimum`, the highest of the group's versions.
    pub groups: BTreeMap<Box<str>, i32>,
    /// `spec.versionPriority`.
    pub versions: BTreeMap<GroupVersion, i32>,
}

/// How finished a version is: `v1` before `v1beta1` before `v1alpha1` before what is not named so.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Stability {
    General,
    Beta,
    Alpha,
    Other,
}

/// Sorts versions as a server lists them: by priority, then as [`compare_versions`].
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct VersionKey<'a> {
    priority: Reverse<i32>,
    name: ByKubernetes<'a>,
}

impl Priorities {
    /// From (group, version, `spec.groupPriorityMinimum`, `spec.versionPriority`) of every APIService. A group has the highest
    /// of its objects, as kube-aggregator takes it (`sortByGroupPriority` in `apis/apiregistration/v1/helper`).
    pub fn of_services<'a>(
        services: impl IntoIterator<Item = (&'a str, &'a str, i32, i32)>,
    ) -> Self {
        let mut priorities = Self::default();
        for (group, version, minimum, priority) in services {
            let gv = GroupVersion {
                group: group.into(),
                version: version.into(),
            };
            let highest = priorities.groups.entry(group.into()).or_insert(minimum);
            *highest = minimum.max(*highest);
            let highest = priorities.versions.entry(gv).or_insert(priority);
            *highest = priority.max(*highest);
        }
        priorities
    }

    /// The priority of a group; a higher one comes first.
    pub(super) fn group(&self, group: &str) -> i32 {
        self.groups.get(group).copied().unwrap_or_else(|| {
            let built_in = GROUPS.iter().find(|(name, _)| *name == group);
            built_in.map_or(UNKNOWN_GROUP, |(_, priority)| *priority)
        })
    }

    pub(super) fn version<'a>(&self, group: &str, version: &'a str) -> VersionKey<'a> {
        let gv = GroupVersion {
            group: group.into(),
            version: version.into(),
        };
        let given = self.versions.get(&gv).copied();
        let priority = given.unwrap_or_else(|| usual(stability(version)));
        VersionKey {
            priority: Reverse(priority),
            name: ByKubernetes(version),
        }
    }
}

/// Kubernetes' order, the preferred first: GA, beta, alpha; higher major, then minor numbers first; names of another form
/// last, ascending. Total: equal only for equal names. Rule: apimachinery `pkg/version/helpers.go`.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let key = |version| match parse(version) {
        Some((stability, major, minor)) => (stability, Reverse((major, minor)), version),
        None => (Stability::Other, Reverse((0, 0)), version),
    };
    key(a).cmp(&key(b))
}

pub(super) fn stability(version: &str) -> Stability {
    parse(version).map_or(Stability::Other, |(stability, _, _)| stability)
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct ByKubernetes<'a>(&'a str);

impl Ord for ByKubernetes<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_versions(self.0, other.0)
    }
}

impl PartialOrd for ByKubernetes<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `v1`, `v1beta2`, `v1alpha3`: stability, major and minor number.
fn parse(version: &str) -> Option<(Stability, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let (major, rest) = number(rest)?;
    if rest.is_empty() {
        return Some((Stability::General, major, 0));
    }
    let (stability, rest) = match rest.strip_prefix("beta") {
        Some(rest) => (Stability::Beta, rest),
        None => (Stability::Alpha, rest.strip_prefix("alpha")?),
    };
    let (minor, rest) = number(rest)?;
    rest.is_empty().then_some((stability, major, minor))
}

/// Leading digits; `None` if there are none, or for a number that Go's `int` does not hold.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    let number: i64 = digits.parse().ok()?;
    Some((number.unsigned_abs(), rest))
}

/// The priority of CRD groups, and of any group without an APIService.
const UNKNOWN_GROUP: i32 = 1_000;

/// What Kubernetes gives its own versions unless there is a reason not to. Alone, these leave Kubernetes' order as it is, and
/// so do the priorities that Kubernetes' own versions really have, which is why there is no table of them.
fn usual(stability: Stability) -> i32 {
    match stability {
        Stability::General => 15,
        Stability::Beta => 9,
        Stability::Alpha => 1,
        Stability::Other => 0,
    }
}

/// Source: kubernetes 1.36 `pkg/controlplane/apiserver/aggregator.go` and `cmd/kube-apiserver/app/aggregator.go`.
const GROUPS: &[(&str, i32)] = &[
    ("apiregistration.k8s.io", 20_001),
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("storagemigration.k8s.io", 15_800),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_in_kubernetes_order() {
        let expected = [
            "v12",
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v1beta2",
            "v1beta1",
            "v12alpha1",
            "v11alpha2",
            "v1alpha1",
            "",
            "1",
            "V1",
            "foo1",
            "foo10",
            "v",
            "v1-beta1",
            "v1beta",
            "v1gamma1",
            "v99999999999999999999",
            "vbeta1",
        ];
        let mut sorted = expected;
        sorted.reverse();
        sorted.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(sorted, expected);
    }

    #[test]
    fn services_win_over_the_table() {
        let none = Priorities::default();
        assert_eq!(none.group("apps"), 17_800);
        assert_eq!(none.group("example.com"), 1_000);
        assert!(none.version("autoscaling", "v2") < none.version("autoscaling", "v1"));
        assert!(none.version("example.com", "v2") < none.version("example.com", "v1"));
        let mut versions = ["other", "v1alpha1", "v1alpha2", "v1beta1", "v1"];
        versions.sort_by_key(|version| none.version("coordination.k8s.io", version));
        assert_eq!(versions, ["v1", "v1beta1", "v1alpha2", "v1alpha1", "other"]);
        let some = Priorities::of_services([
            ("apps", "v1", 5, 1),
            ("apps", "v2", 7, 2),
            ("apps", "v3", 6, 0),
        ]);
        assert_eq!(some.group("apps"), 7);
        assert!(some.version("apps", "v2") < some.version("apps", "v1"));
        assert!(some.version("apps", "v1") < some.version("apps", "v3"));
    }

    /// (group, versions with their priorities in Kubernetes 1.36, where they are not the usual ones.)
    #[test]
    fn built_in_priorities_follow_kubernetes_order() {
        for (group, versions) in [
            (
                "admissionregistration.k8s.io",
                &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)][..],
            ),
            ("autoscaling", &[("v2", 30), ("v1", 15)]),
            (
                "coordination.k8s.io",
                &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)],
            ),
            ("events.k8s.io", &[("v1", 15), ("v1beta1", 5)]),
            (
                "flowcontrol.apiserver.k8s.io",
                &[
                    ("v1", 21),
                    ("v1beta3", 18),
                    ("v1beta2", 15),
                    ("v1beta1", 12),
                    ("v1alpha1", 9),
                ],
            ),
            (
                "resource.k8s.io",
                &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)],
            ),
            (
                "scheduling.k8s.io",
                &[("v1", 15), ("v1alpha2", 2), ("v1alpha1", 1)],
            ),
        ] {
            assert!(versions.is_sorted_by(|a, b| a.1 > b.1), "{group}");
            let none = Priorities::default();
            assert!(
                versions.is_sorted_by_key(|(v, _)| none.version(group, v)),
                "{group}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(names in proptest::collection::vec("v?[0-9]{0,2}(alpha|beta)?[0-9]{0,2}", 3)) {
            let [a, b, c] = [&names[0], &names[1], &names[2]];
            prop_assert_eq!(compare_versions(a, b), compare_versions(b, a).reverse());
            prop_assert_eq!(compare_versions(a, b) == Ordering::Equal, a == b);
            if compare_versions(a, b).is_le() && compare_versions(b, c).is_le() {
                prop_assert!(compare_versions(a, c).is_le());
            }
        }
    }
}
