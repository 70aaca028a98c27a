//! Discovery documents: what real shapes mean, that order and duplicates do not matter, and that hostile ones are refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp::api::Verb;
use mvp::api::{ApiSet, GroupVersion, MAX_NAME};
use mvp::discovery::fuzz_decode;
use mvp::document::{
    DecodeError, Decoded, MAX_ENTRIES, MAX_GROUPS, MAX_VERBS, MAX_VERSIONS, Root, group_versions,
};
use serde_json::{Value, json};

pub(crate) fn v2(items: Value) -> Vec<u8> {
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    list.to_string().into_bytes()
}

pub(crate) fn keys(set: &ApiSet) -> Vec<String> {
    set.entries()
        .iter()
        .map(|e| {
            let verbs: Vec<_> = e.verbs.iter().map(Verb::as_str).collect();
            format!(
                "{}/{}/{}/{} {}",
                e.group,
                e.version,
                e.resource,
                e.subresource,
                verbs.join(",")
            )
        })
        .collect()
}

fn read(document: &[u8]) -> Vec<String> {
    let decoded = Decoded::aggregated(document, Root::Groups).unwrap();
    keys(&decoded.document.api_set())
}

fn apps(resources: Value) -> Vec<u8> {
    v2(
        json!([{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}]}]),
    )
}

