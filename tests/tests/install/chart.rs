//! The chart in deploy/, rendered by Helm's own library.

use mvp_tests::helm::{Files, Helm, deploy};
use serde_json::{Value, json};

/// Every switch on.
pub(crate) fn everything() -> Value {
    json!({
        "image": {"repository": "registry.example/mvp", "tag": "v9"},
        "imagePullSecrets": [{"name": "pull"}],
        "config": "apiVersion: mvp/v1\nlisten: 0.0.0.0:16443\n",
        "logLevel": "info,access=off",
        "admin": {"exposed": true, "port": 9441},
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "security": {"seccomp": "Localhost", "seccompProfile": "mvp.json", "appArmor": "Localhost", "appArmorProfile": "mvp"},
        "podMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": true},
        "dashboard": {"enabled": true},
    })
}

/// The documents of a rendered file.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    all.into_iter()
        .filter(|document| !document.is_null())
        .collect()
}

fn one(files: &Files, name: &str) -> Value {
    let mut all = documents(&files[name]);
    assert_eq!(all.len(), 1, "{name}");
    all.remove(0)
}

#[test]
fn the_plain_manifests_are_the_charts() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    for (name, text) in helm.plain().unwrap() {
        let there = std::fs::read_to_string(deploy().join(&name)).unwrap();
        assert!(
            there == text,
            "deploy/{name} differs from the chart: cargo xtask manifests"
        );
    }
}

#[test]
fn lint_finds_nothing_but_the_lack_of_a_picture() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    for values in [json!({}), everything()] {
        assert_eq!(helm.lint(&values), ["icon is recommended"]);
    }
}

#[test]
fn by_default_the_agent_gets_what_it_needs_and_nothing_more() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    let files = helm.render(&json!({})).unwrap();
    for off in [
        "podmonitor.yaml",
        "prometheusrule.yaml",
        "dashboard.yaml",
        "configmap.yaml",
        "static-pod.yaml",
    ] {
        assert_eq!(files[off].trim(), "", "{off}");
    }
    let pod = &one(&files, "daemonset.yaml")["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let security = &pod["containers"][0]["securityContext"];
    let capabilities =
        json!({"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON", "NET_BIND_SERVICE"]});
    assert_eq!(security["capabilities"], capabilities);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert!(security["privileged"].is_null());
    // On the host's network a port is a host port, and the second agent of a rolling update would find no place.
    assert!(pod["containers"][0]["ports"].is_null());
    for mount in pod["containers"][0]["volumeMounts"].as_array().unwrap() {
        let written = ["run", "bpf"].contains(&mount["name"].as_str().unwrap());
        assert_eq!(mount["readOnly"] == true, !written, "{mount}");
    }
    let notes = &files["NOTES.txt"];
    assert!(
        notes.contains("mvp doctor --from-manifest /etc/kubernetes/manifests/kube-apiserver.yaml"),
        "{notes}"
    );
}

