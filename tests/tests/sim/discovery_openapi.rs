//! OpenAPI of simulated kube-apiservers: what kubectl and other clients rely on.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use mvp_tests::sim::{
    discovery::{self, Answer},
    surface::{Apis, Surface, surface, surface_of},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

#[test]
fn index_names_every_group_version_with_the_hash_of_its_document() {
    let surface = surface_of(36, Apis::AllWithGates);
    let answer = get(&surface, "/openapi/v3", "", &[]);
    assert_eq!(header(&answer, "Content-Type"), "text/plain; charset=utf-8");
    assert_eq!(header(&answer, "Cache-Control"), "no-cache, private");
    assert_eq!(header(&answer, "Accept-Ranges"), "bytes");
    assert!(header(&answer, "Last-Modified").ends_with(" GMT"));
    let index = json_of(&answer);
    let paths = index["paths"].as_object().unwrap();
    for path in group_versions(&surface) {
        let url = paths[&path]["serverRelativeURL"].as_str().unwrap();
        let (url, query) = url.split_once('?').unwrap();
        assert_eq!(url, format!("/openapi/v3/{path}"));
        let document = get(&surface, url, query, &[]);
        assert_eq!(query, format!("hash={}", sha512(&document.body)));
    }
    for above in ["api", "apis", "apis/apps"] {
        assert!(paths.contains_key(above), "{above}");
    }
}

#[test]
fn hashes_decide_on_caching() {
    let surface = surface(36, false);
    let path = "/openapi/v3/apis/apps/v1";
    let plain = get(&surface, path, "", &[]);
    assert_eq!(plain.status, 200);
    assert_eq!(header(&plain, "Cache-Control"), "no-cache, private");
    assert_eq!(header(&plain, "Content-Type"), "application/json");
    let etag = header(&plain, "ETag");
    let hash = etag.trim_matches('"');

    let right = get(&surface, path, &format!("hash={hash}&timeout=32s"), &[]);
    assert_eq!(right.status, 200);
    assert_eq!(header(&right, "Cache-Control"), "public, immutable");
    assert!(header(&right, "Expires").ends_with(" GMT"));
    assert_eq!(right.body, plain.body);

    let wrong = get(&surface, path, "hash=00", &[]);
    assert_eq!((wrong.status, wrong.body.len()), (301, 0));
    assert_eq!(header(&wrong, "Location"), format!("{path}?hash={hash}"));

    let unchanged = get(&surface, path, "", &[("if-none-match", &etag)]);
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));

    let unknown = get(&surface, "/openapi/v3/apis/apps/v2", "", &[]);
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.body, "404 page not found\n");
    let protobuf = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
    let refused = get(&surface, path, "", &[("accept", protobuf)]);
    assert_eq!(refused.status, 406);
}

#[test]
fn documents_are_whole() {
    for minor in [31, 36] {
        let surface = surface_of(minor, Apis::AllWithGates);
        for path in group_versions(&surface) {
            let document = json_of(&get(&surface, &format!("/openapi/v3/{path}"), "", &[]));
            assert_eq!(document["openapi"], "3.0.0");
            assert_references_resolve(&document);
            let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
                ["api", version] => ("", version.to_owned()),
                ["apis", group, version] => (group, version.to_owned()),
                _ => panic!("{path}"),
            };
            let schemas = document["components"]["schemas"].as_object().unwrap();
            for resource in &surface.version(group, &version).unwrap().resources {
                let gvk = json!({"group": group, "version": version, "kind": resource.kind});
                let of_kind = schemas
                    .values()
                    .filter(|schema| schema["x-kubernetes-group-version-kind"][0] == gvk);
                assert_eq!(of_kind.count(), 1, "{path} {}", resource.kind);
            }
        }
    }
}

/// kubectl leaves the validation of fields to the server only if it finds this (query_param_verifier_v3.go); else it
/// validates them itself with OpenAPI v2.
#[test]
fn patch_takes_field_validation() {
    let surface = surface(36, false).with_custom(&[widgets()]);
    for (document, path, kind) in [
        (
            "api/v1",
            "/api/v1/namespaces/{namespace}/configmaps/{name}",
            ["", "v1", "ConfigMap"],
        ),
        (
            "apis/rbac.authorization.k8s.io/v1",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}",
            ["rbac.authorization.k8s.io", "v1", "ClusterRole"],
        ),
        (
            "apis/test.example/v1",
            "/apis/test.example/v1/namespaces/{namespace}/widgets/{name}",
            ["test.example", "v1", "Widget"],
        ),
    ] {
        let document = json_of(&get(&surface, &format!("/openapi/v3/{document}"), "", &[]));
        let patch = &document["paths"][path]["patch"];
        let [group, version, kind] = kind;
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": group, "version": version, "kind": kind})
        );
        let parameters = patch["parameters"].as_array().unwrap();
        let is_asked_for = |one: &Value| one["name"] == "fieldValidation" && one["in"] == "query";
        assert!(parameters.iter().any(is_asked_for), "{path}");
        let media = &patch["requestBody"]["content"];
        assert!(media["application/apply-patch+yaml"].is_object(), "{path}");
    }
}

