//! The clients people use: kubectl and the kube crate.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use crate::common::plane;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
        WatchEvent, WatchParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
    discovery::Discovery,
};
use mvp_tests::kubectl::Kubectl;
use mvp_tests::sim::{ControlPlane, pki::KubeconfigUser};

/// kubectl of the administrator, talking to the first server.
fn kubectl_of(plane: &ControlPlane) -> Option<Kubectl> {
    let admin = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let kubeconfig = plane
        .kubeconfig("kubectl.kubeconfig", &plane.server(0).url(), &admin)
        .unwrap();
    Kubectl::find(&kubeconfig)
}

const MAP: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\n  namespace: default\ndata:\n  k: v1\n";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reads_and_writes() {
    let plane = plane(&[36]).await;
    let Some(kubectl) = kubectl_of(&plane) else {
        return;
    };
    let done = tokio::task::spawn_blocking(move || {
        let created = kubectl.run(&["create", "-f", "-"], MAP);
        assert_eq!(created, "configmap/m created\n");
        assert!(kubectl.run(&["get", "configmaps"], "").contains("NAME"));
        assert_eq!(
            kubectl.run(&["get", "configmap", "m", "-o", "jsonpath={.data.k}"], ""),
            "v1"
        );
        let missing = kubectl.output(&["get", "configmap", "nope"], "");
        let text = String::from_utf8_lossy(&missing.stderr);
        assert_eq!(
            text,
            "Error from server (NotFound): configmaps \"nope\" not found\n"
        );

        let changed = MAP
            .replace("v1\n", "v2\n")
            .replace("apiVersion: v2", "apiVersion: v1");
        assert_eq!(
            kubectl.run(&["apply", "-f", "-"], &changed),
            "configmap/m configured\n"
        );
        assert_eq!(
            kubectl.run(&["apply", "-f", "-"], &changed),
            "configmap/m unchanged\n"
        );
        let server_side = kubectl.run(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            MAP,
        );
        assert_eq!(server_side, "configmap/m serverside-applied\n");
        assert_eq!(
            kubectl.run(&["get", "configmap", "m", "-o", "jsonpath={.data.k}"], ""),
            "v1"
        );
        assert_eq!(
            kubectl.run(&["annotate", "configmap", "m", "a=b"], ""),
            "configmap/m annotated\n"
        );

        let resources = kubectl.run(&["api-resources"], "");
        assert!(
            resources
                .lines()
                .any(|line| line.starts_with("mutatingadmissionpolicies ")),
            "{resources}"
        );
        let versions = kubectl.run(&["api-versions"], "");
        assert!(versions.lines().any(|line| line == "apps/v1"), "{versions}");
        assert!(
            kubectl
                .run(&["version"], "")
                .contains("Server Version: v1.36.3")
        );
        assert!(
            kubectl
                .run(&["auth", "whoami"], "")
                .contains("kubernetes-admin")
        );
        assert_eq!(
            kubectl.run(&["auth", "can-i", "delete", "pods"], ""),
            "yes\n"
        );

        assert_eq!(
            kubectl.run(&["delete", "configmap", "m"], ""),
            "configmap \"m\" deleted\n"
        );
        kubectl.run(&["create", "namespace", "n"], "");
        kubectl.run(&["delete", "namespace", "n"], "");
        assert!(
            !kubectl
                .run(&["get", "namespaces", "-o", "name"], "")
                .contains("namespace/n\n")
        );
    });
    done.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches() {
    let plane = plane(&[35]).await;
    let Some(kubectl) = kubectl_of(&plane) else {
        return;
    };
    let done = tokio::task::spawn_blocking(move || {
        kubectl.run(&["create", "-f", "-"], MAP);
        let mut watch = kubectl.command(&["get", "configmaps", "-w", "-o", "name"]);
        let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "configmap/m");
        kubectl.run(
            &["create", "-f", "-"],
            &MAP.replace("name: m", "name: later"),
        );
        assert_eq!(lines.next().unwrap().unwrap(), "configmap/later");
        watch.kill().unwrap();
        watch.wait().unwrap();
    });
    done.await.unwrap();
}

async fn client(plane: &ControlPlane, server: usize) -> Client {
    let admin = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let path = plane
        .kubeconfig("kube.kubeconfig", &plane.server(server).url(), &admin)
        .unwrap();
    let kubeconfig = Kubeconfig::read_from(Path::new(&path)).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn kube_crate() {
    let plane = plane(&[36]).await;
    let client = client(&plane, 0).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut map = ConfigMap::default();
    map.metadata.name = Some("m".into());
    map.data = Some([("k".to_owned(), "v".to_owned())].into());
    let created = maps.create(&PostParams::default(), &map).await.unwrap();
    assert_eq!(maps.get("m").await.unwrap(), created);
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);

    let version = list.metadata.resource_version.unwrap();
    let mut watch = maps
        .watch(&WatchParams::default(), &version)
        .await
        .unwrap()
        .boxed();
    let apply = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "w"}});
    maps.patch("m", &PatchParams::apply("test"), &Patch::Apply(&apply))
        .await
        .unwrap();
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    match watch.try_next().await.unwrap() {
        Some(WatchEvent::Modified(map)) => assert_eq!(map.data.unwrap()["k"], "w"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        watch.try_next().await.unwrap(),
        Some(WatchEvent::Deleted(_))
    ));
    let missing = maps.get_opt("m").await.unwrap();
    assert!(missing.is_none());

    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let group = discovery.get("admissionregistration.k8s.io").unwrap();
    let (resource, _) = group.recommended_kind("MutatingAdmissionPolicy").unwrap();
    let policies: Api<DynamicObject> = Api::all_with(client, &resource);
    assert_eq!(
        policies
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
    let policy = DynamicObject::new("p", &ApiResource { ..resource });
    policies
        .create(&PostParams::default(), &policy)
        .await
        .unwrap();
    assert_eq!(
        policies.get("p").await.unwrap().metadata.name.as_deref(),
        Some("p")
    );
}
