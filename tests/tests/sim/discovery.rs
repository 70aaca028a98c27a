//! Discovery of simulated kube-apiservers against recorded answers of real ones.
#![allow(clippy::unwrap_used)]

use http::{HeaderMap, HeaderName, HeaderValue};
use mvp_tests::sim::{
    discovery::{self, Answer},
    surface::{Surface, surface},
};
use serde_json::{Value, json};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// ETags that kube-apiservers 1.33.13, 1.35.6 and 1.36.3 gave (the last two with all APIs): SHA-512 of a whole document.
const ETAGS: [(u8, bool, &str, &str); 8] = [
    (
        33,
        false,
        "/api",
        "B71838287F84440751EF3E5744A7306A573352C87E530D4A937F4A2BCBB23B71C20457F1B57490979D43B5FBD3071512F6607C7FED9E4AC951494FE8201B8C95",
    ),
    (
        33,
        false,
        "/apis",
        "B45D5D115861456C7ADC2FCA150A816B0B36A414A3D15C640E5276C2C2FDC345984D958E828A57FC59912C14B2AE131BF05926B42B61DBE0D5DC943045A543F1",
    ),
    (
        35,
        false,
        "/api",
        "4D7E1BED90B364BC86049DD9E636494980AEF65B7F8CFAA267616FA062B514A8A3CC2C2851CC9337B8D28B4C80960E2353DE5E0B152E87CC223E02EA3C5C37AC",
    ),
    (
        35,
        false,
        "/apis",
        "AC64E20CAE6C064E090F9BCB960BAA5C90BD3F3C4624F4CFCF78478133EEE34AFDF5D9E1D36D54B54013CD843B59FAF1F4507C4C2A62AA925A4AEFBFE99276BB",
    ),
    (
        36,
        false,
        "/api",
        "4D7E1BED90B364BC86049DD9E636494980AEF65B7F8CFAA267616FA062B514A8A3CC2C2851CC9337B8D28B4C80960E2353DE5E0B152E87CC223E02EA3C5C37AC",
    ),
    (
        36,
        false,
        "/apis",
        "C8F92FAFED6908E1B04850E92B0853E304F3477AC19C859A34E485492858391905585D8B4B9477B1A3D3591B08F26A277D30FC48F1F85C72CD201D4AC987A635",
    ),
    (
        36,
        true,
        "/api",
        "4D7E1BED90B364BC86049DD9E636494980AEF65B7F8CFAA267616FA062B514A8A3CC2C2851CC9337B8D28B4C80960E2353DE5E0B152E87CC223E02EA3C5C37AC",
    ),
    (
        36,
        true,
        "/apis",
        "8290C3472C27890F9FD7A0D8EDB129C8F8C3812F5D96F60EE512B15A19C57A51D5AC9218F86612D24DF9BD55C9634B8D75DE655751374170931164A71F1E1C94",
    ),
];

#[test]
fn etags_are_those_of_real_servers() {
    for (minor, all, path, etag) in ETAGS {
        // The servers without all APIs had one custom resource.
        let surface = if all {
            surface(minor, true)
        } else {
            with_widgets(minor)
        };
        let answer = get(&surface, path, &[("accept", V2)]);
        assert_eq!(
            header(&answer, "ETag"),
            format!("\"{etag}\""),
            "1.{minor} {path}"
        );
    }
}

#[test]
fn headers_of_aggregated_discovery() {
    let surface = surface(36, false);
    let answer = get(&surface, "/apis", &[("accept", V2)]);
    let etag = header(&answer, "ETag");
    assert_eq!(
        headers(&answer),
        [
            "cache-control: public".to_owned(),
            "content-type: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
                .to_owned(),
            format!("etag: {etag}"),
            "vary: Accept".to_owned(),
        ]
    );
    // The digest leaves out the kind that a document begins with, and its newline.
    let text = std::str::from_utf8(&answer.body).unwrap();
    let kind = r#""kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","#;
    assert!(text.starts_with(&format!("{{{kind}")));
    assert!(text.ends_with("}]}\n"));
    let bare = text.replacen(kind, "", 1);
    assert!(bare.starts_with(
        r#"{"metadata":{},"items":[{"metadata":{"name":"apiregistration.k8s.io"},"versions":["#
    ));
    assert_eq!(format!("\"{}\"", sha512(bare.trim_end().as_bytes())), etag);
    // Every encoding has the same.
    let human = [("accept", V2), ("user-agent", "curl/8")];
    let pretty = get(&surface, "/apis", &human);
    assert!(pretty.body.starts_with(b"{\n  \"kind\""));
    assert!(pretty.body.ends_with(b"\n  ]\n}"));
    assert_eq!(header(&pretty, "ETag"), etag);
}

