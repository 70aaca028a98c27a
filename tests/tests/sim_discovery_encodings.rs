//! Discovery of simulated kube-apiservers in its other encodings: protobuf, and compressed.
#![allow(clippy::unwrap_used)]

use std::io::Read;

use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderName, HeaderValue};
use mvp_tests::fixtures::definition;
use mvp_tests::sim::discovery::protobuf::{
    self, ApiGroup, ApiGroupDiscoveryList, ApiGroupList, ApiResourceList, ApiVersions,
    GroupVersionKind,
};
use mvp_tests::sim::discovery::{self, Answer};
use mvp_tests::sim::surface::{Surface, surface};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const KIND: &str = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const KIND_BETA: &str = "g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

#[test]
fn aggregated_protobuf_says_what_json_says() {
    for (minor, path, kind, version) in [
        (36, "/apis", KIND, "v2"),
        (36, "/api", KIND, "v2"),
        (32, "/apis", KIND_BETA, "v2beta1"),
    ] {
        let surface = surface(minor, true);
        let json = get(&surface, path, &[("accept", &format!("{JSON};{kind}"))]);
        let answer = get(&surface, path, &[("accept", &format!("{PROTOBUF};{kind}"))]);
        assert_eq!(
            header(&answer, "Content-Type"),
            format!("{PROTOBUF};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
        );
        // One ETag for every encoding.
        assert_eq!(header(&answer, "ETag"), header(&json, "ETag"));
        let (meta, list): (_, ApiGroupDiscoveryList) = protobuf::open(&answer.body).unwrap();
        assert_eq!(meta.kind, "APIGroupDiscoveryList");
        assert_eq!(
            meta.api_version,
            format!("apidiscovery.k8s.io/{version}"),
            "{path}"
        );
        let expected: Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!(
            as_json(&list),
            names_only(expected["items"].clone()),
            "{path}"
        );
    }
}

#[test]
fn legacy_protobuf_says_what_json_says() {
    let surface = surface(36, true).with_custom(&[definition(
        "test.example",
        "widgets",
        "Widget",
        json!({"status": {}}),
    )]);
    let open = |path: &str| get(&surface, path, &[("accept", PROTOBUF)]);
    let json = |path: &str| -> Value {
        serde_json::from_slice(&get(&surface, path, &[("accept", JSON)]).body).unwrap()
    };

    let answer = open("/apis");
    assert_eq!(header(&answer, "Content-Type"), PROTOBUF);
    let (meta, list): (_, ApiGroupList) = protobuf::open(&answer.body).unwrap();
    assert_eq!(
        (meta.api_version.as_str(), meta.kind.as_str()),
        ("v1", "APIGroupList")
    );
    let groups: Vec<Value> = list.groups.iter().map(group).collect();
    assert_eq!(json!(groups), json("/apis")["groups"]);

    let (meta, one): (_, ApiGroup) = protobuf::open(&open("/apis/autoscaling").body).unwrap();
    assert_eq!(meta.kind, "APIGroup");
    let expected = json("/apis/autoscaling");
    assert_eq!(group(&one)["versions"], expected["versions"]);
    assert_eq!(
        group(&one)["preferredVersion"],
        expected["preferredVersion"]
    );

    let (meta, versions): (_, ApiVersions) = protobuf::open(&open("/api").body).unwrap();
    assert_eq!(
        (meta.kind.as_str(), versions.versions.len()),
        ("APIVersions", 1)
    );
    assert_eq!(
        versions.server_address_by_client_cidrs[0].server_address,
        "192.0.2.1:6443"
    );

    for path in [
        "/api/v1",
        "/apis/apps/v1",
        "/apis/apps/v1/",
        "/apis/test.example/v1",
    ] {
        let (meta, list): (_, ApiResourceList) = protobuf::open(&open(path).body).unwrap();
        assert_eq!(meta.kind, "APIResourceList");
        let expected = json(path);
        assert_eq!(list.group_version, expected["groupVersion"]);
        assert_eq!(
            json!(list.resources.iter().map(resource).collect::<Vec<_>>()),
            expected["resources"],
            "{path}"
        );
    }
}

#[test]
fn large_bodies_are_compressed_for_clients_that_name_gzip() {
    let large = large();
    let accept = format!("{JSON};{KIND}");
    let asked = |coding| [("accept", accept.as_str()), ("accept-encoding", coding)];
    let plain = get(&large, "/apis", &[("accept", &accept)]);
    assert!(plain.body.len() > 128 * 1024);
    assert_eq!(all(&plain, "Vary"), ["Accept"]);
    for coding in ["gzip", "deflate, gzip", " gzip ,br"] {
        let answer = get(&large, "/apis", &asked(coding));
        assert_eq!(header(&answer, "Content-Encoding"), "gzip", "{coding}");
        assert_eq!(all(&answer, "Vary"), ["Accept", "Accept-Encoding"]);
        assert_eq!(header(&answer, "ETag"), header(&plain, "ETag"));
        assert_eq!(unpacked(&answer), plain.body);
    }
    // kube-apiserver knows the bare word only.
    for coding in ["identity", "gzip;q=1.0", "x-gzip", "*"] {
        let answer = get(&large, "/apis", &asked(coding));
        assert_eq!(
            (all(&answer, "Content-Encoding").len(), answer.body),
            (0, plain.body.clone()),
            "{coding}"
        );
    }
    // Small ones are not worth it, and nothing has no encoding.
    let small = get(&surface(36, false), "/api", &asked("gzip"));
    assert!(all(&small, "Content-Encoding").is_empty());
    let etag = header(&plain, "ETag");
    let known = [
        ("accept", accept.as_str()),
        ("accept-encoding", "gzip"),
        ("if-none-match", etag.as_str()),
    ];
    let unchanged = get(&large, "/apis", &known);
    assert_eq!(
        (unchanged.status, all(&unchanged, "Content-Encoding").len()),
        (304, 0)
    );
    // Legacy documents have no other Vary.
    let legacy = get(
        &large,
        "/apis/many.example/v1",
        &[("accept-encoding", "gzip")],
    );
    assert_eq!(all(&legacy, "Vary"), ["Accept-Encoding"]);
}

#[test]
fn openapi_v2_is_compressed_and_v3_is_not() {
    let surface = surface(36, false);
    let plain = get(&surface, "/openapi/v2", &[]);
    assert_eq!(all(&plain, "Vary"), ["Accept", "Accept-Encoding"]);
    for coding in ["gzip", "gzip;q=0.5", "br, GZIP"] {
        let answer = get(&surface, "/openapi/v2", &[("accept-encoding", coding)]);
        assert_eq!(header(&answer, "Content-Encoding"), "gzip", "{coding}");
        assert_eq!(unpacked(&answer), plain.body);
    }
    let refused = get(&surface, "/openapi/v2", &[("accept-encoding", "gzip;q=0")]);
    assert!(all(&refused, "Content-Encoding").is_empty());
    for path in ["/openapi/v3", "/openapi/v3/apis/apps/v1"] {
        let answer = get(&surface, path, &[("accept-encoding", "gzip")]);
        assert!(all(&answer, "Content-Encoding").is_empty(), "{path}");
    }
}

/// A surface whose documents are above the threshold, the legacy one of a single group version too.
fn large() -> Surface {
    let definitions: Vec<Value> = (0..1000)
        .map(|number| {
            let (plural, kind) = (format!("things{number:04}"), format!("Thing{number:04}"));
            definition("many.example", &plural, &kind, json!({"status": {}}))
        })
        .collect();
    surface(36, false).with_custom(&definitions)
}

/// The list in the shape of its JSON.
fn as_json(list: &ApiGroupDiscoveryList) -> Value {
    let kind = |kind: &GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let optional = |value: &mut Value, name: &str, list: Value| {
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            value[name] = list;
        }
    };
    list.items
        .iter()
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = version
                        .resources
                        .iter()
                        .map(|one| {
                            let mut value = json!({
                                "resource": one.resource, "responseKind": one.response_kind.as_ref().map(kind),
                                "scope": one.scope, "singularResource": one.singular_resource, "verbs": one.verbs,
                            });
                            optional(&mut value, "shortNames", json!(one.short_names));
                            optional(&mut value, "categories", json!(one.categories));
                            let subresources: Vec<Value> = one
                                .subresources
                                .iter()
                                .map(|sub| {
                                    let mut value = json!({
                                        "subresource": sub.subresource,
                                        "responseKind": sub.response_kind.as_ref().map(kind), "verbs": sub.verbs,
                                    });
                                    let accepted: Vec<Value> = sub.accepted_types.iter().map(kind).collect();
                                    optional(&mut value, "acceptedTypes", json!(accepted));
                                    value
                                })
                                .collect();
                            optional(&mut value, "subresources", json!(subresources));
                            value
                        })
                        .collect();
                    json!({"version": version.version, "resources": resources, "freshness": version.freshness})
                })
                .collect();
            let mut metadata = json!({});
            if !group.metadata.name.is_empty() {
                metadata["name"] = json!(group.metadata.name);
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect()
}

