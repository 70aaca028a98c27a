//! Bodies of any length in bounded memory, and nothing held back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::client::{Answer, Client, empty, full, piecemeal};
use mvp_tests::scripted::{Seen, Stage, WIDGETS};
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use mvp_tests::tunnel::RawConnection;
use serde_json::json;
use sha2::{Digest, Sha256};

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");
const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// Far below any body that is sent here, far above what windows and buffers take.
const MOST: u64 = 96 * MIB;
/// Without optimization checksums take most of the time; even so it is more than the memory allowed.
const LARGE: u64 = if cfg!(debug_assertions) {
    256
} else {
    5 * 1024
} * MIB;
const SERVICE: &str = "/api/v1/namespaces/default/services/y/proxy";
const LOG: &str = "/api/v1/namespaces/default/pods/p/log";
/// Longer than any test.
const ENDLESS: u64 = 1 << 40;
const NAMESPACES: &str = "/api/v1/namespaces";

async fn setup(change: impl FnOnce(&mut serde_json::Value)) -> (ControlPlane, ChildAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", change)
        .await
        .unwrap();
    (plane, agent)
}

fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

async fn download(client: &Client, bytes: u64) -> Incoming {
    let target = format!("{LOG}?mvpBytes={bytes}");
    let request = client.request(Method::GET, &target, &[], empty()).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body()
}

/// Reads at least `wanted` bytes, or to the end, and compares them with what the simulated log repeats: 64 KiB of letters.
async fn read_letters(body: &mut Incoming, wanted: u64) -> u64 {
    let block: Vec<u8> = (0..64 * 1024).map(|at| b'a' + (at % 26) as u8).collect();
    let mut seen = 0_u64;
    while seen < wanted {
        let Some(frame) = body.frame().await else {
            break;
        };
        let data = frame.unwrap().into_data().unwrap();
        let mut rest = &data[..];
        while !rest.is_empty() {
            let at = (seen % block.len() as u64) as usize;
            let size = rest.len().min(block.len() - at);
            assert!(rest[..size] == block[at..at + size], "differs after {seen}");
            rest = &rest[size..];
            seen += size as u64;
        }
    }
    seen
}

fn told(what: &str, bytes: u64, started: Instant, agent: &ChildAgent) {
    let memory = agent.memory().unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what}: {} MiB in {seconds:.1} s, {:.0} MiB/s; agent at most {} KiB",
        bytes / MIB,
        (bytes / MIB) as f64 / seconds,
        memory.peak >> 10
    );
    assert!(memory.peak < MOST, "{memory:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_download_takes_little_memory() {
    let (plane, agent) = setup(|_| {}).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let started = Instant::now();
    let mut body = download(&client, LARGE).await;
    assert_eq!(read_letters(&mut body, u64::MAX).await, LARGE);
    told("HTTP/2 download", LARGE, started, &agent);

    let client = agent.http1(&plane, admin(&plane)).await.unwrap();
    let started = Instant::now();
    let mut body = download(&client, LARGE / 4).await;
    assert_eq!(read_letters(&mut body, u64::MAX).await, LARGE / 4);
    told("HTTP/1.1 download", LARGE / 4, started, &agent);
}