#[test]
fn conditional_requests() {
    let surface = surface(36, false);
    let etag = header(&get(&surface, "/apis", &[("accept", V2)]), "ETag");
    let unchanged = get(
        &surface,
        "/apis",
        &[("accept", V2), ("if-none-match", &etag)],
    );
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(
        headers(&unchanged),
        [
            "cache-control: public".to_owned(),
            format!("etag: {etag}"),
            "vary: Accept".to_owned()
        ]
    );
    for other in [
        format!("W/{etag}"),
        format!("{etag}, {etag}"),
        "*".to_owned(),
        etag.trim_matches('"').to_owned(),
    ] {
        let answer = get(
            &surface,
            "/apis",
            &[("accept", V2), ("if-none-match", &other)],
        );
        assert_eq!(answer.status, 200, "{other}");
    }
    let head = answer_to("HEAD", &surface, "/apis", "", &[("accept", V2)]).unwrap();
    assert_eq!((head.status, header(&head, "ETag")), (200, etag));
    assert!(head.body.is_empty());
}

#[test]
fn old_servers_write_the_creation_timestamp() {
    let first = |minor| {
        let answer = get(&surface(minor, false), "/api", &[("accept", V2)]);
        json_of(&answer)["items"][0]["metadata"].clone()
    };
    assert_eq!(first(31), json!({"creationTimestamp": null}));
    assert_eq!(first(33), json!({"creationTimestamp": null}));
    assert_eq!(first(34), json!({}));
}

#[test]
fn negotiation() {
    let all = format!("{V2},{BETA},application/json");
    let nopeer = format!("{V2};profile=nopeer,{V2},application/json");
    let beta_and_json = format!("{BETA},application/json");
    let cases = [
        (32, "/apis", BETA, "v2beta1"),
        (32, "/api", &beta_and_json, "v2beta1"),
        (33, "/api", &beta_and_json, "legacy"),
        (33, "/apis", BETA, "406"),
        (31, "/apis", &all, "v2"),
        (36, "/apis", &all, "v2"),
        (36, "/apis", &nopeer, "v2"),
        (36, "/apis/", &nopeer, "legacy"),
        (36, "/apis/", V2, "406"),
        (36, "/apis/apps", V2, "406"),
        (36, "/api/v1", &all, "legacy"),
    ];
    for (minor, path, accept, expected) in cases {
        let answer = get(&surface(minor, false), path, &[("accept", accept)]);
        let content_type = header(&answer, "Content-Type");
        let got = match (answer.status, content_type.split_once(";v=")) {
            (200, Some((_, rest))) => rest.split(';').next().unwrap().to_owned(),
            (200, None) => "legacy".to_owned(),
            (status, _) => status.to_string(),
        };
        assert_eq!(got, expected, "1.{minor} {path} {accept}");
        if got.starts_with("v2") {
            let api_version = format!("apidiscovery.k8s.io/{got}");
            assert_eq!(json_of(&answer)["apiVersion"], api_version);
        }
    }
}

#[test]
fn not_acceptable() {
    let asked = [("accept", BETA), ("user-agent", "curl/8.5.0")];
    let answer = get(&surface(36, false), "/apis", &asked);
    assert_eq!(answer.status, 406);
    assert_eq!(
        headers(&answer),
        [
            "cache-control: no-cache, private",
            "content-type: application/json"
        ]
    );
    assert_eq!(
        answer.body,
        r#"{
  "kind": "Status",
  "apiVersion": "v1",
  "metadata": {},
  "status": "Failure",
  "message": "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
  "reason": "NotAcceptable",
  "code": 406
}"#
    );
    // The recorded Content-Length.
    assert_eq!(answer.body.len(), 262);
}

