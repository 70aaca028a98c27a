//! Law 1: what the agent's own polls are refused never arms the guard, and connected clients are asked to leave. On nodes with steering.

use mvp_tests::agent::{TestAgent, eventually as soon};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{SOON, admin};
use mvp_tests::scrape::Scrape;
use mvp_tests::sim::control::Command;
use mvp_tests::sim::pki::Pki;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::{Value, json};

use crate::common::{Agent, Cluster, eventually, on_nodes};

/// Polls that failed, each path of a round.
const FAILED: &str = "apiserver_peer_discovery_sync_errors_total{type=\"fetch_discovery\"}";

/// Two equal servers, and a guard that has gone idle. After `fault` the agent's polls of `cp-b` are refused, its status says `says`, and
/// the guard stays idle.
fn never_arms(name: &'static str, says: &'static str, fault: fn(&Cluster, &Agent)) {
    on_nodes(name, &[36, 36], move |cluster| {
        let ca = cluster.plane.pki().path("upstream-ca.crt");
        std::fs::copy(cluster.plane.pki().path("ca.crt"), &ca).unwrap();
        let agent = cluster.agent_with(&cluster.nodes[0], |config| {
            config["upstream"]["caFile"] = json!(ca);
            config["discovery"]["interval"] = "100ms".into();
        });
        agent.until("idle");
        let before = transitions(&agent);
        fault(&cluster, &agent);
        eventually("the refusal is said", || {
            error_of_peer(&agent).contains(says)
        });
        let failed = agent.metric(FAILED);
        eventually("it is refused many times", || {
            agent.metric(FAILED) >= failed + 20.0
        });
        let guard = agent.status()["guard"].clone();
        assert_eq!(guard["state"], "idle", "{name}: {guard}");
        assert_eq!(guard["standing"], json!([]), "{name}: {guard}");
        assert_eq!(transitions(&agent), before, "{name}: {guard}");
    });
}

/// Changes of the guard's state so far.
fn transitions(agent: &Agent) -> f64 {
    let (_, text) = agent.admin("GET", "/metrics").unwrap();
    let scrape = Scrape::parse(&text).unwrap();
    scrape.sum("mvp_guard_transitions_total")
}

/// The last error of `cp-b`.
fn error_of_peer(agent: &Agent) -> String {
    let status = agent.status();
    let mut servers = status["servers"].as_array().unwrap().iter();
    let server = servers.find(|server| server["name"] == "cp-b").unwrap();
    server["lastError"].to_string()
}

#[test]
fn a_401_of_our_own_polls_never_arms_the_guard() {
    never_arms("guard-401", "401", |cluster, _| {
        cluster.nodes[1].command(Command::RefuseFrontProxy { on: true });
    });
}

#[test]
fn a_403_of_our_own_polls_never_arms_the_guard() {
    never_arms("guard-403", "403", |cluster, _| {
        let mut policy = (*cluster.plane.policy()).clone();
        policy.without_discovery.push("system:mvp".to_owned());
        cluster.nodes[1].command(Command::Policy(policy));
    });
}

/// The file of CAs has been replaced by a wrong one, and a connection ends as any does in its time.
#[test]
fn a_certificate_that_does_not_verify_never_arms_the_guard() {
    never_arms("guard-tls", "certificate", |cluster, agent| {
        let pki = cluster.plane.pki();
        let other = Pki::generate(&pki.path("other")).unwrap();
        std::fs::write(pki.path("new"), other.read("ca.crt").unwrap()).unwrap();
        std::fs::rename(pki.path("new"), pki.path("upstream-ca.crt")).unwrap();
        // Before, a new connection is as good as the one before.
        eventually("the file is in use", || {
            agent.log().contains("reloaded key=\"upstream.caFile\"")
        });
        cluster.nodes[1].command(Command::Goaway);
    });
}

