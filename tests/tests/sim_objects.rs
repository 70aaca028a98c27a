//! Objects over their whole life, seen through different servers of one control plane.

mod common;

use std::time::Duration;

use common::{Answer, Client, plane};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn named(name: &str, labels: Value) -> String {
    json!({"metadata": {"name": name, "labels": labels}, "data": {"k": name}}).to_string()
}

/// Reads watch lines as they come.
struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    async fn open(client: &Client, path: &str) -> Self {
        let response = client.open("GET", path, &[], "").await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        Self {
            body: response.into_body(),
            pending: Vec::new(),
        }
    }

    /// `None` at the end of the watch.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame())
                .await
                .unwrap()?;
            self.pending.extend(frame.unwrap().into_data().unwrap());
        }
    }

    async fn summary(&mut self) -> (String, String) {
        let event = self.next().await.unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&event["type"]),
            text(&event["object"]["metadata"]["name"]),
        )
    }
}

fn pair(change: &str, name: &str) -> (String, String) {
    (change.into(), name.into())
}

#[tokio::test]
async fn one_store_behind_all_servers() {
    let plane = plane(&[35, 36]).await;
    let (old, new) = (
        Client::admin(&plane, 0).await,
        Client::admin(&plane, 1).await,
    );
    let created = old.post(MAPS, &named("a", json!({}))).await.json();
    let read = new.get(&format!("{MAPS}/a")).await.json();
    assert_eq!(created, read);

    let mut next = read.clone();
    next["data"]["k"] = json!("changed");
    let json_type = [("content-type", "application/json")];
    let path = format!("{MAPS}/a");
    let updated = new
        .send("PUT", &path, &json_type, &next.to_string())
        .await
        .json();
    assert_ne!(
        updated["metadata"]["resourceVersion"],
        read["metadata"]["resourceVersion"]
    );
    let stale = old.send("PUT", &path, &json_type, &next.to_string()).await;
    assert_eq!(
        (stale.status.as_u16(), &stale.json()["reason"]),
        (409, &json!("Conflict"))
    );

    // Only the newer server has the type.
    let policies = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
    assert_eq!(new.get(policies).await.status.as_u16(), 200);
    assert_eq!(old.get(policies).await.status.as_u16(), 404);

    assert_eq!(
        old.send("DELETE", &path, &[], "").await.json()["status"],
        "Success"
    );
    assert_eq!(new.get(&path).await.status.as_u16(), 404);
    let generated = new
        .post(MAPS, r#"{"metadata":{"generateName":"g-"}}"#)
        .await
        .json();
    assert_eq!(generated["metadata"]["name"].as_str().unwrap().len(), 7);
    let nowhere = new
        .post("/api/v1/namespaces/nope/configmaps", &named("x", json!({})))
        .await
        .json();
    assert_eq!(nowhere["message"], "namespaces \"nope\" not found");
}

#[tokio::test]
async fn lists_select_and_page() {
    let plane = plane(&[36]).await;
    let admin = Client::admin(&plane, 0).await;
    for index in 0..5 {
        let parity = if index % 2 == 0 { "even" } else { "odd" };
        admin
            .post(
                MAPS,
                &named(&format!("m{index}"), json!({"parity": parity})),
            )
            .await;
    }
    let names = |answer: &Answer| -> Vec<String> {
        let list = answer.json();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = admin.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first.json()["metadata"]["remainingItemCount"], 3);
    let token = first.json()["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    let second = admin.get(&format!("{MAPS}?limit=9&continue={token}")).await;
    assert_eq!(names(&second), ["m2", "m3", "m4"]);
    assert_eq!(second.json()["metadata"]["continue"], Value::Null);
    assert_eq!(
        names(
            &admin
                .get(&format!("{MAPS}?labelSelector=parity%3Dodd"))
                .await
        ),
        ["m1", "m3"]
    );
    assert_eq!(
        names(
            &admin
                .get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm4"))
                .await
        ),
        ["m4"]
    );

    plane.store().compact().await.unwrap();
    admin.post(MAPS, &named("late", json!({}))).await;
    plane.store().compact().await.unwrap();
    let gone = admin.get(&format!("{MAPS}?limit=9&continue={token}")).await;
    assert_eq!(
        (gone.status.as_u16(), &gone.json()["reason"]),
        (410, &json!("Expired"))
    );

    let table = [(
        "accept",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )];
    let table = admin.send("GET", MAPS, &table, "").await.json();
    assert_eq!(table["rows"][0]["cells"][0], "late");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = [(
        "accept",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )];
    let partial = admin.send("GET", MAPS, &partial, "").await.json();
    assert_eq!(
        (&partial["kind"], &partial["items"][0]["data"]),
        (&json!("PartialObjectMetadataList"), &Value::Null)
    );
    let yaml = admin
        .send(
            "GET",
            &format!("{MAPS}/m0"),
            &[("accept", "application/yaml")],
            "",
        )
        .await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(
        yaml.text().starts_with("kind: ConfigMap\n"),
        "{}",
        yaml.text()
    );
}

#[tokio::test]
async fn watches_follow_resume_and_expire() {
    let plane = plane(&[35, 36]).await;
    let (writer, reader) = (
        Client::admin(&plane, 0).await,
        Client::admin(&plane, 1).await,
    );
    let first = writer
        .post(MAPS, &named("a", json!({"app": "x"})))
        .await
        .json();
    let version = first["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut fresh = Lines::open(&reader, &format!("{MAPS}?watch=true")).await;
    assert_eq!(fresh.summary().await, pair("ADDED", "a"));
    let selected = format!("{MAPS}?watch=true&labelSelector=app%3Dx&resourceVersion={version}");
    let mut selected = Lines::open(&reader, &selected).await;

    let merge = [("content-type", "application/merge-patch+json")];
    writer
        .send(
            "PATCH",
            &format!("{MAPS}/a"),
            &merge,
            r#"{"metadata":{"labels":{"app":"y"}}}"#,
        )
        .await;
    writer.post(MAPS, &named("b", json!({"app": "x"}))).await;
    writer.send("DELETE", &format!("{MAPS}/b"), &[], "").await;
    for expected in [
        pair("MODIFIED", "a"),
        pair("ADDED", "b"),
        pair("DELETED", "b"),
    ] {
        assert_eq!(fresh.summary().await, expected);
    }
    // An object that no longer matches is deleted to a watch with a selector.
    for expected in [
        pair("DELETED", "a"),
        pair("ADDED", "b"),
        pair("DELETED", "b"),
    ] {
        assert_eq!(selected.summary().await, expected);
    }

    let mut resumed = Lines::open(
        &reader,
        &format!("{MAPS}?watch=true&resourceVersion={version}&timeoutSeconds=1"),
    )
    .await;
    assert_eq!(resumed.summary().await, pair("MODIFIED", "a"));
    assert_eq!(resumed.summary().await.1, "b");
    assert_eq!(resumed.summary().await.0, "DELETED");
    assert!(resumed.next().await.is_none());

    plane.store().compact().await.unwrap();
    let mut expired = Lines::open(
        &reader,
        &format!("{MAPS}?watch=true&resourceVersion={version}"),
    )
    .await;
    let event = expired.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert!(expired.next().await.is_none());

    let streaming = "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let mut streaming = Lines::open(&reader, &format!("{MAPS}?{streaming}")).await;
    assert_eq!(streaming.summary().await, pair("ADDED", "a"));
    let bookmark = streaming.next().await.unwrap();
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
}

#[tokio::test]
async fn patches_apply_and_subresources() {
    let plane = plane(&[36]).await;
    let admin = Client::admin(&plane, 0).await;
    let kind = |kind| [("content-type", kind)];
    let apply = kind("application/apply-patch+yaml");
    let path = format!("{MAPS}/applied");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: applied\ndata:\n  a: '1'\n";
    let created = admin
        .send("PATCH", &format!("{path}?fieldManager=me"), &apply, yaml)
        .await;
    assert_eq!(created.status.as_u16(), 201, "{}", created.text());
    let merged = yaml.replace("a: '1'", "b: '2'");
    let merged = admin
        .send("PATCH", &format!("{path}?fieldManager=me"), &apply, &merged)
        .await;
    assert_eq!(merged.status.as_u16(), 200);
    assert_eq!(merged.json()["data"], json!({"a": "1", "b": "2"}));
    let entry = &merged.json()["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["manager"], &entry["operation"]),
        (&json!("me"), &json!("Apply"))
    );
    assert_eq!(
        admin
            .send("PATCH", &path, &apply, yaml)
            .await
            .status
            .as_u16(),
        422
    );

    let operations =
        r#"[{"op":"replace","path":"/data/a","value":"3"},{"op":"remove","path":"/data/b"}]"#;
    let patched = admin
        .send(
            "PATCH",
            &path,
            &kind("application/json-patch+json"),
            operations,
        )
        .await;
    assert_eq!(patched.json()["data"], json!({"a": "3"}));
    assert_eq!(
        admin
            .send("PATCH", &path, &kind("application/json"), "{}")
            .await
            .status
            .as_u16(),
        415
    );

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let body = r#"{"metadata":{"name":"d"},"spec":{"replicas":2},"status":{"replicas":9}}"#;
    let created = admin.post(deployments, body).await.json();
    assert_eq!(
        (&created["status"], &created["metadata"]["generation"]),
        (&Value::Null, &json!(1))
    );
    let merge = kind("application/merge-patch+json");
    let status = r#"{"spec":{"replicas":7},"status":{"replicas":1}}"#;
    let status = admin
        .send("PATCH", &format!("{deployments}/d/status"), &merge, status)
        .await
        .json();
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(2), &json!(1))
    );
    let scale = admin
        .send(
            "PATCH",
            &format!("{deployments}/d/scale"),
            &merge,
            r#"{"spec":{"replicas":5}}"#,
        )
        .await;
    assert_eq!(
        (&scale.json()["kind"], &scale.json()["spec"]["replicas"]),
        (&json!("Scale"), &json!(5))
    );
    let scaled = admin.get(&format!("{deployments}/d")).await.json();
    assert_eq!(
        (
            &scaled["spec"]["replicas"],
            &scaled["metadata"]["generation"]
        ),
        (&json!(5), &json!(2))
    );
}

#[tokio::test]
async fn namespaces_go_with_what_they_hold() {
    let plane = plane(&[36]).await;
    let admin = Client::admin(&plane, 0).await;
    let created = admin
        .post("/api/v1/namespaces", r#"{"metadata":{"name":"gone"}}"#)
        .await
        .json();
    assert_eq!(created["status"]["phase"], "Active");
    let held = r#"{"metadata":{"name":"held","finalizers":["example.org/f"]}}"#;
    admin.post("/api/v1/namespaces/gone/configmaps", held).await;
    admin
        .post(
            "/api/v1/namespaces/gone/secrets",
            r#"{"metadata":{"name":"s"}}"#,
        )
        .await;
    let mut watch = Lines::open(
        &admin,
        "/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Dgone",
    )
    .await;
    assert_eq!(watch.summary().await, pair("ADDED", "gone"));
    let deleted = admin
        .send("DELETE", "/api/v1/namespaces/gone", &[], "")
        .await
        .json();
    assert_eq!(deleted["status"]["phase"], "Terminating");
    assert_eq!(watch.summary().await, pair("MODIFIED", "gone"));
    let late = admin
        .post(
            "/api/v1/namespaces/gone/secrets",
            r#"{"metadata":{"name":"t"}}"#,
        )
        .await;
    assert_eq!(late.status.as_u16(), 403);
    let merge = [("content-type", "application/merge-patch+json")];
    let release = r#"{"metadata":{"finalizers":null}}"#;
    admin
        .send(
            "PATCH",
            "/api/v1/namespaces/gone/configmaps/held",
            &merge,
            release,
        )
        .await;
    assert_eq!(watch.summary().await, pair("DELETED", "gone"));
    assert_eq!(
        admin
            .get("/api/v1/namespaces/gone/secrets/s")
            .await
            .status
            .as_u16(),
        404
    );
}

#[tokio::test]
async fn definitions_are_served_with_each_servers_delay() {
    let (late, never) = (Duration::from_millis(50), Duration::from_secs(3600));
    let specs = [
        ServerSpec::new("a", 36),
        ServerSpec::new("b", 36).crd_delay(late),
        ServerSpec::new("c", 36).crd_delay(never),
    ];
    let plane = ControlPlane::builder()
        .servers(specs)
        .start()
        .await
        .unwrap();
    let (prompt, tardy) = (
        Client::admin(&plane, 0).await,
        Client::admin(&plane, 1).await,
    );
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}}],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let created = prompt.post(path, &definition.to_string()).await.json();
    assert_eq!(created["status"]["conditions"][1]["type"], "Established");
    let widgets = "/apis/example.org/v1/namespaces/default/widgets";
    assert_eq!(prompt.get(widgets).await.status.as_u16(), 200);
    let waiting = Client::admin(&plane, 2).await;
    assert_eq!(waiting.get(widgets).await.text(), "404 page not found\n");
    let widget = prompt
        .post(
            widgets,
            r#"{"apiVersion":"example.org/v1","kind":"Widget","metadata":{"name":"w"}}"#,
        )
        .await;
    assert_eq!(widget.status.as_u16(), 201);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while tardy.get(widgets).await.status.as_u16() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "never served");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        prompt
            .get("/apis/example.org/v1/namespaces/default/gadgets")
            .await
            .text(),
        "404 page not found\n"
    );
    prompt
        .send("DELETE", &format!("{path}/widgets.example.org"), &[], "")
        .await;
    assert_eq!(prompt.get(widgets).await.status.as_u16(), 404);
}