#[test]
fn every_switch_does_what_it_says() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    let files = helm.render(&everything()).unwrap();
    let daemonset = one(&files, "daemonset.yaml");
    let template = &daemonset["spec"]["template"];
    let pod = &template["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry.example/mvp:v9");
    let args: Vec<_> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap())
        .collect();
    for arg in [
        "--config=/etc/mvp/config.yaml",
        "--admin-listen=$(NODE_ADDRESS):9441",
        "--log-level=info,access=off",
        "--set=kernel.steering=auto",
    ] {
        assert!(args.contains(&arg), "{arg} in {args:?}");
    }
    assert!(!args.iter().any(|arg| arg.starts_with("--from-manifest")));
    for probe in ["readinessProbe", "livenessProbe"] {
        let get = &container[probe]["httpGet"];
        assert!(get["host"].is_null() && get["port"] == 9441, "{get}");
    }
    let security = &container["securityContext"];
    assert_eq!(
        security["seccompProfile"],
        json!({"type": "Localhost", "localhostProfile": "mvp.json"})
    );
    assert_eq!(
        security["appArmorProfile"],
        json!({"type": "Localhost", "localhostProfile": "mvp"})
    );
    assert_eq!(template["metadata"]["annotations"]["a"], "b");
    assert_eq!(template["metadata"]["labels"]["c"], "d");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "pull");
    let config = one(&files, "configmap.yaml");
    assert!(
        config["data"]["config.yaml"]
            .as_str()
            .unwrap()
            .contains("listen: 0.0.0.0:16443")
    );
    // A new configuration is a new pod.
    let sum = |files: &Files| {
        let annotations =
            &one(files, "daemonset.yaml")["spec"]["template"]["metadata"]["annotations"];
        annotations["checksum/config"].clone()
    };
    let mut other = everything();
    other["config"] = "apiVersion: mvp/v1\nlisten: 0.0.0.0:16444\n".into();
    assert_ne!(sum(&helm.render(&other).unwrap()), sum(&files));
    let dashboard = one(&files, "dashboard.yaml");
    let inside: Value =
        serde_json::from_str(dashboard["data"]["mvp.json"].as_str().unwrap()).unwrap();
    assert_eq!(inside["uid"], "mvp");
    assert_eq!(
        one(&files, "podmonitor.yaml")["metadata"]["labels"]["release"],
        "prometheus"
    );
    assert_eq!(
        one(&files, "prometheusrule.yaml")["spec"]["groups"][0]["name"],
        "mvp"
    );
}

#[test]
fn what_cannot_work_is_refused_with_a_reason() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    for (values, words) in [
        (json!({"podMonitro": {"enabled": true}}), "podMonitro"),
        (
            json!({"podMonitor": {"enabled": true}}),
            "needs admin.exposed",
        ),
        (json!({"admin": {"port": 0}}), "/admin/port"),
        (json!({"workload": "deployment"}), "/workload"),
        (
            json!({"security": {"capabilities": ["ALL"]}}),
            "/security/capabilities/0",
        ),
        (
            json!({"security": {"appArmor": "Localhost"}}),
            "needs the name of a profile",
        ),
        (json!({"set": ["kernel.steering"]}), "/set/0"),
        (
            json!({"hostPaths": [{"name": "x", "path": "relative"}]}),
            "/hostPaths/0/path",
        ),
        (
            json!({"rollingUpdate": {"maxSurge": true}}),
            "/rollingUpdate/maxSurge",
        ),
        (json!({"image": {"repository": ""}}), "/image/repository"),
    ] {
        let refused = helm.render(&values).expect_err(words);
        assert!(refused.contains(words), "{values}: {refused}");
    }
}

#[test]
fn a_static_pod_has_what_the_daemon_sets_pods_have() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    let daemonset = one(&helm.render(&json!({})).unwrap(), "daemonset.yaml");
    let files = helm.render(&json!({"workload": "static-pod"})).unwrap();
    assert_eq!(files["daemonset.yaml"].trim(), "");
    let pod = one(&files, "static-pod.yaml");
    let ours = &daemonset["spec"]["template"]["spec"];
    for part in ["containers", "volumes", "hostNetwork", "priorityClassName"] {
        assert_eq!(pod["spec"][part], ours[part], "{part}");
    }
    // kubelet refuses a static pod that names objects of the API.
    assert!(pod["spec"]["serviceAccountName"].is_null());
    assert!(files["NOTES.txt"].contains("helm template"));
}

#[test]
fn chart_manifests_and_image_are_of_the_programs_version() {
    let version = env!("CARGO_PKG_VERSION");
    let read = |path: &str| std::fs::read_to_string(deploy().join(path)).unwrap();
    let chart: Value = serde_saphyr::from_str(&read("chart/Chart.yaml")).unwrap();
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&version.into(), &version.into())
    );
    for name in ["daemonset.yaml", "static-pod.yaml"] {
        assert!(
            read(name).contains(&format!("image: mvp:{version}\n")),
            "{name}"
        );
    }
    let label = format!("org.opencontainers.image.version=\"{version}\"");
    assert!(read("Dockerfile").contains(&label));
}
