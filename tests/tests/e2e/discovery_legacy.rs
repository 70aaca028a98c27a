//! One view of the older forms of discovery and of OpenAPI; and where all servers agree, nothing is touched.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::HeaderMap;
use mvp_tests::client::Answer;
use mvp_tests::facts::{self, PROTOBUF, V2};
use mvp_tests::fixtures::spec;
use mvp_tests::fleet::Fleet;
use mvp_tests::sim::ServerSpec;
use serde_json::Value;

const POLICIES: &str = "admissionregistration.k8s.io/v1 mutatingadmissionpolicies list";

async fn all_apis() -> Fleet {
    Fleet::start([spec(b'a', 35), spec(b'b', 36)].map(ServerSpec::all_gates)).await
}

fn path_of(group_version: &str) -> String {
    match group_version.contains('/') {
        true => format!("/apis/{group_version}"),
        false => format!("/api/{group_version}"),
    }
}

#[tokio::test]
async fn legacy_documents_of_every_agent_are_the_union() {
    let fleet = all_apis().await;
    let mut paths = vec!["/apis".to_owned()];
    for group_version in fleet.group_versions().await.unwrap() {
        paths.push(path_of(&group_version));
        if let Some((group, _)) = group_version.split_once('/') {
            paths.push(format!("/apis/{group}"));
        }
    }
    paths.dedup();
    // The first is served by 1.35 only, the second by 1.36 only.
    for path in [
        "/apis/scheduling.k8s.io/v1alpha1",
        "/apis/scheduling.k8s.io/v1alpha2",
    ] {
        assert!(paths.iter().any(|one| one == path), "{path}");
    }
    for accept in ["application/json", PROTOBUF] {
        for path in &paths {
            for target in [path.clone(), format!("{path}/")] {
                let asked = [("accept", accept)];
                let union = fleet.union(&target, &asked).await.unwrap();
                let answers = fleet.ask_agents(&target, &asked).await.unwrap();
                for answer in &answers {
                    assert_eq!(facts::of(answer).unwrap(), union, "{target} as {accept}");
                    assert_eq!(
                        without_hashes(answer),
                        without_hashes(&answers[0]),
                        "{target} as {accept}"
                    );
                }
            }
        }
    }
}

/// Which version is stored differs between servers, and only their own documents say it.
fn without_hashes(answer: &Answer) -> Value {
    let mut document = facts::document(&answer.headers, &answer.body).unwrap();
    for resource in document["resources"].as_array_mut().into_iter().flatten() {
        resource
            .as_object_mut()
            .unwrap()
            .remove("storageVersionHash");
    }
    document
}

#[tokio::test]
async fn groups_prefer_the_first_version_in_kubernetes_order() {
    let fleet = all_apis().await;
    for answer in fleet.ask_agents("/apis", &[]).await.unwrap() {
        let list = answer.json();
        for group in list["groups"].as_array().unwrap() {
            assert_eq!(group["preferredVersion"], group["versions"][0], "{group}");
        }
        let scheduling = group(&list, "scheduling.k8s.io");
        let versions = scheduling["versions"].as_array().unwrap();
        let versions: Vec<_> = versions
            .iter()
            .map(|one| one["version"].as_str().unwrap())
            .collect();
        assert_eq!(versions, ["v1", "v1alpha2", "v1alpha1"]);
    }
}

fn group<'a>(list: &'a Value, name: &str) -> &'a Value {
    let groups = list["groups"].as_array().unwrap();
    groups.iter().find(|group| group["name"] == name).unwrap()
}

