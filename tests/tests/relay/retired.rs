//! Relayed connections end once a condition ceases, and nobody hears a false 404 after that.

use std::time::Duration;

use crate::common::{
    AFTER, decisions, inspected_because, last, mixed, open, relayed, relaying, retired, tls,
};
use http::Method;
use mvp::config::{Config, InspectMode};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Client, NAME, full};
use mvp_tests::fixtures::{
    CONFIG_MAPS, DEFINITIONS, NEVER, ONLY_36, SOON, admin, definition, direct, plane, received,
    spec,
};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::api::authn;
use serde_json::{Value, json};

const THINGS: &str = "/apis/relay.example.com/v1/namespaces/default/things";

#[tokio::test]
async fn a_server_that_is_no_superset_any_more() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 35))
        .server(spec(b'b', 36).crd_delay(NEVER))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", relaying)
        .await
        .unwrap();
    let client = relayed(&plane, &agent).await;
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
    // cp-b does not come to serve it.
    let cp_a = direct(&plane, plane.server(0)).await;
    let crd = definition("relay.example.com", "things", "Thing", json!({}));
    let made = cp_a.post_json(DEFINITIONS, &[], &crd).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    eventually("the silent connection is retired", SOON, || async {
        Ok(retired(&agent, "not_superset").await? == 1.0)
    })
    .await
    .unwrap();
    assert!(client.get(CONFIG_MAPS, &[]).await.is_err());
    let next = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(next.get(THINGS, &[]).await.unwrap().status, 200);
    assert_eq!(next.get(ONLY_36, &[]).await.unwrap().status, 200);
    assert_eq!(open(&agent, "cp-b").await.unwrap(), 0.0);
}

#[tokio::test]
async fn a_server_that_loses_a_verb_is_left_at_once() {
    // cp-a does not follow what becomes of a definition; a restart makes it know that there is one.
    let plane = ControlPlane::builder()
        .server(spec(b'a', 35).crd_delay(NEVER))
        .server(spec(b'b', 36))
        .start()
        .await
        .unwrap();
    let cp_b = direct(&plane, plane.server(1)).await;
    let crd = definition("relay.example.com", "things", "Thing", json!({}));
    let made = cp_b.post_json(DEFINITIONS, &[], &crd).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    plane.server(0).restart(35).await.unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", relaying)
        .await
        .unwrap();
    let client = relayed(&plane, &agent).await;
    eventually("cp-b serves it", SOON, || async {
        Ok(client.get(THINGS, &[]).await?.status == 200)
    })
    .await
    .unwrap();
    // A definition that is being deleted is served without create, update and patch.
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let patch = json!({"status": {"conditions": [condition("NamesAccepted"), condition("Established"), condition("Terminating")]}});
    let status = format!("{DEFINITIONS}/things.relay.example.com/status");
    let headers = [("content-type", "application/merge-patch+json")];
    let patched = cp_b
        .call(Method::PATCH, &status, &headers, full(patch.to_string()))
        .await
        .unwrap();
    assert_eq!(patched.status, 200, "{}", patched.text());
    // It is never silent for long, and ended all the same.
    eventually("the busy connection is ended", SOON, || async {
        let _ = client.get(CONFIG_MAPS, &[]).await;
        Ok(retired(&agent, "lost_key").await? == 1.0)
    })
    .await
    .unwrap();
    let next = agent.http2(&plane, admin(&plane)).await.unwrap();
    let thing =
        json!({"apiVersion": "relay.example.com/v1", "kind": "Thing", "metadata": {"name": "t"}});
    let answer = next.post_json(THINGS, &[], &thing).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(received(plane.server(0), THINGS), 1);
}

#[tokio::test]
async fn a_local_server_that_catches_up_takes_its_clients_back() {
    let (plane, agent) = mixed(|_| {}).await;
    let _client = relayed(&plane, &agent).await;
    plane.server(0).restart(36).await.unwrap();
    eventually("the silent connection is retired", SOON, || async {
        Ok(retired(&agent, "local_suffices").await? == 1.0)
    })
    .await
    .unwrap();
    let next = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(next.get(ONLY_36, &[]).await.unwrap().status, 200);
    assert_eq!(
        last(plane.server(0), ONLY_36).how,
        Some(authn::Method::FrontProxy)
    );
}

#[tokio::test]
async fn a_drain_ends_the_silent_ones_before_its_deadline() {
    let (plane, agent) = mixed(|config| config.drain.deadline = NEVER).await;
    let client = relayed(&plane, &agent).await;
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
    agent.drain();
    // It ends with its last connection, an hour before the deadline.
    eventually("the agent has ended", SOON, || async {
        Ok(agent.admin_get("/readyz").await.is_err())
    })
    .await
    .unwrap();
    assert!(client.get(CONFIG_MAPS, &[]).await.is_err());
}

