//! The only server of a type restarts: discovery goes on as before, and requests for the type are to be repeated later.

use http::Method;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Answer;
use mvp_tests::facts::{self, V2, assert_well_formed};
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, SOON, admin, patient, plane, policy};
use mvp_tests::pair::{Case, Pairs, Protocol};
use serde_json::Value;

/// A group that only cp-b has.
const ONLY_GROUP: &str = "resource.k8s.io";

/// The version of it, how fresh it is called, and its resources.
fn only(answer: &Answer) -> Option<(Value, Value)> {
    let groups = answer.json();
    let groups = groups["items"].as_array().unwrap();
    let group = groups
        .iter()
        .find(|group| group["metadata"]["name"] == ONLY_GROUP)?;
    let versions = group["versions"].as_array().unwrap();
    let v1 = versions.iter().find(|version| version["version"] == "v1")?;
    Some((v1["freshness"].clone(), v1["resources"].clone()))
}

#[tokio::test]
async fn a_restart_is_no_discovery_error() {
    let plane = plane(&[33, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let clients = [
        agent.http1(&plane, admin(&plane)).await.unwrap(),
        agent.http2(&plane, admin(&plane)).await.unwrap(),
    ];
    // In each form, over each protocol.
    let documents = async || {
        let mut documents = Vec::new();
        for client in &clients {
            for (path, accept) in [
                ("/apis", V2),
                ("/apis", "application/json"),
                ("/apis/admissionregistration.k8s.io/v1", "application/json"),
                ("/openapi/v3", "application/json"),
            ] {
                let answer = client.get(path, &[("accept", accept)]).await.unwrap();
                assert_eq!(answer.status, 200, "{path}: {}", answer.text());
                documents.push(answer);
            }
        }
        documents
    };
    let before = documents().await;
    let listed = only(&before[0]).unwrap();
    assert_eq!(listed.0, "Current");
    plane.server(1).kill().await;
    eventually("the server is missed", SOON, || async {
        let answer = clients[1].get(ONLY_36, &[]).await?;
        Ok(answer.status == 503 && answer.headers.contains_key("retry-after"))
    })
    .await
    .unwrap();
    eventually("its poller knows as well", SOON, || async {
        let servers = agent.admin_get("/servers").await?.1;
        Ok(servers.contains("\"down\"") || servers.contains("\"stale\""))
    })
    .await
    .unwrap();
    let during = documents().await;
    for (during, before) in during.iter().zip(&before) {
        assert_eq!(during.json(), before.json());
        if during.json()["kind"] == "APIGroupDiscoveryList" {
            assert_eq!(only(during), Some(listed.clone()));
            assert_well_formed(&during.json());
        }
        assert!(!facts::of(during).unwrap().is_empty());
    }
    // Requests for the type are repeated later; the type is not taken for a missing one, and no client acts on that.
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    let auth = admin(&plane);
    let one = format!("{ONLY_36}/one");
    let watch = format!("{ONLY_36}?watch=true");
    let resource = format!("/apis/{ONLY_GROUP}/v1/deviceclasses");
    for protocol in Protocol::BOTH {
        for (method, target) in [
            (Method::GET, ONLY_36),
            (Method::HEAD, ONLY_36),
            (Method::GET, &one),
            (Method::GET, &watch),
            (Method::POST, ONLY_36),
            (Method::DELETE, &one),
            (Method::DELETE, ONLY_36),
            (Method::GET, &resource),
            (Method::GET, "/apis/resource.k8s.io/v1"),
            (Method::GET, "/openapi/v3/apis/resource.k8s.io/v1"),
        ] {
            let case = match method {
                Method::POST => Case::new(&auth, method, target)
                    .body("application/json", policy("one").to_string()),
                _ => Case::new(&auth, method, target),
            };
            let told = pairs.through(&case, protocol).await.unwrap();
            assert_eq!(told.status, 503, "{case} over {protocol:?}: {}", told.body);
            assert_eq!(
                told.headers["retry-after"],
                ["1"],
                "{case} over {protocol:?}"
            );
            assert_eq!(told.received, [], "{case} over {protocol:?}");
            assert!(told.goes_on, "{case} over {protocol:?}");
            if case.method != Method::HEAD {
                let status: Value = serde_json::from_str(&told.body).unwrap();
                assert_eq!(status["reason"], "ServiceUnavailable", "{case}");
                assert_eq!(status["details"]["retryAfterSeconds"], 1, "{case}");
            }
        }
    }
    // Everything else is as ever.
    pairs.same(&Case::get(&auth, CONFIG_MAPS), 200, 1).await;
    pairs.same(&Case::get(&auth, "/apis/apps/v1"), 200, 1).await;
    plane.server(1).start().await.unwrap();
    for client in &clients {
        eventually("it serves again", SOON, || async {
            Ok(client.get(ONLY_36, &[]).await?.status == 200)
        })
        .await
        .unwrap();
    }
}
