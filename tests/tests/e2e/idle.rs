//! Connections that rest may stay; those that keep the agent waiting may not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::connect_tls;
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use mvp_tests::tunnel::{RawConnection, SPDY, read_some};
use serde_json::json;
use tokio::io::AsyncWriteExt;

const LIMIT: Duration = Duration::from_secs(30);
const REFUSED: &str = "mvp_refused_total{limit=\"header_timeout\"}";

async fn setup() -> (ControlPlane, TestAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.limits.header_timeout = Duration::from_secs(1);
    })
    .await
    .unwrap();
    (plane, agent)
}

fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

async fn open(agent: &TestAgent, plane: &ControlPlane) -> RawConnection {
    RawConnection::open(agent.address, plane, admin(plane))
        .await
        .unwrap()
}

/// Returns when the agent has lost its patience with somebody: then the header timeout has passed for everybody.
async fn header_timeout(agent: &TestAgent, plane: &ControlPlane) {
    let before = agent.metric(REFUSED).await.unwrap();
    let mut slow = open(agent, plane).await;
    slow.stream.write_all(b"GET /version HT").await.unwrap();
    slow.stream.flush().await.unwrap();
    let end = tokio::time::timeout(LIMIT, slow.read_some());
    assert_eq!(end.await.expect("an end").unwrap(), b"");
    eventually("it is counted", LIMIT, || async {
        Ok(agent.metric(REFUSED).await? >= before + 1.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn http1_connections_and_tunnels_may_rest_longer_than_a_header_may_take() {
    let (plane, agent) = setup().await;
    let client = agent.http1(&plane, admin(&plane)).await.unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let created = client
        .post_json("/api/v1/namespaces/default/pods", &[], &pod)
        .await
        .unwrap();
    assert_eq!(created.status, 201);
    let mut tunnel = open(&agent, &plane).await;
    let attach = "/api/v1/namespaces/default/pods/p/attach";
    let (status, _) = tunnel.exchange("POST", attach, SPDY).await.unwrap();
    assert_eq!(status, 101);
    let mut fresh = open(&agent, &plane).await;
    // An upload that takes its time is no header.
    let mut upload = open(&agent, &plane).await;
    let target = "/api/v1/namespaces/default/services/y/proxy/upload";
    upload
        .send("POST", target, &[("content-length", "4")])
        .await
        .unwrap();
    upload.stream.write_all(b"ab").await.unwrap();
    upload.stream.flush().await.unwrap();

    for _ in 0..2 {
        header_timeout(&agent, &plane).await;
        tunnel.echo(b"still here").await.unwrap();
        assert_eq!(client.get("/version", &[]).await.unwrap().status, 200);
    }
    assert_eq!(fresh.exchange("GET", "/version", &[]).await.unwrap().0, 200);
    upload.stream.write_all(b"cd").await.unwrap();
    assert_eq!(upload.head().await.unwrap().0, 200);
    assert_eq!(agent.metric(REFUSED).await.unwrap(), 2.0);
}

#[tokio::test]
async fn a_second_header_must_come_as_quickly_as_the_first() {
    let (plane, agent) = setup().await;
    let mut raw = open(&agent, &plane).await;
    let (status, headers) = raw.exchange("HEAD", "/version", &[]).await.unwrap();
    assert_eq!(
        (status.as_u16(), headers.contains_key("connection")),
        (200, false)
    );
    raw.stream.write_all(b"GET /ver").await.unwrap();
    raw.stream.flush().await.unwrap();
    let end = tokio::time::timeout(LIMIT, raw.read_some());
    assert_eq!(end.await.expect("an end").unwrap(), b"");
    eventually("it is counted", LIMIT, || async {
        Ok(agent.metric(REFUSED).await? == 1.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn http2_without_its_preface_is_closed() {
    let (plane, agent) = setup().await;
    let tls = plane
        .pki()
        .client_config(admin(&plane), &[])
        .unwrap()
        .into();
    for (at, begin) in [&b""[..], b"PRI * HTTP/2.0\r\n"].into_iter().enumerate() {
        let mut silent = connect_tls(agent.address, &tls, &[b"h2"], "kubernetes")
            .await
            .unwrap();
        silent.write_all(begin).await.unwrap();
        silent.flush().await.unwrap();
        // The agent's own SETTINGS may come first.
        let ended = async { while !read_some(&mut silent).await.unwrap().is_empty() {} };
        tokio::time::timeout(LIMIT, ended).await.expect("an end");
        eventually("it is counted", LIMIT, || async {
            Ok(agent.metric(REFUSED).await? == at as f64 + 1.0)
        })
        .await
        .unwrap();
    }
    // One that speaks HTTP/2 may say nothing more.
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    header_timeout(&agent, &plane).await;
    assert_eq!(client.get("/version", &[]).await.unwrap().status, 200);
}
