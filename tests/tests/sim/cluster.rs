//! What servers tell each other and their clients: identity, addresses, custom resources.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::common::Client;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::json;

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