/// Without the null that old servers write, which protobuf does not know.
fn names_only(mut items: Value) -> Value {
    for item in items.as_array_mut().unwrap() {
        item["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("creationTimestamp");
    }
    items
}

fn group(group: &ApiGroup) -> Value {
    let version = |one: &protobuf::GroupVersionForDiscovery| json!({"groupVersion": one.group_version, "version": one.version});
    json!({
        "name": group.name,
        "versions": group.versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": version(&group.preferred_version),
    })
}

fn resource(one: &protobuf::ApiResource) -> Value {
    let mut value = json!({
        "name": one.name, "singularName": one.singular_name, "namespaced": one.namespaced, "kind": one.kind,
        "verbs": one.verbs.as_ref().map(|verbs| verbs.items.clone()),
    });
    for (name, text) in [
        ("group", &one.group),
        ("version", &one.version),
        ("storageVersionHash", &one.storage_version_hash),
    ] {
        if !text.is_empty() {
            value[name] = json!(text);
        }
    }
    for (name, list) in [
        ("shortNames", &one.short_names),
        ("categories", &one.categories),
    ] {
        if !list.is_empty() {
            value[name] = json!(list);
        }
    }
    value
}

fn get(surface: &Surface, path: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    discovery::answer(surface, "192.0.2.1:6443", "GET", path, "", &headers).unwrap()
}

fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let found = answer.headers.iter().filter(|header| header.0 == name);
    found.map(|header| header.1.as_str()).collect()
}

fn header(answer: &Answer, name: &str) -> String {
    all(answer, name)
        .first()
        .copied()
        .unwrap_or_default()
        .to_owned()
}

fn unpacked(answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(&answer.body[..])
        .read_to_end(&mut plain)
        .unwrap();
    plain
}
