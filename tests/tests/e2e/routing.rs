//! Who answers what: subresources, verbs, types that appear while everything runs, types that nobody has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use http::Method;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::full;
use mvp_tests::fixtures::{
    CONFIG_MAPS, DEFINITIONS, NEVER, NOWHERE, ONLY_36, SOON, client, config_map, definition,
    direct, patient, plane, received, spec, unpolled,
};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::discovery::Newest;
use serde_json::json;

/// The two shapes in which a kube-apiserver says that it has no such type.
const GROUP_UNKNOWN: &str = NOWHERE;
const RESOURCE_UNKNOWN: &str = "/api/v1/namespaces/default/widgets";

#[tokio::test]
async fn a_subresource_that_only_the_peer_has_is_served_by_the_peer() {
    // pods/resize is on by default since 1.33.
    let plane = plane(&[32, 33]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let created = client.post_json(pods, &[], &pod).await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(
        received(plane.server(0), pods),
        1,
        "the local server has pods"
    );
    let resize = "/api/v1/namespaces/default/pods/p/resize";
    let answer = client.get(resize, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["metadata"]["name"], "p");
    assert_eq!(
        (
            received(plane.server(0), resize),
            received(plane.server(1), resize)
        ),
        (0, 1)
    );
    let (_, explained) = agent
        .admin_get(&format!("/explain?method=GET&path={resize}"))
        .await
        .unwrap();
    assert!(explained.contains("subresource_on_peer"), "{explained}");
}

#[tokio::test]
async fn a_verb_that_only_the_peer_has_is_served_by_the_peer() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 36))
        .server(spec(b'b', 36).crd_delay(NEVER))
        .start()
        .await
        .unwrap();
    // A definition that is being deleted is served without create, update and patch. The late server still has all verbs.
    let cp_a = direct(&plane, plane.server(0)).await;
    let crd = definition("verbs.example.com", "things", "Thing", json!({}));
    let made = cp_a.post_json(DEFINITIONS, &[], &crd).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    plane.server(1).restart(36).await.unwrap();
    let status = format!("{DEFINITIONS}/things.verbs.example.com/status");
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let patch = json!({"status": {"conditions": [condition("NamesAccepted"), condition("Established"), condition("Terminating")]}});
    let headers = [("content-type", "application/merge-patch+json")];
    let patched = cp_a
        .call(Method::PATCH, &status, &headers, full(patch.to_string()))
        .await
        .unwrap();
    assert_eq!(patched.status, 200, "{}", patched.text());

    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let things = "/apis/verbs.example.com/v1/namespaces/default/things";
    let explain = format!("/explain?method=POST&path={things}");
    eventually("the peer alone has the verb", SOON, || async {
        Ok(agent.admin_get(&explain).await?.1.contains("verb_on_peer"))
    })
    .await
    .unwrap();
    let client = client(&plane, &agent).await;
    let thing =
        json!({"apiVersion": "verbs.example.com/v1", "kind": "Thing", "metadata": {"name": "t"}});
    let answer = client.post_json(things, &[], &thing).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(received(plane.server(1), things), 1);
    let listed = client.get(things, &[]).await.unwrap();
    assert_eq!(listed.status, 200, "{}", listed.text());
    assert_eq!(received(plane.server(0), things), 1, "reading stays local");
}

#[tokio::test]
async fn a_404_of_a_type_that_nobody_has_passes_unchanged_after_a_refresh() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let client = client(&plane, &agent).await;
    let cp_a = direct(&plane, plane.server(0)).await;
    for target in [
        GROUP_UNKNOWN,
        RESOURCE_UNKNOWN,
        "/apis/apps/v1/namespaces/default/deployments/x/widget",
    ] {
        for accept in [
            "application/json",
            "application/vnd.kubernetes.protobuf",
            "application/yaml",
        ] {
            let headers = [("accept", accept)];
            let through = client.get(target, &headers).await.unwrap();
            let itself = cp_a.get(target, &headers).await.unwrap();
            assert_eq!(through.status, 404, "{target} {accept}");
            assert_eq!(through.body, itself.body, "{target} {accept}");
            for name in ["content-type", "x-content-type-options", "cache-control"] {
                assert_eq!(
                    through.headers.get(name),
                    itself.headers.get(name),
                    "{target} {accept} {name}"
                );
            }
        }
    }
    let complete = agent
        .metric("mvp_discovery_refreshes_total{result=\"complete\"}")
        .await
        .unwrap();
    // One for each type at least; what was found is remembered for as long as nothing is heard.
    assert!(complete >= 3.0, "{complete}");
    // A missing object is no missing type: it passes at once.
    let missing = client
        .get(&format!("{CONFIG_MAPS}/none"), &[])
        .await
        .unwrap();
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["details"]["name"], "none");
    let still = agent
        .metric("mvp_discovery_refreshes_total{result=\"complete\"}")
        .await
        .unwrap();
    assert_eq!(still, complete);
}

