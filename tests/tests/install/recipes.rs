//! deploy/recipes: each configuration is one that the agent loads, on a node that looks as the recipe says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mvp_tests::helm::{Helm, deploy};
use mvp_tests::sim::pki::{Authority, Pki, Request};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");

fn recipes() -> PathBuf {
    deploy().join("recipes")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(recipes().join(name)).unwrap()
}

/// The files of the folder, by what follows their first dot.
fn named(end: &str) -> Vec<String> {
    let entries = std::fs::read_dir(recipes()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = names
        .filter_map(|name| {
            Some(
                name.split_once('.')
                    .filter(|(_, rest)| *rest == end)?
                    .0
                    .to_owned(),
            )
        })
        .collect();
    found.sort();
    found
}

/// What the recipes give to the chart, with the configuration where one goes with it.
pub(crate) fn chart_values() -> Vec<(String, Value)> {
    let values = named("values.yaml").into_iter().map(|name| {
        let mut values: Value =
            serde_saphyr::from_str(&text(&format!("{name}.values.yaml"))).unwrap();
        if recipes().join(format!("{name}.yaml")).exists() {
            values["config"] = text(&format!("{name}.yaml")).into();
        }
        (name, values)
    });
    values.collect()
}

/// Every path that a configuration names.
fn paths(config: &Value, found: &mut BTreeMap<String, String>, at: &str) {
    match config {
        Value::Object(members) => {
            for (name, member) in members {
                paths(member, found, &format!("{at}.{name}"));
            }
        }
        Value::String(path) if path.starts_with('/') => {
            found.insert(at.trim_start_matches('.').to_owned(), path.clone());
        }
        _ => {}
    }
}

/// A folder in which every file is there that a configuration names, of the kind that it must be.
fn node(config: &Value) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let pki = Pki::generate(&root.path().join("made")).unwrap();
    let proxy = config["requestHeader"]["allowedNames"][0].as_str().unwrap();
    let request = Request {
        authority: Authority::FrontProxy,
        ..Request::new(proxy, &[])
    };
    let proxy = pki.issue(&request).unwrap();
    let mut found = BTreeMap::new();
    paths(config, &mut found, "");
    for (key, path) in found {
        let to = root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let content = match key.as_str() {
            "serving.certFile" => pki.read("apiserver.crt").unwrap(),
            "serving.keyFile" => pki.read("apiserver.key").unwrap(),
            "clientCAFile" | "upstream.caFile" => pki.read("ca.crt").unwrap(),
            "requestHeader.clientCAFile" => pki.read("front-proxy-ca.crt").unwrap(),
            "upstream.clientCertFile" => proxy.cert_pem.clone(),
            "upstream.clientKeyFile" => proxy.key_pem.clone(),
            // It need not exist.
            "kernel.manifest" => continue,
            other => panic!("{other}"),
        };
        std::fs::write(to, content).unwrap();
    }
    root
}

/// The text with every absolute path below `root`.
fn moved(text: &str, config: &Value, root: &Path) -> String {
    let mut found = BTreeMap::new();
    paths(config, &mut found, "");
    let mut text = text.to_owned();
    let mut all: Vec<_> = found.into_values().collect();
    all.sort();
    all.dedup();
    for path in all {
        text = text.replace(&format!(": {path}"), &format!(": {}{path}", root.display()));
    }
    text
}

#[test]
fn every_recipe_is_a_configuration_that_loads() {
    let all = named("yaml");
    assert_eq!(all, ["k3s", "kubeadm", "rke2", "systemd", "talos"]);
    for name in all {
        let text = text(&format!("{name}.yaml"));
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let root = node(&config);
        let file = root.path().join("config.yaml");
        std::fs::write(&file, moved(&text, &config, root.path())).unwrap();
        let mut test = Command::new(AGENT);
        test.args(["config", "test", "--config"]).arg(&file);
        // As the unit and the chart say it.
        test.args(["--node", "cp-a", "--set", "kernel.steering=auto"]);
        let tested = test.output().unwrap();
        assert!(tested.status.success(), "{name}: {tested:?}");
    }
}

#[test]
fn the_chart_mounts_what_each_recipe_names() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    for (name, values) in chart_values() {
        let files = helm.render(&values).unwrap();
        let daemonset: Value = serde_saphyr::from_str(&files["daemonset.yaml"]).unwrap();
        let mounts = &daemonset["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
        let mounts: Vec<_> = mounts
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["mountPath"].as_str().unwrap())
            .collect();
        let config = values["config"].as_str().unwrap_or("{}");
        let mut found = BTreeMap::new();
        paths(&serde_saphyr::from_str(config).unwrap(), &mut found, "");
        found.remove("kernel.manifest");
        for path in found.values() {
            assert!(
                mounts.iter().any(|mount| path.starts_with(mount)),
                "{name}: {path} in {mounts:?}"
            );
        }
    }
}

#[test]
fn the_recipe_for_kubeadm_is_what_the_manifest_says() {
    let config: Value = serde_saphyr::from_str(&text("kubeadm.yaml")).unwrap();
    let root = node(&config);
    let at = |path: &str| format!("{}/etc/kubernetes/pki/{path}", root.path().display());
    let flags = [
        format!("--client-ca-file={}", at("ca.crt")),
        format!("--tls-cert-file={}", at("apiserver.crt")),
        format!("--tls-private-key-file={}", at("apiserver.key")),
        format!(
            "--requestheader-client-ca-file={}",
            at("front-proxy-ca.crt")
        ),
        "--requestheader-allowed-names=front-proxy-client".into(),
        format!("--proxy-client-cert-file={}", at("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", at("front-proxy-client.key")),
    ];
    let mut command = vec!["kube-apiserver".to_owned()];
    command.extend(flags);
    let pod = json!({"spec": {"containers": [{"name": "kube-apiserver", "command": command}]}});
    let manifest = root.path().join("manifests/kube-apiserver.yaml");
    std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
    std::fs::write(&manifest, pod.to_string()).unwrap();
    let file = root.path().join("config.yaml");
    std::fs::write(&file, moved(&text("kubeadm.yaml"), &config, root.path())).unwrap();
    let show = |source: &str, path: &Path| -> Value {
        let mut show = Command::new(AGENT);
        show.args(["config", "show", "-o", "json", source])
            .arg(path);
        show.args(["--node", "cp-a", "--set", "kernel.steering=auto"]);
        show.args(["--set", "kernel.manifest=/nowhere"]);
        let shown = show.output().unwrap();
        assert!(shown.status.success(), "{shown:?}");
        serde_json::from_slice(&shown.stdout).unwrap()
    };
    assert_eq!(show("--from-manifest", &manifest), show("--config", &file));
}
