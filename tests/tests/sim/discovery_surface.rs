//! What simulated kube-apiservers of each minor serve, against what real ones were recorded to.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use mvp::api::published;
use mvp_tests::sim::surface::{Apis, Surface, surface, surface_of};
use serde_json::{Value, json};

/// Every type of a minor, as `mvp::api::published` names them.
fn names(minor: u8) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for group in surface(minor, false).groups {
        for version in group.versions {
            let version_of = match group.name.as_str() {
                "" => version.name.clone(),
                name => format!("{name}/{}", version.name),
            };
            for resource in version.resources {
                let name = format!("{version_of} {}", resource.name);
                let parts = resource.subresources.iter();
                all.extend(parts.map(|part| format!("{name}/{}", part.name)));
                all.insert(name);
            }
        }
    }
    all
}

/// The agent's table of what will come and go is that of these surfaces.
#[test]
fn what_an_upgrade_brings_is_in_the_agents_table() {
    let mut table = String::new();
    let minors = published::KNOWN;
    for minor in minors.clone().skip(1) {
        let [before, now] = [minor - 1, minor].map(|minor| names(u8::try_from(minor).unwrap()));
        let mut changes: Vec<_> = now.difference(&before).map(|name| (name, '+')).collect();
        changes.extend(before.difference(&now).map(|name| (name, '-')));
        changes.sort();
        for (name, sign) in changes {
            table += &format!("{minor} {sign} {name}\n");
        }
    }
    assert!(
        table == published::TABLE,
        "api/published.rs must have:\n{table}"
    );
    let text =
        |names: Vec<&str>| -> BTreeSet<String> { names.into_iter().map(str::to_owned).collect() };
    for from in minors.clone() {
        for to in from..=*minors.end() {
            let (more, less) = published::between(from, to).unwrap();
            let [a, b] = [from, to].map(|minor| names(u8::try_from(minor).unwrap()));
            assert_eq!(text(more), &b - &a, "{from} {to}");
            assert_eq!(text(less), &a - &b, "{from} {to}");
        }
    }
}

#[test]
fn numbers_of_groups_versions_resources_and_subresources() {
    // Running servers of 1.33.13, 1.35.6 and 1.36.3; published documents of 1.31.13, 1.33.12, 1.35.5 and 1.36.2, which
    // are `/apis` only.
    let cases = [
        (33, Apis::Default, true, [20, 21, 61, 44]),
        (35, Apis::Default, true, [21, 22, 66, 45]),
        (36, Apis::Default, true, [21, 22, 68, 45]),
        (36, Apis::All, true, [22, 32, 89, 52]),
        (31, Apis::AllWithGates, false, [22, 33, 63, 30]),
        (33, Apis::AllWithGates, false, [22, 34, 71, 29]),
        (35, Apis::AllWithGates, false, [22, 35, 73, 30]),
        (36, Apis::AllWithGates, false, [22, 35, 78, 33]),
    ];
    for (minor, apis, core, expected) in cases {
        let surface = surface_of(minor, apis);
        let mut counts = [0; 4];
        for group in surface.groups.iter().filter(|g| core || !g.name.is_empty()) {
            counts[0] += 1;
            for version in &group.versions {
                counts[1] += 1;
                counts[2] += version.resources.len();
                let subresources = version.resources.iter().map(|r| r.subresources.len());
                counts[3] += subresources.sum::<usize>();
            }
        }
        assert_eq!(counts, expected, "1.{minor} {apis:?}");
    }
}

