//! Servers in processes of their own share the store of the test.
#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use crate::common::{Answer, connect};
use http::Request;
use http_body_util::Empty;
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mvp_tests::sim::{ControlPlane, ServerSpec, control::Command, pki::ClientAuth};

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-sim");

async fn get(plane: &ControlPlane, authority: &str, path: &str) -> Option<Answer> {
    let auth = ClientAuth::Certificate(plane.pki().admin().unwrap());
    let tls = connect(plane.pki(), authority, auth, &["h2"]).await.ok()?;
    let (mut send, connection) = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
        .await
        .ok()?;
    tokio::spawn(connection);
    let uri = format!("https://{authority}{path}");
    let request = Request::builder()
        .uri(uri)
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    Answer::read(send.send_request(request).await.ok()?)
        .await
        .ok()
}

#[tokio::test]
async fn one_store_across_processes() {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("a", 35))
        .start()
        .await
        .unwrap();
    let spec = ServerSpec::new("b", 36).listen("127.0.0.3:0".parse().unwrap());
    let child = plane.spawn(Path::new(BINARY), &spec).await.unwrap();
    let (own, other) = (plane.server(0).addr().to_string(), child.addr().to_string());
    assert_eq!(
        get(&plane, &other, "/version").await.unwrap().json()["minor"],
        "36"
    );

    let admin = crate::common::Client::admin(&plane, 0).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let watch = {
        let (plane_pki, other) = (plane.pki().clone(), other.clone());
        let path = format!("{maps}?watch=true&resourceVersion=0&timeoutSeconds=30");
        tokio::spawn(async move {
            use http_body_util::BodyExt;
            let auth = ClientAuth::Certificate(plane_pki.admin().unwrap());
            let tls = connect(&plane_pki, &other, auth, &["h2"]).await.unwrap();
            let (mut send, connection) =
                conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let uri = format!("https://{other}{path}");
            let request = Request::builder()
                .uri(uri)
                .body(Empty::<bytes::Bytes>::new())
                .unwrap();
            let mut body = send.send_request(request).await.unwrap().into_body();
            let mut seen = String::new();
            while !seen.contains("\"from-parent\"") {
                let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
                seen.push_str(std::str::from_utf8(&data).unwrap());
            }
        })
    };
    admin
        .post(maps, r#"{"metadata":{"name":"from-parent"}}"#)
        .await;
    tokio::time::timeout(Duration::from_secs(20), watch)
        .await
        .unwrap()
        .unwrap();
    let read = get(&plane, &other, &format!("{maps}/from-parent"))
        .await
        .unwrap();
    assert_eq!(read.status.as_u16(), 200);
    let requests = child.command(&Command::Requests).await.unwrap();
    assert_eq!(requests[0]["target"], "/version");
    assert_eq!(requests[0]["user"]["name"], "kubernetes-admin");

    child
        .command(&Command::Restart { minor: 35 })
        .await
        .unwrap();
    assert_eq!(
        get(&plane, &other, "/version").await.unwrap().json()["minor"],
        "35"
    );
    child.pause().unwrap();
    let silent =
        tokio::time::timeout(Duration::from_millis(200), get(&plane, &other, "/version")).await;
    assert!(silent.is_err(), "a stopped process answered");
    child.resume().unwrap();
    assert!(get(&plane, &other, "/version").await.is_some());
    child.kill().unwrap();
    assert!(get(&plane, &other, "/version").await.is_none());
    assert!(get(&plane, &own, "/version").await.is_some());
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("a", 35))
        .start()
        .await
        .unwrap();
    let taken = ServerSpec::new("b", 36).listen(plane.server(0).addr());
    let error = plane.spawn(Path::new(BINARY), &taken).await.unwrap_err();
    assert!(format!("{error:#}").contains("bind"), "{error:#}");
}
