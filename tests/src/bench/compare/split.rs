//! What every proxy is configured with for the two servers: whose resources go to the second one, by group, version and
//! resource, as a person would write it down who knows what the next version brings. Everything else goes to the first one.

use super::super::answers::GROUP;

/// Group, version and resource of each type that only the second server has.
pub(super) const SECOND: [(&str, &str, &str); 3] = [
    (GROUP, "v1", "widgets"),
    (
        "admissionregistration.k8s.io",
        "v1",
        "mutatingadmissionpolicies",
    ),
    ("scheduling.k8s.io", "v1alpha2", "workloads"),
];

/// A regular expression for the paths of [`SECOND`], cluster-wide and within a namespace, with whatever is below. All three proxies
/// understand it.
pub(super) fn expression() -> String {
    let types: Vec<String> = SECOND
        .iter()
        .map(|(group, version, resource)| {
            let group = group.replace('.', "\\.");
            format!("{group}/{version}/(?:namespaces/[^/]+/)?{resource}")
        })
        .collect();
    format!("^/apis/(?:{})(?:/.*)?$", types.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_within_and_without_a_namespace() {
        let expression = expression();
        assert!(expression.starts_with("^/apis/(?:bench\\.mvp\\.dev/v1/"));
        assert!(expression.contains("(?:namespaces/[^/]+/)?widgets|admissionregistration"));
        assert!(expression.ends_with("(?:/.*)?$"));
    }
}