#[tokio::test]
async fn what_nobody_has_is_the_local_servers_404() {
    let fleet = all_apis().await;
    for path in [
        "/apis/nothing.example",
        "/apis/nothing.example/v1",
        "/apis/apps/v9/",
        "/api/v2",
    ] {
        let direct = fleet.ask_servers(path, &[]).await.unwrap();
        let through = fleet.ask_agents(path, &[]).await.unwrap();
        for (through, direct) in through.iter().zip(&direct) {
            assert_eq!(
                (through.status.as_u16(), &through.body),
                (404, &direct.body),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn the_root_of_the_core_group_names_the_local_servers_address() {
    let fleet = all_apis().await;
    for path in ["/api", "/api/"] {
        let direct = fleet.ask_servers(path, &[]).await.unwrap();
        let through = fleet.ask_agents(path, &[]).await.unwrap();
        for (through, direct) in through.iter().zip(&direct) {
            assert_eq!(through.body, direct.body);
        }
    }
}

#[tokio::test]
async fn openapi_v3_lists_and_has_the_documents_of_every_server() {
    let fleet = all_apis().await;
    let union = fleet.union("/openapi/v3", &[]).await.unwrap();
    let indexes = fleet.ask_agents("/openapi/v3", &[]).await.unwrap();
    let newest = fleet.servers[1]
        .get("/openapi/v3", &[])
        .await
        .unwrap()
        .json();
    for index in &indexes {
        assert_eq!(facts::of(index).unwrap(), union);
        assert_eq!(index.json(), indexes[0].json());
    }
    let index = indexes[0].json();
    for (path, only) in [
        ("apis/scheduling.k8s.io/v1alpha1", "workloads"),
        ("apis/scheduling.k8s.io/v1alpha2", "podgroups"),
        // Both have it, the newer one has more.
        (
            "apis/admissionregistration.k8s.io/v1",
            "mutatingadmissionpolicies",
        ),
        ("api/v1", "pods"),
    ] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap();
        if let Some(new) = newest["paths"][path]["serverRelativeURL"].as_str() {
            assert_eq!(url, new, "{path}");
        }
        let answers = fleet
            .ask_agents(url, &[("accept", "application/json")])
            .await
            .unwrap();
        for answer in &answers {
            assert_eq!(answer.status, 200, "{url}: {}", answer.text());
            assert_eq!(answer.headers["cache-control"], "public, immutable");
            assert_eq!(answer.body, answers[0].body);
            let document = answer.json();
            let paths = document["paths"].as_object().unwrap();
            assert!(paths.keys().any(|one| one.ends_with(only)), "{url}");
        }
        // A hash of yesterday leads to that of today.
        let wrong = format!("/openapi/v3/{path}?hash=0");
        for answer in fleet.ask_agents(&wrong, &[]).await.unwrap() {
            assert_eq!(
                (
                    answer.status.as_u16(),
                    answer.headers["location"].to_str().unwrap()
                ),
                (301, url)
            );
        }
    }
}

#[tokio::test]
async fn openapi_v2_is_the_newest_servers() {
    for minors in [[35, 36], [36, 35]] {
        let fleet = Fleet::start([spec(b'a', minors[0]), spec(b'b', minors[1])]).await;
        for coding in ["identity", "gzip"] {
            let asked = [("accept", "application/json"), ("accept-encoding", coding)];
            for answer in fleet.ask_agents("/openapi/v2", &asked).await.unwrap() {
                assert_eq!(answer.status, 200);
                let document = facts::document(&answer.headers, &answer.body).unwrap();
                assert_eq!(document["info"]["version"], "v1.36.0", "{minors:?}");
            }
        }
    }
}

/// All but what differs between any two answers.
fn comparable(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .filter(|(name, _)| {
            !["date", "audit-id", "expires", "last-modified"].contains(&name.as_str())
        })
        .collect();
    all.sort();
    all
}

fn assert_same(through: &Answer, direct: &Answer, what: &str) {
    assert_eq!(through.status, direct.status, "{what}");
    assert_eq!(through.body, direct.body, "{what}");
    assert_eq!(
        comparable(&through.headers),
        comparable(&direct.headers),
        "{what}"
    );
}

/// 1.34 and 1.35 have the same default surface.
#[tokio::test]
async fn where_all_servers_agree_the_local_answer_passes_byte_for_byte() {
    for minors in [[36, 36], [34, 35]] {
        let fleet = Fleet::start([spec(b'a', minors[0]), spec(b'b', minors[1])]).await;
        let protobuf = V2.replace("application/json", PROTOBUF);
        for path in [
            "/api",
            "/apis",
            "/apis/",
            "/apis/apps",
            "/apis/apps/v1",
            "/api/v1/",
            "/openapi/v3",
            "/apis/nothing.example",
            "/apis?pretty=true",
        ] {
            // These name the version of their server.
            if path == "/openapi/v3" && minors[0] != minors[1] {
                continue;
            }
            for accept in [
                V2,
                &protobuf,
                "application/json",
                "application/yaml",
                "text/html",
            ] {
                let asked = [("accept", accept), ("accept-encoding", "gzip")];
                let direct = fleet.ask_servers(path, &asked).await.unwrap();
                let through = fleet.ask_agents(path, &asked).await.unwrap();
                for (through, direct) in through.iter().zip(&direct) {
                    assert_same(through, direct, &format!("{minors:?} {path} with {accept}"));
                }
            }
        }
        let direct = fleet.servers[0]
            .get("/apis", &[("accept", V2)])
            .await
            .unwrap();
        let etag = direct.headers["etag"].to_str().unwrap();
        let known = [("accept", V2), ("if-none-match", etag)];
        for (through, direct) in fleet
            .ask_agents("/apis", &known)
            .await
            .unwrap()
            .iter()
            .zip(&fleet.ask_servers("/apis", &known).await.unwrap())
        {
            assert_same(through, direct, "304");
            assert_eq!(through.status, 304);
        }
    }
}

#[tokio::test]
async fn a_merged_document_needs_no_peer_that_answers() {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 36)]).await;
    fleet.plane.server(1).hang(true);
    let answer = fleet.clients[0]
        .get("/apis", &[("accept", V2)])
        .await
        .unwrap();
    fleet.plane.server(1).hang(false);
    assert!(facts::of(&answer).unwrap().contains(POLICIES));
}