#[tokio::test]
async fn a_drains_deadline_ends_the_busy_ones() {
    let (plane, agent) = mixed(|config| config.drain.deadline = Duration::from_millis(300)).await;
    let client = relayed(&plane, &agent).await;
    agent.drain();
    eventually("the busy connection is cut", SOON, || async {
        Ok(client.get(CONFIG_MAPS, &[]).await.is_err())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn that_the_local_server_is_down_makes_nobody_relayed() {
    let plane = plane(&[36, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", relaying)
        .await
        .unwrap();
    let first = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(first.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    assert_eq!(received(plane.server(0), CONFIG_MAPS), 1);
    plane.server(0).kill().await;
    let tls = tls(&plane, admin(&plane));
    eventually("requests are forwarded", SOON, || async {
        Ok(first.get(CONFIG_MAPS, &[]).await?.status == 200)
    })
    .await
    .unwrap();
    // Far more than make a client hot, over as many connections.
    for _ in 0..3 * AFTER {
        let client = Client::http2_naming(agent.address, &tls, NAME)
            .await
            .unwrap();
        let answer = client.get(CONFIG_MAPS, &[]).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    assert_eq!(decisions(&agent, "relayed").await.unwrap(), 0.0);
    assert_eq!(agent.metric("mvp_relay_asked_total").await.unwrap(), 0.0);
    // A probe by name is about the server that is down.
    let prober = Client::http2_naming(agent.address, &tls, NAME)
        .await
        .unwrap();
    assert_eq!(prober.get("/readyz", &[]).await.unwrap().status, 503);
    let of_client = |request: &&std::sync::Arc<mvp_tests::sim::Recorded>| {
        let user = request.user.as_ref();
        request.target == "/readyz" && user.is_some_and(|user| user.name == "kubernetes-admin")
    };
    assert_eq!(
        plane.server(1).requests().iter().filter(of_client).count(),
        0
    );
}

#[tokio::test]
async fn who_asks_about_this_server_is_not_relayed() {
    let (plane, agent) = mixed(|_| {}).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get("/version", &[]).await.unwrap().status, 200);
    let tls = tls(&plane, admin(&plane));
    inspected_because(&agent, &tls, NAME, "asks_about_server").await;
    let address = "/explain?connection=127.0.0.1&serverName=kubernetes";
    let explained = agent.admin_get(address).await.unwrap().1;
    assert!(explained.contains("asks_about_server"), "{explained}");
    let probe = agent.admin_get("/explain?path=/readyz").await.unwrap().1;
    assert!(probe.contains("cp-a"), "{probe}");
}

async fn passes(agent: &TestAgent) -> anyhow::Result<String> {
    let status: Value = serde_json::from_str(&agent.admin_get("/status").await?.1)?;
    Ok(status["passThrough"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn passed_through_until_there_is_something_to_inspect() {
    let plane = plane(&[36, 36]).await;
    let start = async |settle| {
        let change = |config: &mut Config| {
            relaying(config);
            config.inspect.mode = InspectMode::Auto;
            config.kernel.settle = settle;
        };
        TestAgent::start_with(&plane, "cp-a", change).await.unwrap()
    };
    let unsettled = start(NEVER).await;
    assert_eq!(passes(&unsettled).await.unwrap(), "off: the guard is armed");
    drop(unsettled);
    let agent = start(Duration::from_secs(1)).await;
    eventually("connections pass", SOON, || async {
        Ok(passes(&agent).await? == "on: nothing is mixed")
    })
    .await
    .unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    let how = || last(plane.server(0), CONFIG_MAPS).how;
    assert_eq!(how(), Some(authn::Method::Certificate));
    assert_eq!(open(&agent, "cp-a").await.unwrap(), 1.0);

    // The other server leaves: the first sign of an upgrade.
    plane.server(1).kill().await;
    eventually("connections are inspected", SOON, || async {
        Ok(passes(&agent).await? == "off: the guard is armed")
    })
    .await
    .unwrap();
    let next = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(next.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    assert_eq!(how(), Some(authn::Method::FrontProxy));
    eventually("the silent connection is retired", SOON, || async {
        Ok(retired(&agent, "inspection_needed").await? == 1.0)
    })
    .await
    .unwrap();
    assert!(client.get(CONFIG_MAPS, &[]).await.is_err());
}

/// A client would notice: it trusts the agent's certificate, and perhaps not the server's.
#[tokio::test]
async fn nothing_passes_to_a_server_with_another_certificate() {
    let plane = plane(&[36, 36]).await;
    plane.pki().issue_server("other", &[NAME]).unwrap();
    let other = |file: &str| plane.pki().path(&format!("other.{file}"));
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        relaying(config);
        config.inspect.mode = InspectMode::Auto;
        config.kernel.settle = Duration::from_secs(1);
        config.serving.cert_file = other("crt");
        config.serving.key_file = other("key");
    })
    .await
    .unwrap();
    eventually("the certificates were compared", SOON, || async {
        let line = passes(&agent).await?;
        Ok(line == "off: the local server shows another certificate than the agent")
    })
    .await
    .unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    let how = last(plane.server(0), CONFIG_MAPS).how;
    assert_eq!(how, Some(authn::Method::FrontProxy));
}
