//! The order in which a server puts its groups and versions, as numbers: cmd/kube-apiserver/app/aggregator.go and
//! kube-aggregator's DefaultGenericAPIServicePriorities.

/// `groupPriorityMinimum` and `versionPriority` of an APIService; greater is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// `groupPriorityMinimum`.
    pub group: i32,
    /// `versionPriority`.
    pub version: i32,
}

/// The priority of every custom resource (pkg/controlplane/controller/crdregistration).
pub const CUSTOM: Priority = Priority {
    group: 1000,
    version: 100,
};

const GROUPS: &[(&str, i32)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("resource.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("internal.apiserver.k8s.io", 16000),
    ("storagemigration.k8s.io", 15800),
];

/// Versions that are not 15 for GA, 9 for beta, 1 for alpha.
const VERSIONS: &[(&str, &str, i32)] = &[
    ("", "v1", 1),
    ("autoscaling", "v2", 30),
    ("flowcontrol.apiserver.k8s.io", "v1", 21),
    ("flowcontrol.apiserver.k8s.io", "v1beta3", 18),
    ("resource.k8s.io", "v1", 21),
    ("resource.k8s.io", "v1beta2", 15),
    ("admissionregistration.k8s.io", "v1beta1", 12),
    ("admissionregistration.k8s.io", "v1alpha1", 9),
    ("coordination.k8s.io", "v1beta1", 13),
    ("coordination.k8s.io", "v1alpha2", 12),
    ("scheduling.k8s.io", "v1alpha2", 2),
];

/// The priority of a group version that is built in. Groups that the table does not know have the priority of unknown ones, 1000.
pub fn built_in(group: &str, version: &str) -> Priority {
    let known = GROUPS.iter().find(|(name, _)| *name == group);
    let exception = VERSIONS
        .iter()
        .find(|(name, number, _)| (*name, *number) == (group, version));
    Priority {
        group: known.map_or(1000, |(_, priority)| *priority),
        version: match exception {
            Some((.., priority)) => *priority,
            None if version.contains("alpha") => 1,
            None if version.contains("beta") => 9,
            None => 15,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::sim::surface::surface;

    /// The table of surfaces has the order of real documents, so the numbers must give the same.
    #[test]
    fn numbers_give_the_order_of_the_documents() {
        for minor in 32..=36 {
            let surface = surface(minor, true);
            let groups = surface.groups.iter().map(|group| group.name.as_str());
            let groups: Vec<&str> = groups
                .filter(|name| !["", "apiregistration.k8s.io"].contains(name))
                .collect();
            let mut sorted = groups.clone();
            sorted.sort_by_key(|name| (Reverse(built_in(name, "v1").group), *name));
            assert_eq!(groups, sorted, "1.{minor}");
            for group in &surface.groups {
                let numbers: Vec<i32> = group
                    .versions
                    .iter()
                    .map(|version| built_in(&group.name, &version.name).version)
                    .collect();
                assert!(
                    numbers.is_sorted_by(|a, b| a > b),
                    "1.{minor} {}: {numbers:?}",
                    group.name
                );
            }
        }
    }
}
