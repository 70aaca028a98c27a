//! What CustomResourceDefinitions add to a server's surface.

use std::{cmp::Ordering, sync::Arc};

use serde_json::Value;

use super::{Group, Resource, Subresource, Surface, Version, parse::storage_version_hash};
use crate::sim::discovery::Documents;

/// As the discovery controller of apiextensions-apiserver lists them (customresource_discovery_controller.go).
const VERBS: [&str; 8] = [
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
const VERBS_TERMINATING: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];

impl Surface {
    /// This surface and what these CustomResourceDefinitions (apiextensions.k8s.io/v1) add to it: their served versions,
    /// if their conditions say Established or they have no status at all. Their groups come behind all built-in ones,
    /// by name; versions in Kubernetes' order of versions; resources by name. A group version that is built in hides
    /// one of the same name.
    pub fn with_custom(&self, definitions: &[Value]) -> Surface {
        let mut groups = self.groups.clone();
        for definition in definitions
            .iter()
            .filter(|definition| is_established(definition))
        {
            let group = text(&definition["spec"]["group"]);
            for version in list(&definition["spec"]["versions"]) {
                if version["served"] == true {
                    let resource = resource(definition, version, group);
                    add(&mut groups, group, text(&version["name"]), resource);
                }
            }
        }
        groups.sort_by(|a, b| match (is_custom(a), is_custom(b)) {
            (true, true) => a.name.cmp(&b.name),
            (a, b) => a.cmp(&b),
        });
        Surface {
            minor: self.minor,
            groups,
            documents: Documents::default(),
        }
    }
}

/// Kubernetes' order of versions, the preferred first: GA, beta, alpha; each with the greatest number first; other
/// names behind them, by name (k8s.io/apimachinery/pkg/version CompareKubeAwareVersionStrings).
pub fn version_order(a: &str, b: &str) -> Ordering {
    match (kube_version(a), kube_version(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Stage (2 for GA), major and minor number.
fn kube_version(name: &str) -> Option<(u8, u64, u64)> {
    let rest = name.strip_prefix('v')?;
    let number = |digits: &str| {
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    for (stage, word) in [(1, "beta"), (0, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stage, number(major)?, number(minor)?));
        }
    }
    Some((2, number(rest)?, 0))
}

fn is_established(definition: &Value) -> bool {
    definition.get("status").is_none_or(Value::is_null) || has_condition(definition, "Established")
}

fn has_condition(definition: &Value, kind: &str) -> bool {
    list(&definition["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn resource(definition: &Value, version: &Value, group: &str) -> Resource {
    let spec = &definition["spec"];
    let names = match &definition["status"]["acceptedNames"] {
        accepted if accepted["plural"].is_string() => accepted,
        _ => &spec["names"],
    };
    let kind = text(&names["kind"]);
    let singular = match text(&names["singular"]) {
        "" => kind.to_lowercase(),
        singular => singular.to_owned(),
    };
    let stored = list(&spec["versions"])
        .iter()
        .find(|version| version["storage"] == true)
        .unwrap_or(version);
    let verbs: &[&str] = if has_condition(definition, "Terminating") {
        &VERBS_TERMINATING
    } else {
        &VERBS
    };
    let schema = &version["schema"]["openAPIV3Schema"];
    Resource {
        name: text(&names["plural"]).to_owned(),
        singular,
        kind: kind.to_owned(),
        kind_group: group.to_owned(),
        kind_version: text(&version["name"]).to_owned(),
        namespaced: spec["scope"] == "Namespaced",
        verbs: owned(verbs),
        short_names: strings(&names["shortNames"]),
        categories: strings(&names["categories"]),
        subresources: subresources(version, group, kind),
        custom: true,
        storage_version_hash: storage_version_hash(group, text(&stored["name"]), kind),
        schema: schema.is_object().then(|| Arc::new(schema.clone())),
    }
}

fn subresources(version: &Value, group: &str, kind: &str) -> Vec<Subresource> {
    let own = (group, text(&version["name"]), kind);
    [("status", own), ("scale", ("autoscaling", "v1", "Scale"))]
        .into_iter()
        .filter(|(name, _)| version["subresources"][name].is_object())
        .map(|(name, (group, version, kind))| Subresource {
            name: name.to_owned(),
            kind: kind.to_owned(),
            kind_group: group.to_owned(),
            kind_version: version.to_owned(),
            verbs: owned(&["get", "patch", "update"]),
            accepted_types: Vec::new(),
        })
        .collect()
}

fn add(groups: &mut Vec<Group>, group: &str, version: &str, resource: Resource) {
    let at = match groups.iter().position(|one| one.name == group) {
        Some(at) => at,
        None => {
            groups.push(Group {
                name: group.to_owned(),
                versions: Vec::new(),
            });
            groups.len() - 1
        }
    };
    let versions = &mut groups[at].versions;
    match versions.iter_mut().find(|one| one.name == version) {
        Some(one) if one.resources.iter().all(|resource| resource.custom) => {
            one.resources.retain(|other| other.name != resource.name);
            one.resources.push(resource);
            one.resources.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Some(_) => return,
        None => versions.push(Version {
            name: version.to_owned(),
            resources: vec![resource],
        }),
    }
    // A custom version has the priority 100 (crdregistration_controller.go), more than any built-in one.
    let is_custom = |version: &Version| version.resources.iter().all(|one| one.custom);
    versions.sort_by(|a, b| match (is_custom(a), is_custom(b)) {
        (true, true) => version_order(&a.name, &b.name),
        (a, b) => b.cmp(&a),
    });
}

fn is_custom(group: &Group) -> bool {
    group
        .versions
        .iter()
        .all(|version| version.resources.iter().all(|one| one.custom))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(|one| text(one).to_owned()).collect()
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_versions() {
        // The example of the Kubernetes documentation on the priority of versions.
        let mut names = [
            "v1",
            "foo10",
            "v11alpha2",
            "v10",
            "v3beta1",
            "v11beta2",
            "v2",
            "foo1",
            "v12alpha1",
            "v10beta3",
        ];
        names.sort_by(|a, b| version_order(a, b));
        assert_eq!(
            names,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v10beta3",
                "v3beta1",
                "v12alpha1",
                "v11alpha2",
                "foo1",
                "foo10"
            ]
        );
    }
}
