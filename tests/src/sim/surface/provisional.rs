//! A small surface: enough to serve before the tables of every minor are there.

use serde_json::Value;

use super::{Group, Resource, Subresource, Surface, Version};

const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

pub fn surface(minor: u8, all_apis: bool) -> Surface {
    let core = vec![
        with(resource("configmaps", "ConfigMap", true), &[]),
        with(resource("events", "Event", true), &[]),
        with(
            resource("namespaces", "Namespace", false),
            &["status", "finalize"],
        ),
        with(
            resource("pods", "Pod", true),
            &[
                "status",
                "log",
                "exec",
                "attach",
                "portforward",
                "proxy",
                "eviction",
            ],
        ),
        with(resource("secrets", "Secret", true), &[]),
        with(resource("services", "Service", true), &["status", "proxy"]),
    ];
    let mut groups = vec![
        group("", "v1", core),
        group(
            "apps",
            "v1",
            vec![with(
                resource("deployments", "Deployment", true),
                &["status", "scale"],
            )],
        ),
        group(
            "authentication.k8s.io",
            "v1",
            vec![question("selfsubjectreviews", "SelfSubjectReview")],
        ),
        group(
            "authorization.k8s.io",
            "v1",
            vec![question(
                "selfsubjectaccessreviews",
                "SelfSubjectAccessReview",
            )],
        ),
        group(
            "apiextensions.k8s.io",
            "v1",
            vec![with(
                resource(
                    "customresourcedefinitions",
                    "CustomResourceDefinition",
                    false,
                ),
                &["status"],
            )],
        ),
        group(
            "coordination.k8s.io",
            "v1",
            vec![resource("leases", "Lease", true)],
        ),
        group(
            "discovery.k8s.io",
            "v1",
            vec![resource("endpointslices", "EndpointSlice", true)],
        ),
    ];
    if minor >= 36 || all_apis {
        groups.push(group(
            "admissionregistration.k8s.io",
            "v1",
            vec![resource(
                "mutatingadmissionpolicies",
                "MutatingAdmissionPolicy",
                false,
            )],
        ));
    }
    Surface { minor, groups }
}

impl Surface {
    /// Adds what CustomResourceDefinitions (apiextensions.k8s.io/v1 objects) define.
    pub fn with_custom(&self, definitions: &[Value]) -> Surface {
        let mut surface = self.clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for definition in definitions {
            let spec = &definition["spec"];
            let name = text(&spec["group"]);
            for version in spec["versions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|version| version["served"] == true)
            {
                let mut added = resource(
                    &text(&spec["names"]["plural"]),
                    &text(&spec["names"]["kind"]),
                    spec["scope"] == "Namespaced",
                );
                added.custom = true;
                for sub in ["status", "scale"] {
                    if !version["subresources"][sub].is_null() {
                        added = with(added, &[sub]);
                    }
                }
                let at = surface
                    .groups
                    .iter()
                    .position(|group| group.name == name)
                    .unwrap_or_else(|| {
                        surface.groups.push(Group {
                            name: name.clone(),
                            versions: Vec::new(),
                        });
                        surface.groups.len() - 1
                    });
                let versions = &mut surface.groups[at].versions;
                let version = text(&version["name"]);
                match versions.iter_mut().find(|one| one.name == version) {
                    Some(one) => one.resources.push(added),
                    None => versions.push(Version {
                        name: version,
                        resources: vec![added],
                    }),
                }
            }
        }
        surface
    }
}

fn group(name: &str, version: &str, resources: Vec<Resource>) -> Group {
    Group {
        name: name.into(),
        versions: vec![Version {
            name: version.into(),
            resources,
        }],
    }
}

fn resource(name: &str, kind: &str, namespaced: bool) -> Resource {
    Resource {
        name: name.into(),
        singular: kind.to_lowercase(),
        kind: kind.into(),
        kind_group: String::new(),
        kind_version: String::new(),
        namespaced,
        verbs: ALL.iter().map(|verb| (*verb).into()).collect(),
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
        custom: false,
    }
}

fn question(name: &str, kind: &str) -> Resource {
    Resource {
        verbs: vec!["create".into()],
        ..resource(name, kind, false)
    }
}

fn with(mut resource: Resource, subresources: &[&str]) -> Resource {
    for name in subresources {
        let verbs: &[&str] = match *name {
            "eviction" => &["create"],
            "log" => &["get"],
            "exec" | "attach" | "portforward" => &["create", "get"],
            _ => &["get", "patch", "update"],
        };
        resource.subresources.push(Subresource {
            name: (*name).into(),
            kind: resource.kind.clone(),
            kind_group: String::new(),
            kind_version: String::new(),
            verbs: verbs.iter().map(|verb| (*verb).into()).collect(),
            accepted_types: Vec::new(),
        });
    }
    resource
}
