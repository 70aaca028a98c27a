//! Discovery documents in their legacy form.

mod openapi;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use super::surface::{Group, Surface};

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// `None`: no discovery path.
pub fn answer(
    surface: &Surface,
    server_address: &str,
    _method: &str,
    path: &str,
    _query: &str,
    _headers: &HeaderMap,
) -> Option<Answer> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let document = match parts.as_slice() {
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
        }),
        ["apis"] => {
            let groups: Vec<Value> = surface
                .groups
                .iter()
                .filter(|group| !group.name.is_empty())
                .map(of_group)
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["api", version] => resources(surface, "", version)?,
        ["apis", group] => {
            let group = surface.groups.iter().find(|one| one.name == *group)?;
            let mut document = of_group(group);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        ["apis", group, version] => resources(surface, group, version)?,
        ["openapi", "v3"] => openapi::index(surface),
        ["openapi", "v3", "api", version] => openapi::document("", surface.version("", version)?),
        ["openapi", "v3", "apis", group, version] => {
            openapi::document(group, surface.version(group, version)?)
        }
        _ => return None,
    };
    let body = (document.to_string() + "\n").into();
    Some(Answer {
        status: 200,
        headers: vec![("content-type".into(), "application/json".into())],
        body,
    })
}

fn of_group(group: &Group) -> Value {
    let version =
        |name: &str| json!({"groupVersion": format!("{}/{name}", group.name), "version": name});
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|one| version(&one.name))
        .collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions[0]})
}

fn resources(surface: &Surface, group: &str, version: &str) -> Option<Value> {
    let mut all = Vec::new();
    for resource in &surface.version(group, version)?.resources {
        all.push(json!({
            "name": resource.name, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs, "shortNames": resource.short_names,
        }));
        for sub in &resource.subresources {
            let name = format!("{}/{}", resource.name, sub.name);
            all.push(json!({"name": name, "singularName": "", "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs}));
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": all}),
    )
}
