//! What `deploy` has is what the agent takes, uses and is built from.

use std::path::Path;

use super::{code, mvp, stderr};

#[test]
fn every_example_in_deploy_is_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for document in &documents {
                assert!(document["kind"].is_string(), "{}", path.display());
                agent_flags(document);
            }
            seen += 1;
        }
    }
    assert!(seen >= 4);
}

/// Every `mvp agent …` of a manifest must be understood: only the manifest it names is missing here.
fn agent_flags(document: &serde_json::Value) {
    let spec = match document["kind"].as_str() {
        Some("DaemonSet") => &document["spec"]["template"]["spec"],
        Some("Pod") => &document["spec"],
        _ => return,
    };
    let container = &spec["containers"][0];
    let arguments: Vec<&str> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap())
        .collect();
    let output = mvp(&arguments);
    let line = stderr(&output);
    assert_eq!(code(&output), 64);
    assert_eq!(
        line,
        "mvp: /etc/kubernetes/manifests/kube-apiserver.yaml: No such file or directory (os error 2)\n"
    );
    let security = &container["securityContext"];
    // The default profiles deny every pin below /sys/fs/bpf.
    assert_eq!(security["appArmorProfile"]["type"], "Unconfined");
    assert_eq!(security["seLinuxOptions"]["type"], "spc_t");
    assert!(container["resources"]["limits"]["memory"].is_string());
    assert!(
        mounted(spec, container, "/run/mvp"),
        "the operators' socket"
    );
    assert!(!mounted(spec, container, "/etc/kubernetes"), "least power");
    if document["kind"] == "DaemonSet" {
        let update = &document["spec"]["updateStrategy"]["rollingUpdate"];
        assert_eq!(
            update,
            &serde_json::json!({"maxSurge": 1, "maxUnavailable": 0})
        );
        // Or the old agent, started again, would take over from the new one.
        assert!(arguments.contains(&"--set=drain.waitWhenReplaced=true"));
        assert_eq!(spec["automountServiceAccountToken"], false);
    }
    assert_eq!(security["privileged"], serde_json::Value::Null);
    assert_eq!(
        security["capabilities"],
        serde_json::json!({"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON", "NET_BIND_SERVICE"]})
    );
    assert_eq!(spec["hostNetwork"], true);
}

fn mounted(spec: &serde_json::Value, container: &serde_json::Value, path: &str) -> bool {
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["mountPath"] == path);
    let volumes = spec["volumes"].as_array().unwrap();
    mount.is_some_and(|mount| {
        let mut volumes = volumes.iter();
        volumes.any(|volume| volume["name"] == mount["name"] && volume["hostPath"]["path"] == path)
    })
}

fn deployed(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(folder.join(file)).unwrap()
}

/// Only list and watch, and a change of the agents' own Lease; only for the user that the agent asserts: a service account's token is
/// not even mounted.
#[test]
fn the_agent_is_granted_what_it_uses_and_no_more() {
    let text = deployed("deploy/rbac.yaml");
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut rules = 0;
    for document in &documents {
        for rule in document["rules"].as_array().into_iter().flatten() {
            rules += 1;
            let reads_paths = rule["nonResourceURLs"].is_array();
            let verbs = match (reads_paths, &rule["verbs"][0]) {
                (true, _) => serde_json::json!(["get"]),
                (false, verb) if verb == "patch" => {
                    assert_eq!(rule["resources"], serde_json::json!(["leases"]));
                    assert_eq!(rule["resourceNames"], serde_json::json!(["mvp"]));
                    serde_json::json!(["patch"])
                }
                // Events have names that their writer makes.
                (false, verb) if verb == "create" => {
                    assert_eq!(rule["apiGroups"], serde_json::json!(["events.k8s.io"]));
                    assert_eq!(rule["resources"], serde_json::json!(["events"]));
                    assert_eq!(document["kind"], "Role");
                    assert_eq!(document["metadata"]["namespace"], "default");
                    serde_json::json!(["create", "patch"])
                }
                (false, _) => serde_json::json!(["list", "watch"]),
            };
            assert_eq!(rule["verbs"], verbs, "{rule}");
        }
        for subject in document["subjects"].as_array().into_iter().flatten() {
            assert_eq!(
                (&subject["kind"], &subject["name"]),
                (&"User".into(), &"system:mvp".into())
            );
        }
    }
    assert!(rules >= 6 && !text.contains("system:monitoring"));
}

/// An image without the kernel part would steer nothing, and one that a developer's build folder lent it would hide that.
#[test]
fn the_image_is_built_with_the_kernel_part_from_sources_alone() {
    let dockerfile = deployed("deploy/Dockerfile");
    assert!(dockerfile.contains("RUN MVP_REQUIRE_ALL=1 cargo xtask dist\n"));
    let ignored = deployed(".dockerignore");
    assert!(ignored.lines().any(|line| line == "**/target"));
}
