//! Watches: from now, resumed, too late; and what a namespace's end looks like to one.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::common::{Client, plane};
use http_body_util::BodyExt;
use hyper::body::Incoming;
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
