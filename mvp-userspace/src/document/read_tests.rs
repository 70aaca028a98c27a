//! Reading documents, hostile ones included, and writing what was read.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::encode::{
    AggregatedVersion, Layout, aggregated_json, aggregated_yaml, to_json, to_yaml,
};
use super::fuzz::fuzz_merge;
use super::legacy::{ApiResourceList, api_resource_list};
use super::testing::{any_document, document, kind, shown, texts};
use super::types::{Document, Freshness, Scope};
use super::{DecodeError, MAX_ENTRIES, MAX_GROUPS, MAX_NAME_BYTES, MAX_VERBS, MAX_VERSIONS, Root};
use crate::api::MAX_NAME;

fn v2(items: &Value) -> Vec<u8> {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
        .to_string()
        .into_bytes()
}

fn apps(resources: &Value) -> Value {
    json!([{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": resources}]}])
}

fn read(items: &Value) -> Result<Document, DecodeError> {
    Document::aggregated(&v2(items), Root::Groups)
}

#[test]
fn every_field() {
    let read = read(&apps(&json!([{
        "resource": "deployments", "responseKind": {"group": "g", "version": "v", "kind": "Deployment"}, "scope": "Namespaced",
        "singularResource": "deployment", "verbs": ["list", "", "get"], "shortNames": ["deploy"], "categories": ["all"],
        "serverIDs": ["a"],
        "subresources": [{"subresource": "scale", "responseKind": null, "verbs": null,
            "acceptedTypes": [{"group": "autoscaling", "version": "v1", "kind": "Scale"}, {"kind": "Other"}]}],
    }])))
    .unwrap();
    let version = &read.groups[0].versions[0];
    assert_eq!(version.freshness, Freshness::Current);
    let resource = &version.resources[0];
    let said = resource.response_kind.as_ref().unwrap();
    assert_eq!(
        (&*said.group, &*said.version, &*said.kind),
        ("g", "v", "Deployment")
    );
    assert_eq!(
        (resource.scope, &*resource.singular),
        (Scope::Namespaced, "deployment")
    );
    assert_eq!(resource.verbs, texts(&["list", "get"]));
    assert_eq!(resource.short_names, texts(&["deploy"]));
    assert_eq!(resource.categories, texts(&["all"]));
    let scale = &resource.subresources[0];
    assert_eq!(
        (&*scale.subresource, &scale.response_kind),
        ("scale", &None)
    );
    assert!(scale.verbs.is_empty());
    assert_eq!(&*scale.accepted_types[0].group, "autoscaling");
    assert_eq!(scale.accepted_types[1], kind("Other"));
}

#[test]
fn duplicates_are_united_where_they_came_first() {
    let resource = |name: &str, verb: &str, sub: &str| {
        json!({"resource": name, "responseKind": {"kind": "K"}, "verbs": [verb, verb],
            "subresources": [{"subresource": sub, "verbs": [verb]}]})
    };
    let group = |name: &str, resources: Vec<Value>| json!({"metadata": {"name": name}, "versions": [{"version": "v1", "freshness": "Stale", "resources": resources}]});
    let read = read(&json!([
        group(
            "a",
            vec![
                resource("x", "get", "s"),
                resource("y", "get", "s"),
                resource("x", "list", "t")
            ]
        ),
        group("b", vec![]),
        group(
            "a",
            vec![resource("z", "get", "s"), resource("x", "watch", "s")]
        ),
    ]))
    .unwrap();
    assert_eq!(shown(&read), "a/v1!: x x/s x/t y y/s z z/s\nb/v1!: ");
    let x = &read.groups[0].versions[0].resources[0];
    assert_eq!(x.verbs, texts(&["get", "list", "watch"]));
    assert_eq!(x.subresources[0].verbs, texts(&["get", "watch"]));
}

#[test]
fn names_no_path_can_carry_are_left_out_with_what_is_below() {
    let long = "x".repeat(MAX_NAME + 1);
    for bad in ["", "a/b", "..", "a b", &long] {
        let resource = |name: &str| json!({"resource": name, "responseKind": {"kind": "K"}, "subresources": [{"subresource": bad}, {"subresource": "s"}]});
        let group = |name: &str, version: &str| json!({"metadata": {"name": name}, "versions": [{"version": version, "resources": [resource("x"), resource(bad)]}]});
        let read = read(&json!([
            group(bad, "v1"),
            group("g", bad),
            group("g", "v1")
        ]))
        .unwrap();
        assert_eq!(shown(&read), "g/v1: x x/s", "{bad:?}");
    }
}

#[test]
fn other_objects_are_refused() {
    for bytes in [
        &b""[..],
        b"[]",
        b"{}",
        b"{\"kind\":\"APIGroupDiscoveryList\"}",
        b"\xff",
        br#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":{}}"#,
        br#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":[]} x"#,
        br#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":["x"]}"#,
    ] {
        assert!(
            Document::aggregated(bytes, Root::Groups).is_err(),
            "{bytes:?}"
        );
        assert!(ApiResourceList::from_json(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn hostile_documents_are_refused() {
    let over = |items: &Value| matches!(read(items), Err(DecodeError::TooMany { .. }));
    let objects = |n: usize| Value::Array(vec![json!({}); n]);
    assert!(!over(&objects(MAX_GROUPS)));
    assert!(over(&objects(MAX_GROUPS + 1)));
    assert!(over(&json!([{"versions": objects(MAX_VERSIONS + 1)}])));
    assert!(over(&apps(&objects(MAX_ENTRIES + 1))));
    assert!(over(&apps(
        &json!([{"subresources": objects(MAX_ENTRIES)}])
    )));
    for list in ["verbs", "shortNames", "categories"] {
        assert!(!over(&apps(&json!([{list: vec!["x"; MAX_VERBS]}]))));
        assert!(
            over(&apps(&json!([{list: vec!["x"; MAX_VERBS + 1]}]))),
            "{list}"
        );
    }
    assert!(over(&apps(
        &json!([{"subresources": [{"acceptedTypes": objects(MAX_VERBS + 1)}]}])
    )));
}

/// Lists of the longest allowed length everywhere, of names that are all known: cheap on the wire, not in memory.
#[test]
fn mentions_of_names_are_counted() {
    let many = |one: Value| Value::Array(vec![one; MAX_NAME_BYTES / (16 * MAX_VERBS) + 1]);
    let names: Vec<String> = (0..MAX_VERBS).map(|n| n.to_string()).collect();
    let kinds = vec![json!({}); MAX_VERBS];
    for resources in [
        many(json!({"verbs": names})),
        many(json!({"subresources": [{"acceptedTypes": kinds}]})),
    ] {
        assert_eq!(
            read(&apps(&resources)),
            Err(DecodeError::TooMany {
                what: "bytes of names",
                limit: MAX_NAME_BYTES
            })
        );
    }
    let list = json!({"kind": "APIResourceList", "groupVersion": "apps/v1", "resources": many(json!({"name": "x", "verbs": names}))});
    assert!(matches!(
        ApiResourceList::from_json(list.to_string().as_bytes()),
        Err(DecodeError::TooMany { .. })
    ));
}

#[test]
fn duplicates_of_everything_take_no_quadratic_time() {
    let names: Vec<String> = (0..4).map(|n| n.to_string()).collect();
    let one = json!({"resource": "x", "responseKind": {"kind": "K"}, "verbs": names});
    let document = read(&apps(&Value::Array(vec![one; MAX_ENTRIES]))).unwrap();
    assert_eq!(document.groups[0].versions[0].resources[0].verbs.len(), 4);
}

#[test]
fn go_escapes() {
    let mut escaped = document("a<b/v1: things");
    escaped.groups[0].versions[0].resources[0].short_names =
        texts(&["&\u{2028}\u{2029}\u{1}\u{7f}\u{e9}\"\\"]);
    let json = aggregated_json(&escaped, AggregatedVersion::V2, Layout::Compact);
    let json = String::from_utf8(json).unwrap();
    assert!(json.contains(r#""name":"a\u003cb""#), "{json}");
    let expected = concat!("[\"\\u0026\\u2028\\u2029\\u0001\u{7f}\u{e9}", r#"\"\\"]"#);
    assert!(json.contains(expected), "{json}");
    assert!(json.starts_with(r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":["#));
}

/// Kubernetes reads YAML 1.1, in which the short name of nodes is a boolean.
#[test]
fn yaml_of_names_that_look_like_something_else() {
    let mut nodes = document("g/v1: nodes");
    let names = texts(&[
        "no",
        "y",
        "on",
        "null",
        "~",
        "1e3",
        "0x1f",
        "1_000",
        "2001-01-01",
        "a: b",
        "#x",
        "&a",
    ]);
    nodes.groups[0].versions[0].resources[0].short_names = names.clone();
    let yaml = String::from_utf8(aggregated_yaml(&nodes, AggregatedVersion::V2).unwrap()).unwrap();
    let items: Vec<&str> = yaml
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- "))
        .collect();
    for name in &names {
        let quoted = [format!("\"{name}\""), format!("'{name}'")];
        assert!(
            items.iter().any(|item| quoted.iter().any(|q| q == item)),
            "{name}: {yaml}"
        );
    }
    let json = aggregated_json(&nodes, AggregatedVersion::V2, Layout::Compact);
    let read: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(read, serde_json::from_slice::<Value>(&json).unwrap());
}

/// Also what a corpus for the fuzzer may begin with.
#[test]
fn fuzz_corpus() {
    let one = aggregated_json(
        &document("apps/v1: x x/y\nb/v1!:"),
        AggregatedVersion::V2,
        Layout::Pretty,
    );
    let other = aggregated_json(
        &document(
            "b/v1: z\napps/v1beta1: x\napps/v1: x/z w"
                .replace("x/z", "x x/z")
                .as_str(),
        ),
        AggregatedVersion::V2beta1,
        Layout::Compact,
    );
    let list = api_resource_list(&document("apps/v1: x x/y"), "apps", "v1").unwrap();
    for seed in [
        [&one[..], b"\xff", &other].concat(),
        [&other[..], &other].concat(),
        one.clone(),
        to_json(&list, Layout::Compact),
        list.to_protobuf(),
        br#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"a/b/c"},{"name":"a/b","namespaced":true},{"name":"a"}]}"#.to_vec(),
        br#"{"kind":"APIResourceList","groupVersion":"a/b/c"}"#.to_vec(),
        Vec::new(),
    ] {
        fuzz_merge(&seed);
        for end in 0..seed.len() {
            let mut broken = seed.clone();
            broken.truncate(end);
            fuzz_merge(&broken);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_reads_the_same(whole in any_document()) {
        for version in [AggregatedVersion::V2, AggregatedVersion::V2beta1] {
            for layout in [Layout::Compact, Layout::Pretty] {
                let json = aggregated_json(&whole, version, layout);
                prop_assert_eq!(&Document::aggregated(&json, Root::Groups).unwrap(), &whole);
            }
        }
        for group in &whole.groups {
            for version in &group.versions {
                let list = api_resource_list(&whole, &group.name, &version.version).unwrap();
                let json = to_json(&list, Layout::Compact);
                prop_assert_eq!(&ApiResourceList::from_json(&json).unwrap(), &list);
                let yaml: Value = serde_saphyr::from_slice(&to_yaml(&list).unwrap()).unwrap();
                prop_assert_eq!(yaml, serde_json::from_slice::<Value>(&json).unwrap());
            }
        }
    }

    #[test]
    fn fuzzed(mut a in prop::collection::vec(any::<u8>(), 0..64), x in any_document(), y in any_document(), cut in any::<prop::sample::Index>()) {
        fuzz_merge(&a);
        let json = |d: &Document| aggregated_json(d, AggregatedVersion::V2, Layout::Compact);
        let mut both = [&json(&x)[..], b"\xff", &json(&y)].concat();
        fuzz_merge(&both);
        let at = cut.index(both.len());
        if let Some(byte) = a.pop() {
            both[at] = byte;
        }
        fuzz_merge(&both);
    }
}