#[test]
fn changes_from_minor_to_minor_by_default() {
    let changes = |from| changes(&surface(from, false), &surface(from + 1, false));
    assert_eq!(
        changes(31),
        [
            "- flowcontrol.apiserver.k8s.io/v1beta3 flowschemas",
            "- flowcontrol.apiserver.k8s.io/v1beta3 flowschemas/status",
            "- flowcontrol.apiserver.k8s.io/v1beta3 prioritylevelconfigurations",
            "- flowcontrol.apiserver.k8s.io/v1beta3 prioritylevelconfigurations/status",
        ]
    );
    assert_eq!(
        changes(32),
        [
            "+ networking.k8s.io/v1 ipaddresses",
            "+ networking.k8s.io/v1 servicecidrs",
            "+ networking.k8s.io/v1 servicecidrs/status",
            "+ v1 pods/resize",
        ]
    );
    assert_eq!(
        changes(33),
        [
            "+ resource.k8s.io/v1 deviceclasses",
            "+ resource.k8s.io/v1 resourceclaims",
            "+ resource.k8s.io/v1 resourceclaims/status",
            "+ resource.k8s.io/v1 resourceclaimtemplates",
            "+ resource.k8s.io/v1 resourceslices",
            "+ storage.k8s.io/v1 volumeattributesclasses",
        ]
    );
    assert_eq!(changes(34), [""; 0]);
    assert_eq!(
        changes(35),
        [
            "+ admissionregistration.k8s.io/v1 mutatingadmissionpolicies",
            "+ admissionregistration.k8s.io/v1 mutatingadmissionpolicybindings",
        ]
    );
}

#[test]
fn changes_from_minor_to_minor_with_everything_on() {
    let changes = |from| {
        let of = |minor| surface_of(minor, Apis::AllWithGates);
        changes(&of(from), &of(from + 1))
            .iter()
            .filter(|change| !change.ends_with("/status"))
            .map(|change| change.replace(".k8s.io", ""))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        changes(31),
        [
            "+ admissionregistration/v1alpha1 mutatingadmissionpolicies",
            "+ admissionregistration/v1alpha1 mutatingadmissionpolicybindings",
            "+ coordination/v1alpha2 leasecandidates",
            "+ resource/v1beta1 deviceclasses",
            "+ resource/v1beta1 resourceclaims",
            "+ resource/v1beta1 resourceclaimtemplates",
            "+ resource/v1beta1 resourceslices",
            "+ v1 pods/resize",
            "- admissionregistration/v1alpha1 validatingadmissionpolicies",
            "- admissionregistration/v1alpha1 validatingadmissionpolicybindings",
            "- authentication/v1alpha1 selfsubjectreviews",
            "- coordination/v1alpha1 leasecandidates",
            "- flowcontrol.apiserver/v1beta3 flowschemas",
            "- flowcontrol.apiserver/v1beta3 prioritylevelconfigurations",
            "- resource/v1alpha3 podschedulingcontexts",
        ]
    );
    assert_eq!(
        changes(32),
        [
            "+ certificates/v1beta1 clustertrustbundles",
            "+ coordination/v1beta1 leasecandidates",
            "+ networking/v1 ipaddresses",
            "+ networking/v1 servicecidrs",
            "+ resource/v1alpha3 devicetaintrules",
            "+ resource/v1beta2 deviceclasses",
            "+ resource/v1beta2 resourceclaims",
            "+ resource/v1beta2 resourceclaimtemplates",
            "+ resource/v1beta2 resourceslices",
            "- authentication/v1beta1 selfsubjectreviews",
        ]
    );
    assert_eq!(
        changes(33),
        [
            "+ admissionregistration/v1beta1 mutatingadmissionpolicies",
            "+ admissionregistration/v1beta1 mutatingadmissionpolicybindings",
            "+ certificates/v1alpha1 podcertificaterequests",
            "+ resource/v1 deviceclasses",
            "+ resource/v1 resourceclaims",
            "+ resource/v1 resourceclaimtemplates",
            "+ resource/v1 resourceslices",
            "+ storage/v1 volumeattributesclasses",
            "- admissionregistration/v1beta1 validatingadmissionpolicies",
            "- admissionregistration/v1beta1 validatingadmissionpolicybindings",
            "- resource/v1alpha3 deviceclasses",
            "- resource/v1alpha3 resourceclaims",
            "- resource/v1alpha3 resourceclaimtemplates",
            "- resource/v1alpha3 resourceslices",
        ]
    );
    assert_eq!(
        changes(34),
        [
            "+ certificates/v1beta1 podcertificaterequests",
            "+ scheduling/v1alpha1 workloads",
            "+ storagemigration/v1beta1 storageversionmigrations",
            "- certificates/v1alpha1 podcertificaterequests",
            "- storage/v1alpha1 volumeattributesclasses",
            "- storagemigration/v1alpha1 storageversionmigrations",
        ]
    );
    assert_eq!(
        changes(35),
        [
            "+ admissionregistration/v1 mutatingadmissionpolicies",
            "+ admissionregistration/v1 mutatingadmissionpolicybindings",
            "+ resource/v1alpha3 resourcepoolstatusrequests",
            "+ resource/v1beta2 devicetaintrules",
            "+ scheduling/v1alpha2 podgroups",
            "+ scheduling/v1alpha2 workloads",
            "- scheduling/v1alpha1 workloads",
        ]
    );
}