/// From a cold start: what a peer serves that refuses this agent cannot be known, and is no sign of an upgrade. `ends`: the server ends
/// each connection on which it answered 401, as real ones do.
async fn no_sign_from_the_start(ends: bool, fault: fn(&ControlPlane)) {
    let spec = |name: &str| match ends {
        true => ServerSpec::new(name, 36).ends_unauthenticated(),
        false => ServerSpec::new(name, 36),
    };
    let plane = ControlPlane::builder().servers(["cp-a", "cp-b"].map(spec));
    let plane = plane.start().await.unwrap();
    fault(&plane);
    // Rights are the same at both servers: if they are missing, the agent is not ready.
    let agent = TestAgent::start_unready(&plane, "cp-a", |_| {}).unwrap();
    soon(
        "no sign stands but that nothing is steered here",
        SOON,
        || async {
            let status: Value = serde_json::from_str(&agent.admin_get("/status").await?.1)?;
            let servers = status["servers"].as_array().unwrap();
            let peer = servers.iter().find(|one| one["name"] == "cp-b").unwrap();
            let standing = &status["guard"]["standing"];
            let failed = agent.metric(FAILED).await?;
            anyhow::ensure!(
                *standing == json!(["steering_off"]) && failed >= 8.0,
                "{standing} {failed} {peer}"
            );
            Ok(true)
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_peer_that_answers_401_from_the_start_is_no_sign() {
    no_sign_from_the_start(true, |plane| plane.server(1).refuse_front_proxy(true)).await;
}

#[tokio::test]
async fn a_peer_that_answers_403_from_the_start_is_no_sign() {
    no_sign_from_the_start(false, |plane| {
        let mut policy = (*plane.policy()).clone();
        policy.without_discovery.push("system:mvp".to_owned());
        plane.server(1).set_policy(policy);
    })
    .await;
}

/// What a refusal explains ends where nobody answers any more.
#[tokio::test]
async fn a_peer_that_refuses_and_then_dies_is_a_sign() {
    let spec = |name: &str| ServerSpec::new(name, 36).ends_unauthenticated();
    let plane = ControlPlane::builder().servers(["cp-a", "cp-b"].map(spec));
    let plane = plane.start().await.unwrap();
    plane.server(1).refuse_front_proxy(true);
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let standing = async || {
        let status: Value = serde_json::from_str(&agent.admin_get("/status").await?.1)?;
        anyhow::Ok(status["guard"]["standing"].to_string())
    };
    soon("no sign but one stands", SOON, || async {
        let failed = agent.metric(FAILED).await?;
        Ok(standing().await? == "[\"steering_off\"]" && failed >= 8.0)
    })
    .await
    .unwrap();
    plane.server(1).kill().await;
    soon("it is broken", SOON, || async {
        Ok(standing().await?.contains("server_broken"))
    })
    .await
    .unwrap();
}

/// GOAWAY over HTTP/2 is in `passing`.
#[test]
fn who_is_here_over_http1_is_told_to_leave() {
    on_nodes("leave-http1", &[35, 36], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent_with(node, |config| config["inspect"] = "always".into());
        let tls = cluster
            .plane
            .pki()
            .client_config(admin(&cluster.plane), &[]);
        let (tls, at) = (tls.unwrap().into(), node.at());
        let accepted = agent.accepted();
        let client = cluster
            .clients
            .on(async move { Client::http1(at, &tls).await });
        let client = std::sync::Arc::new(client.unwrap());
        let closes = || {
            let client = std::sync::Arc::clone(&client);
            let answer = async move { client.get("/version", &[]).await };
            let answer = cluster.clients.on(answer).expect("it was not told");
            answer
                .headers
                .get("connection")
                .is_some_and(|value| value == "close")
        };
        assert!(!closes());
        assert!(agent.accepted() > accepted, "it is inspected");
        node.command(Command::RefuseFrontProxy { on: true });
        eventually("an answer says that the connection closes", closes);
        // And it does come to kube-apiserver itself.
        eventually("the heartbeat is too old", || {
            let pinned = mvp::kernel::read_pinned(&cluster.bpffs.join(&node.name));
            !pinned.unwrap().guard.alive
        });
        let accepted = agent.accepted();
        let answer = cluster.get(&cluster.clients, node, "/version").unwrap();
        assert_eq!((answer.status.as_u16(), agent.accepted()), (200, accepted));
    });
}