#[tokio::test]
async fn a_definition_made_through_one_agent_is_usable_through_all_at_once() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 36))
        // Slower than any client.
        .server(spec(b'b', 36).crd_delay(NEVER))
        .server(spec(b'c', 36).crd_delay(NEVER))
        .start()
        .await
        .unwrap();
    let mut clients = Vec::new();
    let mut agents = Vec::new();
    for name in ["cp-a", "cp-b", "cp-c"] {
        // Nothing but the refresh of a request can make the new type known.
        let agent = TestAgent::start_with(&plane, name, unpolled);
        let agent = agent.await.unwrap();
        clients.push(client(&plane, &agent).await);
        agents.push(agent);
    }
    let cp_a = direct(&plane, plane.server(0)).await;
    for (round, maker) in clients.iter().enumerate() {
        let group = format!("group{round}.example.com");
        let crd = definition(&group, "things", "Thing", json!({}));
        // Definitions are the servers' own type: each agent sends it to its local server; only cp-a serves it at once.
        let made = maker.post_json(DEFINITIONS, &[], &crd).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        let things = format!("/apis/{group}/v1/namespaces/default/things");
        eventually("cp-a serves the new type", SOON, || async {
            Ok(cp_a.get(&things, &[]).await?.status == 200)
        })
        .await
        .unwrap();
        for user in &clients {
            let listed = user.get(&things, &[]).await.unwrap();
            assert_eq!(listed.status, 200, "{round}: {}", listed.text());
        }
        let thing = json!({"apiVersion": format!("{group}/v1"), "kind": "Thing", "metadata": {"name": "t"}});
        let answer = maker.post_json(&things, &[], &thing).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_create_of_a_type_just_defined_is_sent_on_with_its_body() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 36).crd_delay(NEVER))
        .server(spec(b'b', 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", unpolled);
    let agent = agent.await.unwrap();
    let cp_b = direct(&plane, plane.server(1)).await;
    let crd = definition("late.example.com", "things", "Thing", json!({}));
    assert_eq!(
        cp_b.post_json(DEFINITIONS, &[], &crd).await.unwrap().status,
        201
    );
    let client = client(&plane, &agent).await;
    let things = "/apis/late.example.com/v1/namespaces/default/things";
    let thing = json!({"apiVersion": "late.example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"x": 1}});
    let answer = client.post_json(things, &[], &thing).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.json()["spec"]["x"], 1);
}

#[tokio::test]
async fn a_storm_of_unknown_types_costs_few_polls() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", unpolled);
    let agent = agent.await.unwrap();
    let client = client(&plane, &agent).await;
    let polls = |index: usize| received(plane.server(index), "/apis");
    let before = [polls(0), polls(1)];
    let storm = std::time::Instant::now();
    let targets: Vec<String> = (0..400).map(|i| format!("{NOWHERE}{i}")).collect();
    let requests = targets.iter().map(|target| client.get(target, &[]));
    let answers = futures_util::future::join_all(requests).await;
    let spent = storm.elapsed();
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().unwrap().status == 404)
    );
    // At most one refresh in 100 ms, and the two at the ends.
    let most = spent.as_millis() as usize / 100 + 2;
    for (index, before) in before.into_iter().enumerate() {
        let cost = polls(index) - before;
        assert!(
            (1..=most).contains(&cost),
            "{cost} polls of server {index} in {spent:?}"
        );
    }
}

#[tokio::test]
async fn a_capable_server_that_is_down_gives_503_with_retry_after() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
    plane.server(1).kill().await;
    for _ in 0..3 {
        let answer = client.get(ONLY_36, &[]).await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.headers.contains_key("retry-after"));
        let status = answer.json();
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["reason"], "ServiceUnavailable");
        assert_eq!(status["code"], 503);
        assert!(status["details"]["retryAfterSeconds"].as_u64().unwrap() >= 1);
    }
    // Its set is known and it serves nothing now: a type that nobody had may be denied.
    eventually("the 404 passes", SOON, || async {
        Ok(client.get(NOWHERE, &[]).await?.status == 404)
    })
    .await
    .unwrap();
    // Back again: used without a restart of the agent.
    plane.server(1).start().await.unwrap();
    eventually("the peer is used again", SOON, || async {
        Ok(client.get(ONLY_36, &[]).await?.status == 200)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_silent_server_makes_unknown_types_503_and_never_404() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.discovery.timeout = Duration::from_secs(1);
    });
    let agent = agent.await.unwrap();
    let client = client(&plane, &agent).await;
    plane.server(1).hang(true);
    for target in [GROUP_UNKNOWN, RESOURCE_UNKNOWN] {
        for _ in 0..3 {
            let answer = client.get(target, &[]).await.unwrap();
            // Before the poller's deadline the knowledge is still the last confirmed one; what counts is that the refresh did
            // not succeed.
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert!(answer.headers.contains_key("retry-after"));
            assert_eq!(answer.json()["reason"], "ServiceUnavailable");
        }
    }
    // Other requests are not disturbed.
    assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    plane.server(1).hang(false);
    eventually("the 404 is believed again", SOON, || async {
        Ok(client.get(NOWHERE, &[]).await?.status == 404)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn old_discovery_is_understood() {
    for newest in [Newest::V2, Newest::V2beta1, Newest::Legacy] {
        let plane = ControlPlane::builder()
            .server(spec(b'a', 36))
            .server(spec(b'b', 31).discovery(newest))
            .start()
            .await
            .unwrap();
        let agent = TestAgent::start_with(&plane, "cp-a", patient)
            .await
            .unwrap();
        let client = client(&plane, &agent).await;
        // Gone in 1.32.
        let schemas = "/apis/flowcontrol.apiserver.k8s.io/v1beta3/flowschemas";
        let answer = client.get(schemas, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{newest:?} {}", answer.text());
        assert_eq!(received(plane.server(1), schemas), 1);
        assert_eq!(received(plane.server(0), schemas), 0, "{newest:?}");
        assert_eq!(client.get(NOWHERE, &[]).await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn a_local_server_of_legacy_discovery_is_understood() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 31).discovery(Newest::Legacy))
        .server(spec(b'b', 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let client = client(&plane, &agent).await;
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
    let made = client
        .post_json(CONFIG_MAPS, &[], &config_map("m"))
        .await
        .unwrap();
    assert_eq!(made.status, 201);
    assert_eq!(received(plane.server(0), CONFIG_MAPS), 1);
}
