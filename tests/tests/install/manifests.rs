//! Everything that deploy/ holds for Kubernetes, against the types of Kubernetes' own OpenAPI document: an unknown field, a wrong type or a
//! missing field is found.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use mvp_tests::helm::{Helm, deploy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::chart::{documents, everything};

/// What is wrong with an object. The types are generated from the OpenAPI document of the newest Kubernetes that the library knows, and
/// leave out what they do not know, so that the object must come back as it was.
fn problem(object: &Value) -> Option<String> {
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let back = match (object["apiVersion"].as_str()?, object["kind"].as_str()?) {
        ("v1", "ServiceAccount") => back::<ServiceAccount>(object),
        ("v1", "ConfigMap") => back::<ConfigMap>(object),
        ("v1", "Pod") => back::<Pod>(object),
        ("apps/v1", "DaemonSet") => back::<DaemonSet>(object),
        ("coordination.k8s.io/v1", "Lease") => back::<Lease>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => back::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => back::<RoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => back::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            back::<ClusterRoleBinding>(object)
        }
        ("monitoring.coreos.com/v1", "PodMonitor") => back::<operator::PodMonitor>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => back::<operator::PrometheusRule>(object),
        _ => return Some(format!("{name}: nobody knows such an object")),
    };
    match back {
        Err(error) => Some(format!("{name}: {error}")),
        Ok(back) if back != *object => Some(format!("{name}: {object}\nis read as\n{back}")),
        Ok(_) => None,
    }
}

fn back<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object.clone())?)
}

/// The parts of the Prometheus operator's API (monitoring.coreos.com/v1) that are used here.
mod operator {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub(super) struct PodMonitor {
        api_version: String,
        kind: String,
        metadata: Metadata,
        spec: PodMonitorSpec,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Metadata {
        name: String,
        namespace: String,
        labels: BTreeMap<String, String>,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub(super) struct PodMonitorSpec {
        selector: Selector,
        pod_metrics_endpoints: Vec<Endpoint>,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub(super) struct Selector {
        match_labels: BTreeMap<String, String>,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Endpoint {
        path: String,
        interval: String,
        relabelings: Vec<Relabeling>,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub(super) struct Relabeling {
        source_labels: Vec<String>,
        target_label: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        regex: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        replacement: Option<String>,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    pub(super) struct PrometheusRule {
        api_version: String,
        kind: String,
        metadata: Metadata,
        spec: RuleSpec,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct RuleSpec {
        groups: Vec<Group>,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Group {
        name: String,
        rules: Vec<Rule>,
    }

    #[derive(Deserialize, Serialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Rule {
        alert: String,
        expr: String,
        #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
        time: Option<String>,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
    }
}

#[test]
fn an_unknown_field_is_found_wherever_it_is() {
    let good = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c"}]}}},
    });
    assert_eq!(problem(&good), None);
    for (at, value) in [
        ("/spec", json!({"replica": 1})),
        ("/spec/template/spec", json!({"hostnetwork": true})),
        (
            "/spec/template/spec/containers/0",
            json!({"securityContext": {"runAsuser": 0}}),
        ),
        (
            "/spec/template/spec/containers/0",
            json!({"securityContext": {"runAsUser": "root"}}),
        ),
        (
            "/spec/template/spec",
            json!({"containers": [{"image": "no name"}]}),
        ),
        ("", json!({"kind": "Deamonset"})),
    ] {
        let mut bad = good.clone();
        let into = bad.pointer_mut(at).unwrap().as_object_mut().unwrap();
        into.extend(value.as_object().unwrap().clone());
        assert!(problem(&bad).is_some(), "{bad}");
    }
}

#[test]
fn the_plain_manifests_are_valid() {
    let mut objects = 0;
    for name in [
        "rbac.yaml",
        "daemonset.yaml",
        "static-pod.yaml",
        "prometheus-rule.yaml",
    ] {
        let text = std::fs::read_to_string(deploy().join(name)).unwrap();
        for object in documents(&text) {
            objects += 1;
            assert_eq!(problem(&object), None, "{name}");
        }
    }
    assert!(objects >= 12, "{objects}");
}

#[test]
fn the_chart_is_valid_with_every_switch_and_recipe() {
    let Some(mut helm) = Helm::start() else {
        return;
    };
    let recipes = super::recipes::chart_values().into_iter();
    for (name, values) in recipes.chain([("every switch".to_owned(), everything())]) {
        for (file, text) in helm
            .render(&values)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
        {
            if !file.ends_with(".yaml") {
                continue;
            }
            for object in &documents(&text) {
                assert_eq!(problem(object), None, "{name}: {file}");
            }
        }
    }
}