#[test]
fn yaml() {
    let asked = [("accept", "application/yaml")];
    let answer = get(&surface(36, false), "/apis/batch", &asked);
    assert_eq!(header(&answer, "Content-Type"), "application/yaml");
    let text = std::str::from_utf8(&answer.body).unwrap();
    assert!(text.starts_with("apiVersion: v1\n"), "{text}");
    assert!(text.contains("groupVersion: batch/v1"), "{text}");
}

#[test]
fn legacy_group() {
    // Recorded from 1.33.13, its Content-Length too.
    let answer = get(
        &surface(33, false),
        "/apis/storage.k8s.io",
        &[("user-agent", "curl/8.5.0")],
    );
    assert_eq!(
        answer.body,
        r#"{
  "kind": "APIGroup",
  "apiVersion": "v1",
  "name": "storage.k8s.io",
  "versions": [
    {
      "groupVersion": "storage.k8s.io/v1",
      "version": "v1"
    }
  ],
  "preferredVersion": {
    "groupVersion": "storage.k8s.io/v1",
    "version": "v1"
  }
}"#
    );
    assert_eq!(answer.body.len(), 262);
    assert_eq!(
        headers(&answer),
        [
            "cache-control: no-cache, private",
            "content-type: application/json"
        ]
    );
}