#[test]
fn resources_and_subresources() {
    let document = apps(json!([{
        "resource": "deployments", "responseKind": {"group": "", "version": "", "kind": "Deployment"}, "scope": "Namespaced",
        "singularResource": "deployment", "verbs": ["list", "get"], "shortNames": ["deploy"], "categories": ["all"],
        "subresources": [
            {"subresource": "scale", "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}, "verbs": ["get", "patch"]},
            {"subresource": "status", "responseKind": {"kind": "Deployment"}, "acceptedTypes": [], "verbs": null},
        ],
    }]));
    let expected = [
        "apps/v1/deployments/ get,list",
        "apps/v1/deployments/scale get,patch",
        "apps/v1/deployments/status ",
    ];
    assert_eq!(read(&document), expected);
    let beta = String::from_utf8(document)
        .unwrap()
        .replace("k8s.io/v2", "k8s.io/v2beta1");
    assert_eq!(read(beta.as_bytes()), expected);
}

#[test]
fn a_parent_without_kind_is_not_served_itself() {
    for kind in [
        json!(null),
        json!({}),
        json!({"group": "", "version": "", "kind": ""}),
    ] {
        let document = apps(json!([
            {"resource": "nodes", "responseKind": kind, "verbs": ["get"], "subresources": [{"subresource": "proxy", "verbs": ["get"]}]},
            {"resource": "ghosts", "responseKind": kind, "verbs": ["get"]},
        ]));
        assert_eq!(read(&document), ["apps/v1/nodes/proxy get"]);
    }
}

#[test]
fn stale_versions_keep_what_they_list() {
    let pods =
        json!([{"resource": "pods", "responseKind": {"kind": "PodMetrics"}, "verbs": ["get"]}]);
    let document = v2(
        json!([{"metadata": {"name": "metrics.k8s.io"}, "versions": [
            {"version": "v1", "freshness": "Stale", "resources": pods},
            {"version": "v1beta1", "freshness": "Stale"},
            {"version": "v1alpha1", "freshness": "Current", "resources": pods},
        ]}]),
    );
    let decoded = Decoded::aggregated(&document, Root::Groups).unwrap();
    let stale = decoded.document.stale();
    let stale: Vec<_> = stale.iter().map(GroupVersion::to_string).collect();
    assert_eq!(stale, ["metrics.k8s.io/v1", "metrics.k8s.io/v1beta1"]);
    assert_eq!(
        read(&document),
        [
            "metrics.k8s.io/v1/pods/ get",
            "metrics.k8s.io/v1alpha1/pods/ get"
        ]
    );
}

#[test]
fn each_root_holds_its_own_groups() {
    let pods = json!([{"version": "v1", "resources": [{"resource": "pods", "responseKind": {"kind": "Pod"}, "verbs": ["get"]}]}]);
    let document = v2(json!([
        {"metadata": {}, "versions": pods}, {"versions": pods}, {"metadata": {"name": "apps"}, "versions": pods},
    ]));
    assert_eq!(read(&document), ["apps/v1/pods/ get"]);
    let core = Decoded::aggregated(&document, Root::Core).unwrap();
    assert_eq!(core.refused, 1);
    assert_eq!(keys(&core.document.api_set()), ["/v1/pods/ get"]);
}

#[test]
fn null_everywhere_is_empty() {
    for items in [
        json!(null),
        json!([]),
        json!([null]),
        json!([{"metadata": null, "versions": null}]),
    ] {
        assert_eq!(read(&v2(items)), [""; 0]);
    }
    for resources in [
        json!(null),
        json!([null]),
        json!([{"resource": null, "responseKind": null, "verbs": null, "subresources": [null]}]),
    ] {
        assert_eq!(read(&apps(resources)), [""; 0]);
    }
    let verbs =
        apps(json!([{"resource": "x", "responseKind": {"kind": "X"}, "verbs": [null, "get"]}]));
    assert_eq!(read(&verbs), ["apps/v1/x/ get"]);
    let gv = GroupVersion {
        group: "".into(),
        version: "v1".into(),
    };
    let list: &[u8] = br#"{"kind":"APIResourceList","groupVersion":"v1","resources":[null,{"name":null,"verbs":null}]}"#;
    assert_eq!(
        Decoded::from_legacy(&[(gv, list)])
            .unwrap()
            .document
            .entries(),
        []
    );
    assert_eq!(
        group_versions(br#"{"kind":"APIVersions","versions":null}"#, Root::Core).unwrap(),
        []
    );
}

#[test]
fn names_that_no_path_can_carry_are_left_out() {
    let long = "x".repeat(MAX_NAME + 1);
    let kind = json!({"kind": "X"});
    let entries: Vec<_> = ["", "a/b", ".", "..", "a\u{7}", &long, "good"]
        .iter()
        .map(|name| json!({"resource": name, "responseKind": kind, "verbs": ["get"], "subresources": [{"subresource": name, "verbs": ["get"]}]}))
        .collect();
    let document = apps(json!(entries));
    assert_eq!(
        read(&document),
        ["apps/v1/good/ get", "apps/v1/good/good get"]
    );
    assert_eq!(
        Decoded::aggregated(&document, Root::Groups)
            .unwrap()
            .refused,
        12
    );
}

#[test]
fn documents_of_another_kind_are_refused() {
    let documents: [&[u8]; 6] = [
        b"",
        b"[]",
        b"null",
        b"{}",
        br#"{"kind":"Status","apiVersion":"v1","code":403}"#,
        br#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v3","items":[]}"#,
    ];
    for document in documents {
        assert!(
            Decoded::aggregated(document, Root::Groups).is_err(),
            "{}",
            String::from_utf8_lossy(document)
        );
        assert!(group_versions(document, Root::Groups).is_err());
    }
    let mut trailing = v2(json!([]));
    trailing.extend_from_slice(b"{}");
    assert!(matches!(
        Decoded::aggregated(&trailing, Root::Groups),
        Err(DecodeError::Json(_))
    ));
}

#[test]
fn text_that_is_not_utf8_is_refused_even_where_nothing_is_read() {
    let mut document =
        br#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","junk":"?"}"#
            .to_vec();
    assert!(Decoded::aggregated(&document, Root::Groups).is_ok());
    let at = document.iter().position(|b| *b == b'?').unwrap();
    document[at] = 0xff;
    assert_eq!(
        Decoded::aggregated(&document, Root::Groups),
        Err(DecodeError::NotUtf8(at))
    );
}

#[test]
fn deep_documents_are_refused_or_skipped() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(200_000), "}".repeat(200_000));
    for deep in [deep, objects] {
        fuzz_decode(deep.as_bytes());
        let skipped = format!(
            r#"{{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","junk":{deep}}}"#
        );
        fuzz_decode(skipped.as_bytes());
        let items = format!(
            r#"{{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":{deep}}}"#
        );
        assert!(Decoded::aggregated(items.as_bytes(), Root::Groups).is_err());
    }
}

