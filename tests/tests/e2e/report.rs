//! The record of what happened: what is counted and what is not, that it outlives the agent, and `mvp report`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use mvp::config::InspectMode;
use mvp::history::{HistoryView, Kind, Report};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::child::ChildAgent;
use mvp_tests::client::Client;
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, SOON, admin, client, patient, plane};
use mvp_tests::sim::ControlPlane;
use rustix::process::Signal;
use serde_json::json;

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
const TYPE: &str = "admissionregistration.k8s.io/v1/mutatingadmissionpolicies";

/// Asks as a client of this name and expects this status.
async fn ask(client: &Client, name: &str, target: &str, status: u16) {
    let answer = client.get(target, &[("user-agent", name)]).await.unwrap();
    assert_eq!(answer.status, status, "{name} {target}: {}", answer.text());
}

async fn report(agent: &TestAgent) -> Report {
    let (status, body) = agent.admin_get("/report").await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

async fn history(agent: &TestAgent) -> HistoryView {
    let (_, body) = agent.admin_get("/history").await.unwrap();
    serde_json::from_str(&body).unwrap()
}

/// The report once it has at least so many requests.
async fn report_of(agent: &TestAgent, requests: u64) -> Report {
    eventually("the requests are counted", SOON, || async {
        Ok(report(agent).await.requests >= requests)
    })
    .await
    .unwrap();
    report(agent).await
}

#[tokio::test]
async fn only_what_is_known_to_have_been_prevented_is_counted() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let asks = client(&plane, &agent).await;
    for _ in 0..3 {
        ask(
            &asks,
            "gc/v1.36.3 (linux/amd64) kubernetes/abc",
            ONLY_36,
            200,
        )
        .await;
    }
    ask(&asks, "kubectl/v1.36.3", ONLY_36, 200).await;
    // The object is not there: a 404 with and without the agent.
    ask(&asks, "kubectl/v1.36.3", &format!("{ONLY_36}/nobody"), 404).await;
    // The local server serves it.
    ask(&asks, "kubectl/v1.36.3", CONFIG_MAPS, 200).await;
    let stranger = plane
        .pki()
        .client_config(mvp_tests::sim::pki::ClientAuth::None, &[])
        .unwrap();
    let stranger = Client::http2(agent.address, &stranger.into())
        .await
        .unwrap();
    // Refused by any server, before it looks for the type.
    let refused = stranger.get(ONLY_36, &[]).await.unwrap();
    assert!(
        matches!(refused.status.as_u16(), 401 | 403),
        "{}",
        refused.status
    );
    let report = report_of(&agent, 7).await;
    assert_eq!(
        (report.requests, report.forwarded, report.prevented),
        (7, 6, 4)
    );
    let rows: Vec<_> = report
        .prevented_by
        .iter()
        .map(|row| {
            (
                row.client.as_str(),
                row.resource.as_str(),
                row.instead_of,
                row.count,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("gc/v1.36.3", TYPE, 404, 3),
            ("kubectl/v1.36.3", TYPE, 404, 1)
        ]
    );
    assert_eq!(report.served_while_down, 0);
    // While the local server is away, every answer is one that nobody would have given.
    plane.named("cp-a").unwrap().stop().await.unwrap();
    eventually("the local server is known to be down", SOON, || async {
        let (_, servers) = agent.admin_get("/servers").await?;
        let servers: serde_json::Value = serde_json::from_str(&servers)?;
        Ok(servers[0]["available"] == false)
    })
    .await
    .unwrap();
    for _ in 0..2 {
        ask(&asks, "kubectl/v1.36.3", CONFIG_MAPS, 200).await;
    }
    let report = report_of(&agent, 9).await;
    assert_eq!((report.prevented, report.served_while_down), (4, 2));
    let kinds: Vec<_> = history(&agent)
        .await
        .events
        .iter()
        .map(|event| event.kind)
        .collect();
    for kind in [
        Kind::AgentStarted,
        Kind::ServerSeen,
        Kind::ServerUnavailable,
        Kind::ProofOk,
    ] {
        assert!(kinds.contains(&kind), "{kind:?} is not in {kinds:?}");
    }
}

#[tokio::test]
async fn an_upgrade_is_on_record() {
    let plane = plane(&[35, 35]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        patient(config);
        config.inspect.mode = InspectMode::Auto;
        config.kernel.settle = std::time::Duration::from_millis(500);
    })
    .await
    .unwrap();
    let has = |kind: Kind, subject: &'static str, value: &'static str| {
        let agent = &agent;
        async move {
            eventually("it is noted", SOON, || async {
                let view = history(agent).await;
                let mut events = view.events.iter();
                Ok(events.any(|event| {
                    event.kind == kind && event.subject == subject && event.value.starts_with(value)
                }))
            })
            .await
            .unwrap();
        }
    };
    has(Kind::ServerSeen, "cp-b", "v1.35").await;
    plane.named("cp-b").unwrap().restart(36).await.unwrap();
    has(Kind::ServerVersion, "cp-b", "v1.36").await;
    has(Kind::GuardArmed, "", "").await;
    plane.named("cp-a").unwrap().restart(36).await.unwrap();
    has(Kind::ServerVersion, "cp-a", "v1.36").await;
    has(Kind::GuardIdle, "", "").await;
    let report = report(&agent).await;
    assert!(!report.convergences.is_empty() && report.armed_ms > 0);
    // Without the kernel's part nothing says when the last connection was gone.
    assert_eq!(report.slowest_ms, None);
}