#[test]
fn legacy_roots() {
    let surface = with_widgets(36);
    assert_eq!(
        get(&surface, "/api", &[]).body,
        "{\"kind\":\"APIVersions\",\"versions\":[\"v1\"],\"serverAddressByClientCIDRs\":[{\"clientCIDR\":\"0.0.0.0/0\",\"serverAddress\":\"192.0.2.1:6443\"}]}\n"
    );
    let answer = get(&surface, "/apis", &[]);
    let text = std::str::from_utf8(&answer.body).unwrap();
    assert!(text.starts_with(
        r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"apiregistration.k8s.io","versions":["#
    ));
    let list = json_of(&answer);
    let groups = list["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 21);
    assert_eq!(groups[20]["name"], "test.example");
    let autoscaling = groups.iter().find(|g| g["name"] == "autoscaling").unwrap();
    assert_eq!(autoscaling["preferredVersion"]["version"], "v2");
    assert_eq!(autoscaling["versions"][1]["groupVersion"], "autoscaling/v1");
}

#[test]
fn legacy_resources() {
    let surface = with_widgets(36);
    let text = |path: &str| String::from_utf8(get(&surface, path, &[]).body.to_vec()).unwrap();
    let core = text("/api/v1");
    assert!(core.starts_with(
        r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"bindings","singularName":"binding","namespaced":true,"kind":"Binding","verbs":["create"]},"#
    ));
    assert!(core.contains(
        r#"{"name":"pods/eviction","singularName":"","namespaced":true,"group":"policy","version":"v1","kind":"Eviction","verbs":["create"]}"#
    ));
    assert!(core.contains(
        r#"{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["cm"],"storageVersionHash":"qFsyl6wFWjQ="}"#
    ));
    let apps = text("/apis/apps/v1");
    assert!(apps.starts_with(
        r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"apps/v1","resources":["#
    ));
    assert!(apps.contains(
        r#"{"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get","patch","update"]}"#
    ));
    // Stored as another version, in every release.
    let crds = text("/apis/apiextensions.k8s.io/v1");
    assert!(crds.contains(r#""storageVersionHash":"jfWCUB31mvA=""#));
    let events = text("/apis/events.k8s.io/v1");
    assert!(events.contains(r#""storageVersionHash":"r2yiGXH7wu8=""#));
    let widgets = text("/apis/test.example/v1");
    assert!(widgets.contains(
        r#"[{"name":"widgets","singularName":"widget","namespaced":true,"kind":"Widget","verbs":["delete","deletecollection","get","list","patch","create","update","watch"],"#
    ));
}

#[test]
fn pretty_for_humans() {
    let surface = surface(36, false);
    let body = |query, agent| {
        let headers = [("user-agent", agent)];
        answer_to("GET", &surface, "/apis/apps", query, &headers)
            .unwrap()
            .body
    };
    let is_pretty = |query, agent| body(query, agent).starts_with(b"{\n");
    for human in ["curl/8", "Wget/1.21", "Mozilla/5.0 (X11)"] {
        assert!(is_pretty("", human), "{human}");
        assert!(!is_pretty("pretty=false", human), "{human}");
        // Without a value the query says nothing.
        assert!(is_pretty("a=b&pretty=", human), "{human}");
    }
    assert!(!is_pretty("", "kubectl/v1.36.0"));
    assert!(is_pretty("timeout=32s&pretty=true", "kubectl/v1.36.0"));
    assert!(body("", "kubectl/v1.36.0").ends_with(b"}\n"));
}

#[test]
fn unknown_paths() {
    let surface = surface(35, false);
    for path in [
        "/apis/nothing.example",
        "/apis/apps/v2",
        "/apis/nothing.example/v1",
        "/api/v2",
        "/apis/scheduling.k8s.io/v1alpha2/",
    ] {
        for accept in [
            "application/json",
            V2,
            "application/vnd.kubernetes.protobuf",
        ] {
            let asked = [("accept", accept), ("user-agent", "curl/8")];
            let answer = get(&surface, path, &asked);
            assert_eq!(answer.status, 404, "{path}");
            assert_eq!(answer.body, "404 page not found\n", "{path}");
            assert_eq!(
                headers(&answer),
                [
                    "cache-control: no-cache, private",
                    "content-type: text/plain; charset=utf-8",
                    "x-content-type-options: nosniff"
                ],
                "{path}"
            );
        }
    }
    for path in [
        "/",
        "/version",
        "/apis/apps/v1/deployments",
        "/api/v1/pods",
        "/apiss",
        "/openapi",
        "/openapi/v4",
        "",
        "apis",
    ] {
        let answer = answer_to("GET", &surface, path, "", &[]);
        assert!(answer.is_none(), "{path}");
    }
}

#[test]
fn other_methods() {
    let surface = surface(36, false);
    let answer = answer_to("POST", &surface, "/apis", "", &[]).unwrap();
    assert_eq!(answer.status, 405);
    assert_eq!(header(&answer, "Allow"), "GET");
    let unknown = answer_to("POST", &surface, "/apis/nothing", "", &[]).unwrap();
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_clone_that_is_changed_has_its_own_documents() {
    let surface = surface(36, false);
    let before = get(&surface, "/apis", &[("accept", V2)]);
    let mut clone = surface.clone();
    assert_eq!(surface, clone);
    clone.groups.pop();
    let after = get(&clone, "/apis", &[("accept", V2)]);
    assert_ne!(header(&before, "ETag"), header(&after, "ETag"));
}

fn with_widgets(minor: u8) -> Surface {
    surface(minor, false).with_custom(&[json!({
        "metadata": {"name": "widgets.test.example"},
        "spec": {
            "group": "test.example",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true}],
        },
        "status": {"conditions": [{"type": "Established", "status": "True"}]},
    })])
}

fn get(surface: &Surface, path: &str, headers: &[(&str, &str)]) -> Answer {
    answer_to("GET", surface, path, "", headers).unwrap()
}

fn answer_to(
    method: &str,
    surface: &Surface,
    path: &str,
    query: &str,
    headers: &[(&str, &str)],
) -> Option<Answer> {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    discovery::answer(surface, "192.0.2.1:6443", method, path, query, &headers)
}

fn header(answer: &Answer, name: &str) -> String {
    let found = answer.headers.iter().find(|header| header.0 == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {:?}", answer.headers))
        .1
        .clone()
}

/// All headers, as lines in the order of their names.
fn headers(answer: &Answer) -> Vec<String> {
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .map(|(name, value)| format!("{}: {value}", name.to_lowercase()))
        .collect();
    lines.sort();
    lines
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn sha512(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha512};
    Sha512::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}
