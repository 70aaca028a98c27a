//! Servers fail on command, and come back at the same address.
#![allow(clippy::unwrap_used)]

use std::{io::ErrorKind, time::Duration};

use crate::common::{Client, connect, plane};
use http_body_util::BodyExt;
use mvp_tests::sim::{ControlPlane, Fault, ServerSpec, pki::ClientAuth};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATH: &str = "/api/v1/namespaces/default";
const WATCH: &str = "/api/v1/namespaces?watch=true";

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn reason(error: &hyper::Error) -> Option<h2::Reason> {
    std::error::Error::source(error)?
        .downcast_ref::<h2::Error>()?
        .reason()
}

#[tokio::test]
async fn stop_finishes_what_runs_and_restart_changes_the_minor() {
    let plane = plane(&[35]).await;
    let server = plane.server(0);
    let admin = Client::admin(&plane, 0).await;
    let mut watch = admin.open("GET", WATCH, &[], "").await.unwrap().into_body();
    assert!(watch.frame().await.unwrap().unwrap().is_data());
    let address = server.addr();
    server.restart(36).await.unwrap();
    // The watch ended in order, with an end of stream and no error.
    while let Some(frame) = watch.frame().await {
        frame.unwrap();
    }
    assert!(admin.open("GET", PATH, &[], "").await.is_err());
    assert_eq!((server.addr(), server.minor()), (address, 36));
    let again = Client::admin(&plane, 0).await;
    assert_eq!(again.get("/version").await.json()["minor"], "36");
    server.stop().await.unwrap();
    assert_eq!(
        tokio::net::TcpStream::connect(address)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::ConnectionRefused
    );
    server.start().await.unwrap();
    assert!(server.start().await.is_err());
    assert_eq!(
        Client::admin(&plane, 0)
            .await
            .get(PATH)
            .await
            .status
            .as_u16(),
        200
    );
}

#[tokio::test]
async fn kill_resets_connections() {
    let plane = plane(&[36]).await;
    let server = plane.server(0);
    let authority = server.addr().to_string();
    let mut idle = connect(plane.pki(), &authority, ClientAuth::None, &["http/1.1"])
        .await
        .unwrap();
    let admin = Client::admin(&plane, 0).await;
    let mut watch = admin.open("GET", WATCH, &[], "").await.unwrap().into_body();
    until("connections", || server.connections() == 2).await;
    server.kill().await;
    assert_eq!(
        idle.read(&mut [0; 1]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let broken = loop {
        match watch.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broken, "the watch ended as if it were complete");
    assert_eq!(server.connections(), 0);
    server.start().await.unwrap();
    assert_eq!(
        Client::admin(&plane, 0)
            .await
            .get(PATH)
            .await
            .status
            .as_u16(),
        200
    );
}

#[tokio::test]
async fn hang_stops_old_and_new_connections() {
    let plane = plane(&[36]).await;
    let server = plane.server(0);
    let admin = Client::admin(&plane, 0).await;
    admin.get(PATH).await;
    server.hang(true);
    let old = tokio::spawn({
        let admin = admin.clone();
        async move { admin.get(PATH).await.status }
    });
    let pki = plane.pki().clone();
    let authority = server.addr().to_string();
    let new = tokio::spawn(async move {
        connect(&pki, &authority, ClientAuth::None, &["h2"])
            .await
            .map(drop)
    });
    until("accepted", || server.connections() == 2).await;
    // Both have been waiting for as long as it takes the server to accept one of them.
    assert!(!old.is_finished() && !new.is_finished());
    server.hang(false);
    assert_eq!(old.await.unwrap().as_u16(), 200);
    new.await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_are_reset_and_refused() {
    let plane = plane(&[36]).await;
    let server = plane.server(0);
    let admin = Client::admin(&plane, 0).await;
    server.reset_next(1);
    server.refuse_streams(1);
    let reset = admin.open("GET", PATH, &[], "").await.unwrap_err();
    assert_eq!(reason(&reset), Some(h2::Reason::INTERNAL_ERROR));
    let refused = admin.open("GET", PATH, &[], "").await.unwrap_err();
    assert_eq!(reason(&refused), Some(h2::Reason::REFUSED_STREAM));
    assert_eq!(admin.get(PATH).await.status.as_u16(), 200);
    let faults: Vec<_> = server
        .requests()
        .iter()
        .map(|request| request.fault)
        .collect();
    assert_eq!(faults, [Some(Fault::Reset), Some(Fault::Refused), None]);
}

#[tokio::test]
async fn goaway_ends_a_connection_but_not_its_streams() {
    let plane = plane(&[36]).await;
    let server = plane.server(0);
    let admin = Client::admin(&plane, 0).await;
    let mut watch = admin.open("GET", WATCH, &[], "").await.unwrap().into_body();
    watch.frame().await.unwrap().unwrap();
    server.goaway().await;
    // The client may not have seen GOAWAY yet; a request that is lost on the way is not what is tested.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while admin.open("GET", PATH, &[], "").await.is_ok() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "new requests are still taken"
        );
    }
    let other = Client::admin(&plane, 0).await;
    other
        .post("/api/v1/namespaces", r#"{"metadata":{"name":"later"}}"#)
        .await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"name\":\"later\"") {
        seen.extend(watch.frame().await.unwrap().unwrap().into_data().unwrap());
    }
}

#[tokio::test]
async fn slow_answers_and_the_request_log() {
    let plane = plane(&[36]).await;
    let server = plane.server(0);
    let admin = Client::admin(&plane, 0).await;
    let delay = Duration::from_millis(50);
    server.slow(delay);
    let start = tokio::time::Instant::now();
    let target = "/api/v1/namespaces/default%20/configmaps/%41?x=a%2fb&&y";
    admin
        .send("GET", target, &[("x-one", "1"), ("x-one", "2")], "")
        .await;
    assert!(start.elapsed() >= delay);
    let request = server.requests().pop().unwrap();
    assert_eq!(request.target, target);
    assert_eq!(request.headers.get_all("x-one").iter().count(), 2);
    assert_eq!(
        (request.version, request.connection),
        (http::Version::HTTP_2, 1)
    );
    assert_eq!(request.user.as_ref().unwrap().name, "kubernetes-admin");
    server.clear_requests();
    assert_eq!((server.requests().len(), server.request_count()), (0, 1));
}

#[tokio::test]
async fn settings_of_a_server() {
    let specs = [
        ServerSpec::new("h1", 36).http1_only(),
        ServerSpec::new("h2", 36).max_concurrent_streams(2),
    ];
    let plane = ControlPlane::builder()
        .servers(specs)
        .start()
        .await
        .unwrap();
    let authority = plane.server(0).addr().to_string();
    let admin = || ClientAuth::Certificate(plane.pki().admin().unwrap());
    let mut h1 = connect(plane.pki(), &authority, admin(), &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(h1.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    h1.write_all(b"GET /api/v1/namespaces/x HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    h1.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 404 Not Found\r\n") && answer.contains("\r\nAudit-Id: "),
        "{answer}"
    );

    let client = Client::admin(&plane, 1).await;
    let first = client.open("GET", WATCH, &[], "").await.unwrap();
    let second = client.open("GET", WATCH, &[], "").await.unwrap();
    let third = tokio::spawn(async move { client.open("GET", WATCH, &[], "").await.map(drop) });
    until("two streams", || plane.server(1).streams() == 2).await;
    assert!(!third.is_finished());
    drop((first, second));
    third.await.unwrap().unwrap();
}