/// Sends `total` bytes and compares the checksum the server made.
async fn upload(client: &Client, total: u64) {
    const CHUNK: usize = 256 * 1024;
    let (sender, body) = piecemeal();
    let target = format!("{SERVICE}/upload");
    let request = client.request(Method::POST, &target, &[], body).unwrap();
    let chunk: Bytes = (0..CHUNK).map(|at| (at % 251) as u8).collect();
    let hashed = chunk.clone();
    let digest = tokio::task::spawn_blocking(move || {
        let mut digest = Sha256::new();
        for _ in 0..total / CHUNK as u64 {
            digest.update(&hashed);
        }
        digest.finalize()
    });
    let sending = tokio::spawn(async move {
        for _ in 0..total / CHUNK as u64 {
            sender.send(Ok(chunk.clone())).await.unwrap();
        }
    });
    let answer = Answer::read(client.send(request).await.unwrap()).await;
    let answer = answer.unwrap().json();
    sending.await.unwrap();
    let digest: String = digest
        .await
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(answer, json!({"bytes": total, "sha256": digest}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_upload_takes_little_memory() {
    let (plane, agent) = setup(|_| {}).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let started = Instant::now();
    upload(&client, LARGE).await;
    told("HTTP/2 upload", LARGE, started, &agent);

    let client = agent.http1(&plane, admin(&plane)).await.unwrap();
    let started = Instant::now();
    upload(&client, LARGE / 4).await;
    told("HTTP/1.1 upload", LARGE / 4, started, &agent);
}

#[tokio::test]
async fn stalled_clients_cost_little_and_stall_nobody_else() {
    // One thread with one connection to the server: whoever stalls shares it with everybody.
    let (plane, agent) = setup(|config| {
        config["threads"] = 1.into();
        config["upstream"]["connections"] = 1.into();
    })
    .await;
    let before = agent.memory().unwrap();
    let stalling = agent.http2(&plane, admin(&plane)).await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..90 {
        stalled.push(download(&stalling, ENDLESS).await);
    }
    let mut raw = RawConnection::open(agent.address, &plane, admin(&plane))
        .await
        .unwrap();
    raw.send("GET", &format!("{LOG}?mvpBytes={ENDLESS}"), &[])
        .await
        .unwrap();

    let other = agent.http2(&plane, admin(&plane)).await.unwrap();
    let mut body = download(&other, 64 * MIB).await;
    let read = tokio::time::timeout(LIMIT, read_letters(&mut body, u64::MAX));
    assert_eq!(read.await.expect("no stall"), 64 * MIB);
    let memory = agent.memory().unwrap();
    println!(
        "91 stalled downloads: {} KiB more",
        (memory.peak - before.now) >> 10
    );
    assert!(memory.peak < MOST, "{memory:?}");

    let requests = plane.named("cp-a").unwrap().requests();
    let mut connections: Vec<u64> = requests
        .iter()
        .filter(|r| r.target.starts_with(LOG))
        .map(|r| r.connection)
        .collect();
    assert_eq!(connections.len(), 92);
    connections.dedup();
    assert_eq!(connections.len(), 1, "all over one connection");

    // Who stalled may go on.
    let mut first = stalled.swap_remove(0);
    drop(stalled);
    let read = tokio::time::timeout(LIMIT, read_letters(&mut first, 16 * MIB));
    assert!(read.await.expect("no stall") >= 16 * MIB);
}

#[tokio::test]
async fn an_upload_nobody_reads_is_held_back_at_the_client() {
    let (plane, agent) = setup(|_| {}).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let local = plane.named("cp-a").unwrap();
    local.slow(Duration::from_secs(3600));
    let (sender, body) = piecemeal();
    let target = format!("{SERVICE}/upload");
    let request = client.request(Method::POST, &target, &[], body).unwrap();
    let call = tokio::spawn(async move { client.send(request).await.map(|r| r.status()) });
    // Windows and buffers of three hops together are some megabytes; 64 MiB never fit.
    let mut taken = 0_u64;
    let chunk = Bytes::from(vec![0; MIB as usize]);
    let mut blocked_for = 0;
    while blocked_for < 20 {
        match tokio::time::timeout(Duration::from_millis(50), sender.reserve()).await {
            Ok(place) => {
                place.unwrap().send(Ok(chunk.clone()));
                taken += MIB;
                blocked_for = 0;
                assert!(taken < 64 * MIB, "nobody holds it back");
            }
            Err(_blocked) => blocked_for += 1,
        }
    }
    println!("held back after {} MiB", taken / MIB);
    assert!(agent.memory().unwrap().peak < MOST);
    call.abort();
    drop(call.await);
    eventually("the server is free", LIMIT, || async {
        Ok(agent
            .metric("mvp_outstanding_requests{server=\"cp-a\"}")
            .await?
            == 0.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn both_directions_of_a_request_flow_at_once() {
    let (plane, agent) = setup(|_| {}).await;
    let target = format!("{SERVICE}/echo");
    for version in [2, 1] {
        let client = match version {
            2 => agent.http2(&plane, admin(&plane)).await.unwrap(),
            _ => agent.http1(&plane, admin(&plane)).await.unwrap(),
        };
        let (sender, body) = piecemeal();
        let request = client.request(Method::POST, &target, &[], body).unwrap();
        sender.send(Ok(Bytes::from_static(b"0"))).await.unwrap();
        let mut echo = client.send(request).await.unwrap().into_body();
        // Each chunk is answered before the next one is sent: what anybody holds back is a deadlock.
        for at in 1..200 {
            let frame = tokio::time::timeout(LIMIT, echo.frame())
                .await
                .expect("an echo at once");
            let back = frame.unwrap().unwrap().into_data().unwrap();
            assert_eq!(back, (at - 1).to_string(), "HTTP/{version}");
            sender.send(Ok(Bytes::from(at.to_string()))).await.unwrap();
        }
        drop(sender);
        let rest = tokio::time::timeout(LIMIT, echo.collect()).await.unwrap();
        assert_eq!(rest.unwrap().to_bytes(), "199");
    }
}

#[tokio::test]
async fn a_watch_tells_every_event_at_once() {
    let (plane, agent) = setup(|_| {}).await;
    let writer = agent.http2(&plane, admin(&plane)).await.unwrap();
    let list = writer.get(NAMESPACES, &[]).await.unwrap().json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let target = format!("{NAMESPACES}?watch=true&resourceVersion={version}");
    let mut watches = Vec::new();
    for client in [
        agent.http2(&plane, admin(&plane)).await.unwrap(),
        agent.http1(&plane, admin(&plane)).await.unwrap(),
    ] {
        let request = client.request(Method::GET, &target, &[], empty()).unwrap();
        watches.push(client.send(request).await.unwrap().into_body());
    }
    for at in 0..20 {
        let name = format!("n{at}");
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let created = writer.post_json(NAMESPACES, &[], &object).await.unwrap();
        assert_eq!(created.status, 201, "{}", created.text());
        for watch in &mut watches {
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                let frame = tokio::time::timeout(LIMIT, watch.frame())
                    .await
                    .expect("an event at once");
                line.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
            }
            let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(
                (&event["type"], &event["object"]["metadata"]["name"]),
                (&"ADDED".into(), &name.as_str().into())
            );
        }
    }
}

/// Head and body leave together where the body follows at once. Here it follows only when the client has the head.
#[tokio::test]
async fn a_head_does_not_wait_for_a_body_that_takes_long() {
    let (sender, body) = piecemeal();
    let body = Arc::new(Mutex::new(Some(body)));
    let script = move |_: &Seen| {
        let body = body.lock().unwrap().take();
        Response::new(body.unwrap_or_else(|| full("a second time")))
    };
    let stage = Stage::new(&["h2"], script).await.unwrap();
    let admin = admin(&stage.plane);
    let client = stage.agent.http2(&stage.plane, admin).await.unwrap();
    let request = client.request(Method::GET, WIDGETS, &[], empty()).unwrap();
    let head = client.send(request);
    let response = tokio::time::timeout(LIMIT, head).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    sender.send(Ok(Bytes::from("late"))).await.unwrap();
    drop(sender);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "late");
}
