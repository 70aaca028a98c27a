//! Ten thousand watches that wait for something to happen, over one agent.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use mvp_tests::agent::eventually;
use mvp_tests::child::{ChildAgent, raise_descriptor_limit};
use mvp_tests::client::{Client, empty};
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");
const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
const CONNECTIONS: usize = 100;
const PER_CONNECTION: usize = 100;
const WATCHES: usize = CONNECTIONS * PER_CONNECTION;
/// What all those watches may take in the agent: 40 KiB each.
const MOST: u64 = 400 * MIB;
/// Served by 1.36 only: every watch is forwarded to the peer.
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    told: AtomicUsize,
    broken: AtomicUsize,
}

/// One connection with its watches, each of which waits for one event.
async fn watch(client: Client, counts: Arc<Counts>) {
    let client = Arc::new(client);
    let mut watches = tokio::task::JoinSet::new();
    for _ in 0..PER_CONNECTION {
        let (client, counts) = (Arc::clone(&client), Arc::clone(&counts));
        watches.spawn(async move {
            let target = format!("{POLICIES}?watch=true&allowWatchBookmarks=true");
            let request = client.request(Method::GET, &target, &[], empty()).unwrap();
            let response = client.send(request).await.unwrap();
            assert_eq!(response.status(), 200);
            counts.open.fetch_add(1, Ordering::Relaxed);
            let mut body = response.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if frame.data_ref().is_some_and(|data| data.ends_with(b"\n")) {
                    counts.told.fetch_add(1, Ordering::Relaxed);
                }
            }
            counts.broken.fetch_add(1, Ordering::Relaxed);
        });
    }
    while let Some(ended) = watches.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_watches_on_one_agent() {
    // A few hundred connections on both sides of this process; the agent inherits the limit.
    assert!(raise_descriptor_limit().unwrap() >= 2048);
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36).log_capacity(0))
        .start()
        .await
        .unwrap();
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"] = json!({"streamsPerConnection": 250});
    })
    .await
    .unwrap();
    let peer = plane.named("cp-b").unwrap();
    let before = agent.memory().unwrap().now;
    let counts = Arc::new(Counts::default());
    let started = Instant::now();
    let mut connections = tokio::task::JoinSet::new();
    let auth = ClientAuth::Certificate(plane.pki().admin().unwrap());
    for _ in 0..CONNECTIONS {
        let client = agent.http2(&plane, auth.clone()).await.unwrap();
        connections.spawn(watch(client, Arc::clone(&counts)));
    }
    eventually("all watches are open", LIMIT, || async {
        let open = counts.open.load(Ordering::Relaxed);
        anyhow::ensure!(open == WATCHES, "{open} open");
        Ok(true)
    })
    .await
    .unwrap();
    let outstanding = "mvp_outstanding_requests{server=\"cp-b\"}";
    assert_eq!(agent.metric(outstanding).await.unwrap(), WATCHES as f64);
    assert!(peer.streams() >= WATCHES);
    let memory = agent.memory().unwrap();
    println!(
        "{WATCHES} watches opened in {:.1} s; agent {} MiB, {} bytes a watch; {} connections to the peer",
        started.elapsed().as_secs_f64(),
        memory.now / MIB,
        memory.now.saturating_sub(before) / WATCHES as u64,
        agent
            .metric("mvp_pool_connections{server=\"cp-b\",class=\"front_proxy\"}")
            .await
            .unwrap()
    );
    assert!(memory.now < MOST, "{memory:?}");

    let writer = agent.http2(&plane, auth).await.unwrap();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "live"},
        "spec": {
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        },
    });
    let started = Instant::now();
    let created = writer.post_json(POLICIES, &[], &policy).await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    eventually("the event has reached all", LIMIT, || async {
        let told = counts.told.load(Ordering::Relaxed);
        anyhow::ensure!(told >= WATCHES, "{told} told");
        Ok(true)
    })
    .await
    .unwrap();
    println!(
        "one event to all in {:.2} s; agent {} MiB",
        started.elapsed().as_secs_f64(),
        agent.memory().unwrap().now / MIB
    );
    assert_eq!(counts.broken.load(Ordering::Relaxed), 0);
    assert!(agent.memory().unwrap().peak < MOST);

    // All clients go at once, as when a network partition cuts a rack off.
    connections.abort_all();
    while connections.join_next().await.is_some() {}
    eventually("nothing is left open", LIMIT, || async {
        let (streams, left) = (peer.streams(), agent.metric(outstanding).await?);
        // The agent's own polls come and go.
        anyhow::ensure!(
            streams <= 3 && left == 0.0,
            "{streams} streams, {left} left"
        );
        Ok(true)
    })
    .await
    .unwrap();
    // And it works as before.
    assert_eq!(writer.get(POLICIES, &[]).await.unwrap().status, 200);
    println!(
        "afterwards: agent {} MiB",
        agent.memory().unwrap().now / MIB
    );
}
