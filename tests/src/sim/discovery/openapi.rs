//! OpenAPI v3, as much as kubectl needs to see that the server validates fields itself.

use serde_json::{Map, Value, json};

use super::super::surface::{Surface, Version};

/// `/openapi/v3`.
pub(super) fn index(surface: &Surface) -> Value {
    let mut paths = Map::new();
    for group in &surface.groups {
        for version in &group.versions {
            let path = path(&group.name, &version.name);
            paths.insert(
                path.clone(),
                json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=0")}),
            );
        }
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/<group>/<version>`.
pub(super) fn document(group: &str, version: &Version) -> Value {
    let mut paths = Map::new();
    for resource in &version.resources {
        let scope = if resource.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let path = format!(
            "/{}{scope}/{}/{{name}}",
            path(group, &version.name),
            resource.name
        );
        paths.insert(
            path,
            json!({"patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-group-version-kind": {"group": group, "version": version.name, "kind": resource.kind},
            }}),
        );
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "unversioned"}, "paths": paths, "components": {}})
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}