#[test]
fn order_of_groups() {
    for minor in 31..=36 {
        let surface = surface_of(minor, Apis::AllWithGates);
        let mut names: Vec<&str> = surface.groups.iter().map(|g| g.name.as_str()).collect();
        // 1.31 still gave it the lower priority it had as an alpha.
        let at = names.iter().position(|name| *name == "resource.k8s.io");
        let expected = if minor == 31 { 21 } else { 19 };
        assert_eq!(at, Some(expected), "1.{minor}");
        names.remove(expected);
        assert_eq!(
            names,
            [
                "",
                "apiregistration.k8s.io",
                "apps",
                "events.k8s.io",
                "authentication.k8s.io",
                "authorization.k8s.io",
                "autoscaling",
                "batch",
                "certificates.k8s.io",
                "networking.k8s.io",
                "policy",
                "rbac.authorization.k8s.io",
                "storage.k8s.io",
                "admissionregistration.k8s.io",
                "apiextensions.k8s.io",
                "scheduling.k8s.io",
                "coordination.k8s.io",
                "node.k8s.io",
                "discovery.k8s.io",
                "flowcontrol.apiserver.k8s.io",
                "internal.apiserver.k8s.io",
                "storagemigration.k8s.io",
            ],
            "1.{minor}"
        );
    }
}

#[test]
fn custom_resources_stand_in_the_order_of_priorities() {
    let crds = [
        definition("zebras", "z.example", &["v1alpha1", "v1", "v2beta1"]),
        definition("apes", "a.example", &["foo", "v1"]),
        definition("bees", "a.example", &["v1"]),
        definition("ants", "a.example", &["v1", "v10", "v2"]),
        // In a group that is built in: the custom version has the greater priority there.
        definition("autos", "autoscaling", &["v9", "v2"]),
    ];
    let surface = surface(36, false).with_custom(&crds);
    assert_eq!(last_groups(&surface), ["a.example", "z.example"]);
    assert_eq!(versions(&surface, "a.example"), ["v10", "v2", "v1", "foo"]);
    assert_eq!(
        versions(&surface, "z.example"),
        ["v1", "v2beta1", "v1alpha1"]
    );
    assert_eq!(versions(&surface, "autoscaling"), ["v9", "v2", "v1"]);
    assert!(surface.resource("autoscaling", "v2", "autos").is_none());
    let version = surface.version("a.example", "v1").unwrap();
    let names: Vec<&str> = version.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["ants", "apes", "bees"]);
    // Once more, on top of it.
    let more = surface.with_custom(&[definition("cows", "y.example", &["v1"])]);
    assert_eq!(last_groups(&more), ["y.example", "z.example"]);
}