#[tokio::test]
async fn servers_make_themselves_known() {
    let specs = [
        ServerSpec::new("cp-0", 33).listen("127.0.0.2:0".parse().unwrap()),
        ServerSpec::new("cp-1", 36).listen("127.0.0.3:0".parse().unwrap()),
    ];
    let plane = ControlPlane::builder()
        .servers(specs)
        .start()
        .await
        .unwrap();
    let admin = Client::admin(&plane, 1).await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let lease = format!("{leases}/apiserver-4b2ufvnxx37ysfh3nqp2d5jthy");
    let first = admin.get(&lease).await.json();
    assert_eq!(
        first["metadata"]["labels"]["kubernetes.io/hostname"],
        "cp-0"
    );
    let selected =
        format!("{leases}?labelSelector=apiserver.kubernetes.io/identity%3Dkube-apiserver");
    assert_eq!(
        admin.get(&selected).await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dkubernetes";
    let addresses = async || -> Vec<String> {
        let list = admin.get(slices).await.json();
        let items = list["items"].as_array().unwrap().clone();
        let mut all: Vec<String> = items
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().unwrap())
            .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
            .collect();
        all.sort();
        all
    };
    assert_eq!(addresses().await, ["127.0.0.2", "127.0.0.3"]);
    plane.server(0).restart(36).await.unwrap();
    let second = admin.get(&lease).await.json();
    assert_ne!(
        first["spec"]["holderIdentity"],
        second["spec"]["holderIdentity"]
    );
    plane.server(0).stop().await.unwrap();
    assert_eq!(addresses().await, ["127.0.0.3"]);
    let trust = admin
        .get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication")
        .await
        .json();
    assert_eq!(
        trust["data"]["requestheader-allowed-names"],
        "[\"front-proxy-client\"]"
    );
}