#[test]
fn documents_over_a_limit_are_refused() {
    fn limit(document: &[u8]) -> (&'static str, usize) {
        match Decoded::aggregated(document, Root::Groups) {
            Err(DecodeError::TooMany { what, limit }) => (what, limit),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        limit(&v2(json!(vec![json!({}); MAX_GROUPS + 1]))),
        ("groups", MAX_GROUPS)
    );
    let versions = json!([{"versions": vec![json!({}); MAX_VERSIONS + 1]}]);
    assert_eq!(limit(&v2(versions)), ("versions", MAX_VERSIONS));
    assert_eq!(
        limit(&apps(json!(vec![json!({}); MAX_ENTRIES + 1]))),
        ("resources", MAX_ENTRIES)
    );
    let subresources = json!([{"resource": "x", "subresources": vec![json!({}); MAX_ENTRIES]}]);
    assert_eq!(limit(&apps(subresources)), ("resources", MAX_ENTRIES));
    let verbs = json!([{"resource": "x", "verbs": vec!["get"; MAX_VERBS + 1]}]);
    assert_eq!(limit(&apps(verbs)).1, MAX_VERBS);
    // Names multiply: one long group name is kept once an entry.
    let resources =
        vec![json!({"resource": "y".repeat(150), "responseKind": {"kind": "X"}}); MAX_ENTRIES];
    let version = json!({"version": "v".repeat(MAX_NAME), "resources": resources});
    assert_eq!(
        limit(&v2(
            json!([{"metadata": {"name": "g"}, "versions": [version]}])
        ))
        .0,
        "bytes of names"
    );
    // At the limit all is well.
    let most = apps(json!(vec![
        json!({"resource": "y", "responseKind": {"kind": "X"}});
        MAX_ENTRIES
    ]));
    assert_eq!(read(&most), ["apps/v1/y/ "]);
}

#[test]
fn legacy_documents() {
    let apis = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [
        {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}, {"groupVersion": "apps/v1", "version": "v1"}],
         "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}},
        {"name": "a/b", "versions": [{"version": "v1"}]}, {"name": "", "versions": [{"version": "v1"}]},
        {"name": "batch", "versions": [{"version": ""}, {"version": "v2"}, {"version": "v1"}]},
    ]});
    let listed = group_versions(apis.to_string().as_bytes(), Root::Groups).unwrap();
    let listed: Vec<_> = listed.iter().map(GroupVersion::to_string).collect();
    assert_eq!(listed, ["apps/v1", "batch/v2", "batch/v1"]);
    let core = br#"{"kind":"APIVersions","versions":["v1"],"serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"10.0.0.1:6443"}]}"#;
    assert_eq!(
        group_versions(core, Root::Core).unwrap()[0].to_string(),
        "v1"
    );

    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "apps/v1", "resources": [
        {"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment", "verbs": ["get", "list"]},
        {"name": "deployments/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["patch"]},
        {"name": "orphans/status", "kind": "Orphan", "verbs": ["get"]},
        {"name": "a/b/c", "kind": "X", "verbs": ["get"]}, {"name": "/x", "verbs": []}, {"name": "x/", "verbs": []},
    ]});
    let gv = GroupVersion {
        group: "apps".into(),
        version: "v1".into(),
    };
    let list = list.to_string();
    let decoded = Decoded::from_legacy(&[(gv, list.as_bytes())]).unwrap();
    assert_eq!(decoded.refused, 3);
    assert_eq!(
        keys(&decoded.document.api_set()),
        [
            "apps/v1/deployments/ get,list",
            "apps/v1/deployments/scale patch",
            "apps/v1/orphans/status get"
        ]
    );
    let other = GroupVersion {
        group: "apps".into(),
        version: "v2".into(),
    };
    assert!(matches!(
        Decoded::from_legacy(&[(other, list.as_bytes())]),
        Err(DecodeError::Kind { .. })
    ));
}
