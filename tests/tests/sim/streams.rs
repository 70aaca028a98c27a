//! Long bodies, trailers, and upgraded connections.
#![allow(clippy::unwrap_used)]

use crate::common::{Client, connect, plane};
use http_body_util::BodyExt;
use mvp_tests::sim::{ControlPlane, pki::ClientAuth};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

const PODS: &str = "/api/v1/namespaces/default/pods";
const PROXY: &str = "/api/v1/namespaces/default/services/y/proxy";

/// Sends the head over HTTP/1.1 and gives the connection with the answer's head.
async fn upgrade(
    plane: &ControlPlane,
    path: &str,
    headers: &str,
) -> (TlsStream<TcpStream>, String) {
    let auth = ClientAuth::Certificate(plane.pki().admin().unwrap());
    let authority = plane.server(0).addr().to_string();
    let mut tls = connect(plane.pki(), &authority, auth, &["http/1.1"])
        .await
        .unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\n{headers}\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tls.read_u8().await.unwrap());
    }
    (tls, String::from_utf8(answer).unwrap())
}

async fn with_pod() -> ControlPlane {
    let plane = plane(&[36]).await;
    Client::admin(&plane, 0)
        .await
        .post(PODS, r#"{"metadata":{"name":"p"}}"#)
        .await;
    plane
}

#[tokio::test]
async fn downloads_uploads_and_trailers() {
    let plane = plane(&[36]).await;
    let admin = Client::admin(&plane, 0).await;
    let bytes = 3_000_001;
    let mut body = admin
        .open("GET", &format!("{PODS}/any/log?mvpBytes={bytes}"), &[], "")
        .await
        .unwrap()
        .into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(total, bytes);

    let payload = "x".repeat(5 << 20);
    let upload = admin
        .send("POST", &format!("{PROXY}/upload"), &[], &payload)
        .await
        .json();
    let digest: String = Sha256::digest(&payload)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        (upload["bytes"].as_u64(), upload["sha256"].as_str()),
        (Some(5 << 20), Some(digest.as_str()))
    );
    assert_eq!(
        admin
            .send("POST", &format!("{PROXY}/echo"), &[], "hello")
            .await
            .text(),
        "hello"
    );

    let trailers = admin
        .open("GET", &format!("{PROXY}/trailers"), &[], "")
        .await
        .unwrap()
        .into_body();
    let collected = trailers.collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-mvp-trailer"], "at the end");
    assert_eq!(
        admin
            .get(&format!("{PROXY}/status/418"))
            .await
            .status
            .as_u16(),
        418
    );
}

