//! Objects over their whole life, seen through different servers of one control plane.
#![allow(clippy::unwrap_used)]

use crate::common::{Answer, Client, plane};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn named(name: &str, labels: Value) -> String {
    json!({"metadata": {"name": name, "labels": labels}, "data": {"k": name}}).to_string()
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
