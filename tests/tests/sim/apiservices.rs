//! APIService objects of simulated servers, and definitions as metadata: what a client can follow instead of discovery.
#![allow(clippy::unwrap_used)]

use mvp_tests::fixtures::{DEFINITIONS, Events, definition, direct, plane, revision};
use serde_json::{Value, json};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const PARTIAL_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const PARTIAL: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    let items = list["items"].as_array().unwrap();
    items.iter().find(|item| item["metadata"]["name"] == name)
}

#[tokio::test]
async fn every_group_version_of_any_server_has_an_apiservice_and_watches_see_new_ones() {
    let plane = plane(&[33, 36]).await;
    let old = direct(&plane, plane.server(0)).await;
    let new = direct(&plane, plane.server(1)).await;
    let list = old.get(SERVICES, &[]).await.unwrap().json();
    assert_eq!(list["kind"], "APIServiceList");
    // Only 1.36 serves it, but all servers share the objects.
    let resource = named(&list, "v1.resource.k8s.io").unwrap();
    assert_eq!(
        resource["spec"],
        json!({"group": "resource.k8s.io", "groupPriorityMinimum": 16200, "version": "v1", "versionPriority": 21})
    );
    let label = "kube-aggregator.kubernetes.io/automanaged";
    assert_eq!(resource["metadata"]["labels"][label], "onstart");
    assert_eq!(resource["status"]["conditions"][0]["type"], "Available");
    let core = named(&list, "v1.").unwrap();
    assert_eq!(
        core["spec"],
        json!({"groupPriorityMinimum": 18000, "version": "v1", "versionPriority": 1})
    );

    let watch = format!("{SERVICES}?watch=true&resourceVersion={}", revision(&list));
    let mut events = Events::open(&old, &watch).await.unwrap();
    let widgets = definition("test.example", "widgets", "Widget", json!({}));
    let made = new.post_json(DEFINITIONS, &[], &widgets).await.unwrap();
    assert_eq!(made.status, 201);
    let added = events.next().await.unwrap().unwrap();
    assert_eq!(added["type"], "ADDED");
    assert_eq!(added["object"]["metadata"]["name"], "v1.test.example");
    assert_eq!(added["object"]["metadata"]["labels"][label], "true");
    assert_eq!(added["object"]["spec"]["groupPriorityMinimum"], 1000);
    assert_eq!(added["object"]["spec"]["versionPriority"], 100);
    let one = format!("{DEFINITIONS}/widgets.test.example");
    let body = mvp_tests::client::empty();
    let gone = new
        .call(http::Method::DELETE, &one, &[], body)
        .await
        .unwrap();
    assert_eq!(gone.status, 200);
    let deleted = events.next().await.unwrap().unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["metadata"]["name"], "v1.test.example");
}

#[tokio::test]
async fn definitions_can_be_followed_as_metadata() {
    let plane = plane(&[36]).await;
    let admin = direct(&plane, plane.server(0)).await;
    let list = admin
        .get(DEFINITIONS, &[("accept", PARTIAL_LIST)])
        .await
        .unwrap()
        .json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    let target = format!(
        "{DEFINITIONS}?watch=true&resourceVersion={}",
        revision(&list)
    );
    let request = admin
        .request(
            http::Method::GET,
            &target,
            &[("accept", PARTIAL)],
            mvp_tests::client::empty(),
        )
        .unwrap();
    let mut events = Events::of(admin.send(request).await.unwrap()).unwrap();
    let widgets = definition("test.example", "widgets", "Widget", json!({}));
    admin.post_json(DEFINITIONS, &[], &widgets).await.unwrap();
    let added = events.next().await.unwrap().unwrap();
    let object = &added["object"];
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert_eq!(object["metadata"]["name"], "widgets.test.example");
    assert!(object.get("spec").is_none() && object.get("status").is_none());
}