#[test]
fn a_custom_resource() {
    let mut crd = definition("widgets", "test.example", &["v1", "v1beta1"]);
    crd["spec"]["versions"][1]["served"] = false.into();
    crd["spec"]["versions"][0]["subresources"] =
        json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas"}});
    crd["spec"]["names"]["shortNames"] = json!(["wg"]);
    crd["spec"]["names"]["categories"] = json!(["all"]);
    let surface = surface(35, false).with_custom(&[crd]);
    assert_eq!(versions(&surface, "test.example"), ["v1"]);
    let widgets = surface.resource("test.example", "v1", "widgets").unwrap();
    assert!(widgets.custom && widgets.namespaced);
    assert_eq!(widgets.singular, "widget");
    assert_eq!(widgets.kind_group, "test.example");
    assert_eq!(widgets.kind_version, "v1");
    assert_eq!(widgets.kind, "Widget");
    assert_eq!(
        widgets.verbs.join(" "),
        "delete deletecollection get list patch create update watch"
    );
    assert_eq!(widgets.short_names, ["wg"]);
    assert_eq!(widgets.categories, ["all"]);
    let subresources: Vec<_> = widgets
        .subresources
        .iter()
        .map(|s| {
            let verbs = s.verbs.join(" ");
            format!(
                "{} {}/{} {} {verbs}",
                s.name, s.kind_group, s.kind_version, s.kind
            )
        })
        .collect();
    assert_eq!(
        subresources,
        [
            "status test.example/v1 Widget get patch update",
            "scale autoscaling/v1 Scale get patch update"
        ]
    );
}

#[test]
fn only_established_definitions_are_served() {
    let serves = |status: Value| {
        let mut crd = definition("widgets", "test.example", &["v1"]);
        crd["status"] = status;
        let surface = surface(36, false).with_custom(&[crd]);
        surface
            .resource("test.example", "v1", "widgets")
            .map(|widgets| widgets.verbs.join(" "))
    };
    let with = |conditions: &[(&str, &str)]| {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status)| json!({"type": kind, "status": status}))
            .collect();
        json!({"conditions": conditions})
    };
    let all = "delete deletecollection get list patch create update watch";
    assert_eq!(serves(Value::Null).as_deref(), Some(all));
    let established = with(&[("NamesAccepted", "True"), ("Established", "True")]);
    assert_eq!(serves(established).as_deref(), Some(all));
    assert_eq!(serves(with(&[])), None);
    assert_eq!(serves(with(&[("Established", "False")])), None);
    // One that is being deleted takes no more writes.
    let terminating = with(&[("Established", "True"), ("Terminating", "True")]);
    assert_eq!(
        serves(terminating).as_deref(),
        Some("delete deletecollection get list watch")
    );
}

fn definition(plural: &str, group: &str, versions: &[&str]) -> Value {
    let singular = &plural[..plural.len() - 1];
    let kind = singular[..1].to_uppercase() + &singular[1..];
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(at, name)| json!({"name": name, "served": true, "storage": at == 0}))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": singular, "kind": kind},
            "versions": versions,
        },
    })
}

fn last_groups(surface: &Surface) -> Vec<&str> {
    let groups = &surface.groups[surface.groups.len() - 2..];
    groups.iter().map(|g| g.name.as_str()).collect()
}

fn versions<'a>(surface: &'a Surface, group: &str) -> Vec<&'a str> {
    let group = surface.groups.iter().find(|g| g.name == group).unwrap();
    group.versions.iter().map(|v| v.name.as_str()).collect()
}

/// Every resource and subresource, with its group and version.
fn keys(surface: &Surface) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for group in &surface.groups {
        for version in &group.versions {
            let prefix = match group.name.as_str() {
                "" => version.name.clone(),
                name => format!("{name}/{}", version.name),
            };
            for resource in &version.resources {
                keys.insert(format!("{prefix} {}", resource.name));
                for subresource in &resource.subresources {
                    keys.insert(format!("{prefix} {}/{}", resource.name, subresource.name));
                }
            }
        }
    }
    keys
}

fn changes(from: &Surface, to: &Surface) -> Vec<String> {
    let (from, to) = (keys(from), keys(to));
    let added = to.difference(&from).map(|key| format!("+ {key}"));
    let removed = from.difference(&to).map(|key| format!("- {key}"));
    added.chain(removed).collect()
}
