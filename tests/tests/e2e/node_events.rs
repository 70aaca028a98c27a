//! Events on the Node object: with the rights of `deploy/rbac.yaml`, seen by whoever looks at the node, and no flood of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use mvp::admin::StatusView;
use mvp::config::{InspectMode, KubernetesPeers};
use mvp::history::{HistoryView, Kind};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{SOON, direct, patient};
use mvp_tests::ports::free_on;
use mvp_tests::rbac;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::Value;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// Servers `cp-a` and `cp-b` on one port, as on real nodes: a slice has one port for all.
async fn plane() -> ControlPlane {
    let hosts = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
    let port = free_on(&hosts).unwrap();
    let specs = hosts.iter().zip(["cp-a", "cp-b"]);
    let specs =
        specs.map(|(host, name)| ServerSpec::new(name, 36).listen(SocketAddr::new(*host, port)));
    let plane = ControlPlane::builder().nodes().servers(specs);
    plane.start().await.unwrap()
}

async fn agent(plane: &ControlPlane) -> TestAgent {
    TestAgent::start_with(plane, "cp-a", |config| {
        patient(config);
        config.peers.fixed.clear();
        config.peers.kubernetes = KubernetesPeers {
            enabled: true,
            kubeconfig: None,
        };
        config.inspect.mode = InspectMode::Auto;
        config.kernel.settle = Duration::from_millis(200);
    })
    .await
    .unwrap()
}

/// What `kubectl get events` shows of the Node, by reason.
async fn events(plane: &ControlPlane) -> anyhow::Result<Vec<Value>> {
    let answer = direct(plane, plane.server(0))
        .await
        .get(EVENTS, &[])
        .await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text());
    Ok(answer.json()["items"]
        .as_array()
        .cloned()
        .unwrap_or_default())
}

/// The event of this reason and action, once it is there.
async fn until(plane: &ControlPlane, reason: &str, action: &str) -> Value {
    let found = Mutex::new(Value::Null);
    eventually(reason, SOON, || async {
        let events = events(plane).await?;
        let mut of = events.iter();
        let event = of.find(|event| event["reason"] == reason && event["action"] == action);
        *found.lock().unwrap() = event.cloned().unwrap_or_default();
        anyhow::ensure!(event.is_some(), "{events:?}");
        Ok(true)
    })
    .await
    .unwrap();
    found.into_inner().unwrap()
}

#[tokio::test]
async fn the_node_says_when_its_guard_changes_and_no_more_often_than_one_reads() {
    let plane = plane().await;
    rbac::apply(&plane).unwrap();
    let agent = agent(&plane).await;
    // The agent looks at itself twice per second: what came and went in between is no event.
    let noted = |kind: Kind, times: usize| {
        let agent = &agent;
        async move {
            eventually("it is noted", SOON, || async {
                let (_, history) = agent.admin_get("/history").await?;
                let history: HistoryView = serde_json::from_str(&history)?;
                let events = history.events.iter();
                Ok(events.filter(|event| event.kind == kind).count() >= times)
            })
            .await
            .unwrap();
        }
    };
    agent.operate("POST", "/arm").await.unwrap();
    let armed = until(&plane, "UpgradeSigns", "operator_armed").await;
    let regarding = &armed["regarding"];
    assert_eq!(
        (regarding["kind"].as_str(), regarding["name"].as_str()),
        (Some("Node"), Some("cp-a"))
    );
    assert_eq!(
        regarding["uid"], "cp-a",
        "kubectl describe node looks for this"
    );
    assert_eq!(armed["reportingController"], "mvp");
    assert_eq!(armed["type"], "Normal");
    assert!(
        armed["note"].as_str().unwrap().contains("operator_armed"),
        "{armed}"
    );
    agent.operate("POST", "/auto").await.unwrap();
    until(&plane, "NoUpgradeSigns", "settled").await;
    // Again and again: one object of each reason, which counts, and what it says last is true.
    for times in 2..=4 {
        agent.operate("POST", "/arm").await.unwrap();
        noted(Kind::GuardArmed, times).await;
        agent.operate("POST", "/auto").await.unwrap();
        noted(Kind::GuardIdle, times).await;
    }
    eventually("it is counted", SOON, || async {
        let events = events(&plane).await?;
        let of = |action: &str| -> Vec<_> {
            let of = events.iter().filter(|event| event["action"] == action);
            of.collect()
        };
        let (armed, idle) = (of("operator_armed"), of("settled"));
        anyhow::ensure!(armed.len() == 1 && idle.len() == 1, "{events:?}");
        Ok(idle[0]["series"]["count"].as_u64() >= Some(2))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn passing_by_is_told_with_its_reason_and_so_is_its_end() {
    let plane = plane().await;
    rbac::apply(&plane).unwrap();
    let _agent = agent(&plane).await;
    // The server that refuses the agent will not write that down for it; the other one does.
    plane.server(0).refuse_front_proxy(true);
    let told = until(&plane, "PassingBy", "local_unproved").await;
    assert_eq!(told["type"], "Warning");
    let note = told["note"].as_str().unwrap();
    assert!(
        note.contains("local_unproved") && note.contains("401"),
        "{note}"
    );
    plane.server(0).refuse_front_proxy(false);
    until(&plane, "TakesConnections", "takes_connections").await;
}

#[tokio::test]
async fn each_certificate_near_its_end_has_an_event_of_its_own() {
    let plane = plane().await;
    rbac::apply(&plane).unwrap();
    let agent = agent(&plane).await;
    eventually("each is told", SOON, || async {
        let (_, status) = agent.admin_get("/status").await?;
        let status: StatusView = serde_json::from_str(&status)?;
        // A test's certificates are valid for a day, its CAs for years.
        let near = status.certificates.into_iter();
        let near = near.filter(|one| one.expires_in_seconds.is_some_and(|left| left < 86_400));
        let files: BTreeSet<String> = near.map(|one| one.file).collect();
        anyhow::ensure!(files.len() >= 2, "{files:?}");
        let events = events(&plane).await?;
        let of = events
            .iter()
            .filter(|event| event["reason"] == "CertificateNearEnd");
        let notes = of.filter_map(|event| event["note"].as_str());
        let told: BTreeSet<String> = notes
            .filter_map(|note| Some(note.split_once(": ")?.0.to_owned()))
            .collect();
        anyhow::ensure!(told == files, "{told:?}");
        Ok(true)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_agent_without_the_right_works_all_the_same() {
    let plane = plane().await;
    // Everything but events.
    for mut rule in rbac::rules().unwrap() {
        rule.api_groups.retain(|group| group != "events.k8s.io");
        plane.add_rule(rule);
    }
    let agent = agent(&plane).await;
    agent.operate("POST", "/arm").await.unwrap();
    agent.operate("POST", "/auto").await.unwrap();
    eventually(
        "what was refused is no word on what is read",
        SOON,
        || async {
            let (_, status) = agent.admin_get("/status").await?;
            let status: Value = serde_json::from_str(&status)?;
            let asked = plane.server(0).requests();
            let told = asked.iter().any(|request| {
                request
                    .target
                    .contains("events.k8s.io/v1/namespaces/default/events")
            });
            let members = status["members"].as_str().unwrap_or_default();
            anyhow::ensure!(members.contains("as system:mvp"), "{members}");
            Ok(told)
        },
    )
    .await
    .unwrap();
    assert!(events(&plane).await.unwrap().is_empty());
}
