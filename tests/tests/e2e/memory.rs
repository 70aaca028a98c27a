//! How much memory an agent takes: little when idle, and no more because of what a server answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use bytes::Bytes;
use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");
const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// Unoptimized code and its wider stack frames are resident as well.
const IDLE: u64 = if cfg!(debug_assertions) { 48 } else { 30 } * MIB;
const SYNC_ERRORS: &str = "apiserver_peer_discovery_sync_errors_total{type=\"fetch_discovery\"}";
/// Served by 1.36 only.
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";

async fn servers(agent: &ChildAgent) -> Vec<Value> {
    serde_json::from_str(&agent.admin_get("/servers").await.unwrap().1).unwrap()
}

async fn server(agent: &ChildAgent, name: &str) -> Value {
    let all = servers(agent).await;
    all.into_iter().find(|s| s["name"] == name).unwrap()
}

#[tokio::test]
async fn an_idle_agent_in_front_of_five_full_servers_is_small() {
    let names = ["cp-a", "cp-b", "cp-c", "cp-d", "cp-e"];
    let plane = ControlPlane::builder()
        .servers(names.map(|name| ServerSpec::new(name, 36).all_apis()))
        .start()
        .await
        .unwrap();
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["discovery"]["interval"] = "200ms".into();
    })
    .await
    .unwrap();
    eventually("every server was polled twelve times", LIMIT, || async {
        Ok(plane.servers().iter().all(|server| {
            let requests = server.requests();
            requests.iter().filter(|r| r.path() == "/apis").count() >= 12
        }))
    })
    .await
    .unwrap();
    let all = servers(&agent).await;
    assert_eq!(all.len(), 5);
    assert!(
        all.iter().all(|s| s["keys"].as_u64().unwrap() > 130),
        "{all:?}"
    );
    let memory = agent.memory().unwrap();
    println!(
        "idle with 5 servers: {} KiB, at most {} KiB",
        memory.now >> 10,
        memory.peak >> 10
    );
    assert!(memory.now < IDLE, "{memory:?}");
}

/// Documents that no server with good intent sends, and a word of the error that each must end in.
fn hostile() -> Vec<(&'static str, Bytes, &'static str)> {
    const HEAD: &str =
        r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":["#;
    let group = |name: &str, resources: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"versions":[{{"version":"v1","freshness":"Current","resources":[{resources}]}}]}}"#
        )
    };
    let resource = |name: &str| {
        format!(
            r#"{{"resource":"{name}","responseKind":{{"group":"","version":"","kind":"K"}},"scope":"Cluster","verbs":["get","list"]}}"#
        )
    };
    let repeated = |item: &str, times: usize| {
        let mut text = format!("{HEAD}{item}");
        for _ in 1..times {
            text.push(',');
            text.push_str(item);
        }
        Bytes::from(text + "]}")
    };
    let one = group("hostile.example", &resource("things"));
    let mut bad = group("hostile.example", &resource("things")).into_bytes();
    let at = bad.len() / 2;
    bad[at] = 0xff;
    let not_utf8 = Bytes::from([HEAD.as_bytes(), &bad, b"]}"].concat());
    let deep = format!("{HEAD}{}", "[".repeat(8 << 20));
    let long_list = group(
        "hostile.example",
        &vec![resource("things"); 60_000].join(","),
    );
    let cut = HEAD.to_owned() + &one;
    vec![
        (
            "100 MB",
            repeated(&one, (100 << 20) / one.len()),
            "maxBytes",
        ),
        ("deep", Bytes::from(deep), "JSON"),
        ("one group, very often", repeated(&one, 70_000), "more than"),
        (
            "one resource, very often",
            repeated(&long_list, 1),
            "more than",
        ),
        ("not UTF-8", not_utf8, "UTF-8"),
        ("cut off", Bytes::from(cut), "JSON"),
        (
            "another kind",
            Bytes::from_static(b"{\"kind\":\"Status\"}"),
            "kind",
        ),
        ("empty", Bytes::new(), "JSON"),
    ]
}

#[tokio::test]
async fn hostile_discovery_is_refused_told_and_harms_nobody_else() {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .server(ServerSpec::new("cp-c", 36))
        .start()
        .await
        .unwrap();
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["discovery"]["interval"] = "200ms".into();
    })
    .await
    .unwrap();
    let admin = ClientAuth::Certificate(plane.pki().admin().unwrap());
    let client = agent.http2(&plane, admin).await.unwrap();
    let (local, peer) = (server(&agent, "cp-a").await, server(&agent, "cp-c").await);
    let liar = plane.named("cp-b").unwrap();
    for (what, document, word) in hostile() {
        let errors = agent.metric(SYNC_ERRORS).await.unwrap();
        liar.false_discovery(Some(document));
        eventually(what, LIMIT, || async {
            let liar = server(&agent, "cp-b").await;
            let told = liar["lastError"].as_str().unwrap_or_default();
            anyhow::ensure!(told.contains(word), "told: {told:?}");
            Ok(agent.metric(SYNC_ERRORS).await? >= errors + 2.0)
        })
        .await
        .unwrap();
        let memory = agent.memory().unwrap();
        println!(
            "{what}: {} KiB, at most {} KiB",
            memory.now >> 10,
            memory.peak >> 10
        );
        assert!(memory.peak < IDLE + 48 * MIB, "{what}: {memory:?}");
        for (name, before) in [("cp-a", &local), ("cp-c", &peer)] {
            let now = server(&agent, name).await;
            assert_eq!(
                (&now["knowledge"], &now["keys"]),
                (&"fresh".into(), &before["keys"])
            );
        }
        let status = agent.admin_get("/status").await.unwrap().1;
        let status: Value = serde_json::from_str(&status).unwrap();
        assert!(
            status["servers"].as_array().unwrap().iter().any(|s| {
                s["name"] == "cp-b" && s["lastError"].as_str().unwrap_or_default().contains(word)
            }),
            "{what}: {status}"
        );
        assert_eq!(
            client.get(POLICIES, &[]).await.unwrap().status,
            200,
            "{what}"
        );
        liar.false_discovery(None);
        eventually("the truth is believed again", LIMIT, || async {
            let liar = server(&agent, "cp-b").await;
            Ok(liar["knowledge"] == "fresh" && liar["lastError"].is_null())
        })
        .await
        .unwrap();
    }
    // The agent looks every ten seconds whether the allocator keeps much more than is used (`app/memory.rs`).
    eventually("what the documents took is given back", LIMIT, || async {
        let memory = agent.memory().unwrap();
        anyhow::ensure!(memory.now < IDLE + 24 * MIB, "{memory:?}");
        Ok(true)
    })
    .await
    .unwrap();
}