#[tokio::test]
async fn ever_new_names_of_clients_are_counted_and_not_kept() {
    const CLIENTS: u64 = 600;
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let asks = client(&plane, &agent).await;
    for n in 0..CLIENTS {
        let name = format!("evil-{n}/{}", "x".repeat(500));
        ask(&asks, &name, &format!("{ONLY_36}?limit=1"), 200).await;
    }
    let report = report_of(&agent, CLIENTS).await;
    assert_eq!(report.prevented, CLIENTS);
    assert_eq!(report.prevented_by.len(), 100);
    for minute in history(&agent).await.minutes {
        assert!(
            minute.prevented.len() <= 256 + 4,
            "{}",
            minute.prevented.len()
        );
    }
    assert!(report.prevented_by.iter().all(|row| row.client.len() <= 64));
}

async fn child(plane: &ControlPlane, socket: &Path) -> ChildAgent {
    let socket = socket.to_owned();
    ChildAgent::start(AGENT, plane, "cp-a", |config| {
        config["admin"]["socket"] = json!(socket)
    })
    .await
    .unwrap()
}

async fn mvp(agent: &ChildAgent, args: &[&str]) -> String {
    let mut command = Command::new(AGENT);
    command.args(args).arg("--admin").arg(&agent.socket);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn report_by(agent: &ChildAgent) -> Report {
    serde_json::from_str(&mvp(agent, &["report", "-o", "json"]).await).unwrap()
}

#[tokio::test]
async fn the_record_outlives_the_agent_however_it_ends() {
    let plane = plane(&[35, 36]).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let mut first = child(&plane, &socket).await;
    let asks = first.http2(&plane, admin(&plane)).await.unwrap();
    for _ in 0..5 {
        ask(&asks, "kubectl/v1.36.3", ONLY_36, 200).await;
    }
    drop(asks);
    // At its end it writes what it has counted until then.
    first.signal(Signal::TERM).unwrap();
    first.wait_exit(SOON).await.unwrap();
    let mut second = child(&plane, &socket).await;
    let kept = || async {
        eventually("what happened before is known", SOON, || async {
            Ok(report_by(&second).await.prevented == 5)
        })
        .await
        .unwrap();
    };
    kept().await;
    let report = report_by(&second).await;
    let starts = report
        .events
        .iter()
        .filter(|event| event.kind == Kind::AgentStarted);
    assert_eq!(starts.count(), 2);
    // What was noted is in the file soon, also if there is no end in good order.
    eventually("the second start is in the file", SOON, || async {
        let text = std::fs::read_to_string(socket.with_extension("history"))?;
        Ok(text.matches("agent_started").count() == 2)
    })
    .await
    .unwrap();
    second.signal(Signal::KILL).unwrap();
    second.wait_exit(SOON).await.unwrap();
    let third = child(&plane, &socket).await;
    eventually("three starts are known", SOON, || async {
        let report = report_by(&third).await;
        let starts = report
            .events
            .iter()
            .filter(|event| event.kind == Kind::AgentStarted);
        Ok(report.prevented == 5 && starts.count() == 3)
    })
    .await
    .unwrap();
    drop(third);
    // A file that is none keeps no agent from starting.
    std::fs::write(socket.with_extension("history"), "{\"format\":1,").unwrap();
    let fourth = child(&plane, &socket).await;
    assert_eq!(report_by(&fourth).await.prevented, 0);
    assert!(
        fourth.log().contains("its record cannot be read"),
        "{}",
        fourth.log()
    );
}

#[tokio::test]
async fn the_command_shows_text_data_and_a_page() {
    let plane = plane(&[35, 36]).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = child(&plane, &folder.path().join("admin.sock")).await;
    let asks = agent.http2(&plane, admin(&plane)).await.unwrap();
    ask(&asks, "<script>alert(1)</script>", ONLY_36, 200).await;
    eventually("it is counted", SOON, || async {
        Ok(report_by(&agent).await.prevented == 1)
    })
    .await
    .unwrap();
    let text = mvp(&agent, &["report", "--since", "10m"]).await;
    assert!(text.starts_with("cp-a: 20"), "{text}");
    for part in [
        "1  of those would have been a false 404",
        "  1      404         admissionregistration.k8s.io/v1/mutatingadmissionpolicies  <script>",
        "What is not known",
        "agent_started",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let page = mvp(&agent, &["report", "-o", "html"]).await;
    assert!(page.starts_with("<!doctype html>"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script"));
    let yaml = mvp(&agent, &["report", "-o", "yaml"]).await;
    assert!(yaml.contains("prevented: 1"), "{yaml}");
    let (status, _) = agent.admin_get("/history?since=1m").await.unwrap();
    assert_eq!(status, 200);
}