#[tokio::test]
async fn logs() {
    let plane = with_pod().await;
    let admin = Client::admin(&plane, 0).await;
    assert_eq!(
        admin.get(&format!("{PODS}/p/log?tailLines=2")).await.text(),
        "line 0\nline 1\n"
    );
    let mut follow = admin
        .open("GET", &format!("{PODS}/p/log?follow=true"), &[], "")
        .await
        .unwrap()
        .into_body();
    let mut seen = Vec::new();
    while !seen.ends_with(b"line 5\n") {
        seen.extend(follow.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(
        admin.get(&format!("{PODS}/nope/log")).await.status.as_u16(),
        404
    );
}

#[tokio::test]
async fn websocket_and_spdy_echo() {
    let plane = with_pod().await;
    let websocket = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n";
    let (mut tls, head) = upgrade(&plane, &format!("{PODS}/p/exec?command=sh"), websocket).await;
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{head}"
    );
    // The key and its answer stand in RFC 6455 §1.3.
    assert!(
        head.contains("Sec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{head}"
    );
    assert!(
        head.contains("Sec-Websocket-Protocol: v5.channel.k8s.io\r\n"),
        "{head}"
    );
    let frame = [0x82, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3];
    tls.write_all(&frame).await.unwrap();
    let mut back = [0; 9];
    tls.read_exact(&mut back).await.unwrap();
    assert_eq!(back, frame);

    let (mut tls, head) =
        upgrade(&plane, &format!("{PODS}/p/attach"), "Upgrade: SPDY/3.1\r\n").await;
    assert!(head.contains("\r\nUpgrade: SPDY/3.1\r\n"), "{head}");
    tls.write_all(b"any bytes").await.unwrap();
    let mut back = [0; 9];
    tls.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"any bytes");
    assert_eq!(
        plane
            .server(0)
            .requests()
            .pop()
            .unwrap()
            .user
            .as_ref()
            .unwrap()
            .name,
        "kubernetes-admin"
    );

    let (_, missing) = upgrade(&plane, &format!("{PODS}/x/exec"), websocket).await;
    assert!(
        missing.starts_with("HTTP/1.1 404 Not Found\r\n"),
        "{missing}"
    );
    let (_, plain) = upgrade(&plane, &format!("{PODS}/p/exec"), "").await;
    assert!(plain.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{plain}");
}

#[tokio::test]
async fn websocket_watch() {
    let plane = plane(&[36]).await;
    let headers = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let path =
        "/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Ddefault&timeoutSeconds=1";
    let (mut tls, head) = upgrade(&plane, path, headers).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(tls.read_u8().await.unwrap(), 0x81);
    assert_eq!(tls.read_u8().await.unwrap(), 126);
    let mut event = vec![0; tls.read_u16().await.unwrap().into()];
    tls.read_exact(&mut event).await.unwrap();
    let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&"ADDED".into(), &"default".into())
    );
    assert_eq!(
        tls.read_u8().await.unwrap(),
        0x88,
        "a close frame when the watch times out"
    );
}

#[tokio::test]
async fn a_pod_with_containers_agrees_upon_protocols_that_a_kubelet_has() {
    let plane = plane(&[36]).await;
    let pod = r#"{"metadata":{"name":"c"},"spec":{"containers":[{"name":"one"},{"name":"two"}]}}"#;
    Client::admin(&plane, 0).await.post(PODS, pod).await;
    let websocket = |protocols: &str| {
        format!(
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocols}\r\n"
        )
    };
    let spdy = |protocols: &[&str]| {
        let lines = protocols
            .iter()
            .map(|one| format!("X-Stream-Protocol-Version: {one}\r\n"));
        format!("Upgrade: SPDY/3.1\r\n{}", lines.collect::<String>())
    };
    let exec = format!("{PODS}/c/exec?container=one&command=cat&stdin=true");
    let ports = format!("{PODS}/c/portforward?ports=80");
    for (path, headers, expected) in [
        (
            &exec,
            websocket("v9.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io"),
            "sec-websocket-protocol: v5.channel.k8s.io",
        ),
        (
            &exec,
            spdy(&["v9.channel.k8s.io", "v4.channel.k8s.io"]),
            "x-stream-protocol-version: v4.channel.k8s.io",
        ),
        (
            &ports,
            websocket("SPDY/3.1+portforward.k8s.io"),
            "sec-websocket-protocol: spdy/3.1+portforward.k8s.io",
        ),
        (
            &ports,
            spdy(&["portforward.k8s.io"]),
            "x-stream-protocol-version: portforward.k8s.io",
        ),
        (&exec, websocket("v9.channel.k8s.io"), "403 forbidden"),
        (&ports, spdy(&["v4.channel.k8s.io"]), "403 forbidden"),
        (
            &format!("{PODS}/c/exec?container=three&command=cat"),
            spdy(&["v4.channel.k8s.io"]),
            "400 bad request",
        ),
        (
            &format!("{PODS}/c/exec?command=cat"),
            spdy(&["v4.channel.k8s.io"]),
            "400 bad request",
        ),
    ] {
        let (_, head) = upgrade(&plane, path, &headers).await;
        let head = head.to_lowercase();
        assert!(head.contains(&expected.to_lowercase()), "{headers}: {head}");
    }
}