#[test]
fn paths_follow_the_verbs() {
    let document = json_of(&get(&surface(36, false), "/openapi/v3/api/v1", "", &[]));
    let methods = |path: &str| -> Vec<&str> {
        let item = document["paths"][path].as_object().unwrap();
        let keys = item.keys().map(String::as_str);
        keys.filter(|key| *key != "parameters").collect()
    };
    assert_eq!(methods("/api/v1/namespaces"), ["get", "post"]);
    assert_eq!(methods("/api/v1/pods"), ["get"]);
    let pods = "/api/v1/namespaces/{namespace}/pods";
    assert_eq!(methods(pods), ["delete", "get", "post"]);
    let pod = format!("{pods}/{{name}}");
    assert_eq!(methods(&pod), ["delete", "get", "patch", "put"]);
    assert_eq!(methods(&format!("{pod}/eviction")), ["post"]);
    let bindings = "/api/v1/namespaces/{namespace}/bindings";
    assert_eq!(methods(bindings), ["post"]);
    assert!(document["paths"].get("/api/v1/bindings").is_none());
    let eviction = &document["paths"][format!("{pod}/eviction")]["post"];
    assert_eq!(
        eviction["x-kubernetes-group-version-kind"]["group"],
        "policy"
    );
}

#[test]
fn custom_resources_have_their_own_schema() {
    let surface = surface(36, false).with_custom(&[widgets()]);
    let document = json_of(&get(&surface, "/openapi/v3/apis/test.example/v1", "", &[]));
    let schema = &document["components"]["schemas"]["example.test.v1.Widget"];
    assert_eq!(schema["description"], "A widget.");
    let properties = &schema["properties"];
    assert_eq!(properties["spec"]["properties"]["size"]["type"], "integer");
    for field in ["apiVersion", "kind", "metadata"] {
        assert!(properties[field].is_object(), "{field}");
    }
}

#[test]
fn v2() {
    let surface = surface(36, false);
    let document = json_of(&get(&surface, "/openapi/v2", "", &[]));
    assert_eq!(document["swagger"], "2.0");
    let config_map = &document["definitions"]["io.k8s.api.core.v1.ConfigMap"];
    assert_eq!(
        config_map["x-kubernetes-group-version-kind"][0]["kind"],
        "ConfigMap"
    );
    assert_references_resolve(&document);
    let path = "/api/v1/namespaces/{namespace}/configmaps/{name}";
    let parameters = document["paths"][path]["patch"]["parameters"]
        .as_array()
        .unwrap();
    let is_asked_for = |one: &Value| one["name"] == "fieldValidation" && one["type"] == "string";
    assert!(parameters.iter().any(is_asked_for));
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let refused = get(&surface, "/openapi/v2", "", &[("accept", protobuf)]);
    assert_eq!(refused.status, 406);
    let either = format!("{protobuf},application/json;q=0.5");
    let taken = get(&surface, "/openapi/v2", "", &[("accept", &either)]);
    assert_eq!(taken.status, 200);
}

fn widgets() -> Value {
    json!({
        "spec": {
            "group": "test.example",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "description": "A widget.",
                "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
            }}}],
        },
    })
}

/// `api/v1`, `apis/apps/v1` and so on.
fn group_versions(surface: &Surface) -> Vec<String> {
    let mut paths = Vec::new();
    for group in &surface.groups {
        for version in &group.versions {
            paths.push(match group.name.as_str() {
                "" => format!("api/{}", version.name),
                name => format!("apis/{name}/{}", version.name),
            });
        }
    }
    paths
}

fn assert_references_resolve(document: &Value) {
    let mut references = BTreeSet::new();
    collect_references(document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let found = document.pointer(reference.trim_start_matches('#'));
        assert!(found.is_some(), "{reference}");
    }
}

fn collect_references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(to) if key == "$ref" => drop(into.insert(to.clone())),
                    value => collect_references(value, into),
                }
            }
        }
        Value::Array(list) => list
            .iter()
            .for_each(|value| collect_references(value, into)),
        _ => {}
    }
}

fn get(surface: &Surface, path: &str, query: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    discovery::answer(surface, "192.0.2.1:6443", "GET", path, query, &headers).unwrap()
}

fn header(answer: &Answer, name: &str) -> String {
    let found = answer.headers.iter().find(|header| header.0 == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {:?}", answer.headers))
        .1
        .clone()
}

fn json_of(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).unwrap()
}

fn sha512(bytes: &[u8]) -> String {
    let digest = Sha512::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}
