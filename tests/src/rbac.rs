//! The rights of `deploy/rbac.yaml`, as rules of the simulated control plane: what the agent needs and is not granted there fails in
//! the tests too.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::sim::ControlPlane;
use crate::sim::api::authz::Rule;
use crate::sim::store::Key;

/// The role of `extension-apiserver-authentication-reader`, which every cluster has.
const AUTHENTICATION_READER: &str = "extension-apiserver-authentication-reader";

/// Every document of the file.
pub fn documents() -> Result<Vec<Value>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/rbac.yaml");
    let text = std::fs::read_to_string(path)?;
    serde_saphyr::from_multiple(&text).context("deploy/rbac.yaml")
}

/// Grants what the file grants to users.
pub fn apply(plane: &ControlPlane) -> Result<()> {
    for rule in rules()? {
        plane.add_rule(rule);
    }
    Ok(())
}

/// Makes the Lease that the file has for the agents.
pub async fn create_lease(plane: &ControlPlane) -> Result<()> {
    let all = documents()?;
    let lease = all.into_iter().find(|object| object["kind"] == "Lease");
    let mut lease = lease.context("deploy/rbac.yaml has no Lease")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (
        text(&lease["metadata"]["namespace"]),
        text(&lease["metadata"]["name"]),
    );
    lease["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    let key = Key::new("coordination.k8s.io", "leases", &namespace, &name);
    let made = plane.store().create(&key, lease).await;
    made.map_err(|error| anyhow::anyhow!("the agents' Lease: {error:?}"))?;
    Ok(())
}

/// What the file grants to users.
pub fn rules() -> Result<Vec<Rule>> {
    let all = documents()?;
    let mut rules = Vec::new();
    for binding in &all {
        let kind = binding["kind"].as_str().unwrap_or_default();
        if !kind.ends_with("RoleBinding") {
            continue;
        }
        let wanted = &binding["roleRef"];
        let namespace = &binding["metadata"]["namespace"];
        let role = all.iter().find(|role| {
            role["kind"] == wanted["kind"]
                && role["metadata"]["name"] == wanted["name"]
                && (wanted["kind"] == "ClusterRole" || &role["metadata"]["namespace"] == namespace)
        });
        let granted = match role {
            Some(role) => role["rules"].as_array().cloned().unwrap_or_default(),
            None if wanted["name"] == AUTHENTICATION_READER => vec![serde_json::json!({
                "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"],
            })],
            None => anyhow::bail!("no role {wanted}"),
        };
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            for rule in &granted {
                rules.push(Rule {
                    subject: subject["name"].as_str().unwrap_or_default().to_owned(),
                    verbs: texts(&rule["verbs"]),
                    api_groups: texts(&rule["apiGroups"]),
                    resources: texts(&rule["resources"]),
                    namespace: namespace.as_str().unwrap_or_default().to_owned(),
                    paths: texts(&rule["nonResourceURLs"]),
                    names: texts(&rule["resourceNames"]),
                });
            }
        }
    }
    Ok(rules)
}

fn texts(value: &Value) -> Vec<String> {
    let texts = value.as_array().into_iter().flatten();
    texts.filter_map(Value::as_str).map(str::to_owned).collect()
}
