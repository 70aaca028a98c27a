//! Bodies through the agent's own client, against the h2 crate's server.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use tokio::io::duplex;
use tokio::task::JoinSet;

use super::own_tests::{connect, outcome};
use super::*;
use crate::identity::trust_in_nobody;
use crate::proxy::body::Upload;

/// More than both windows and a frame hold, both ways at once, on several streams; the h2 crate's server is at the other end.
#[tokio::test]
async fn bodies_pass_whatever_the_windows_are() {
    for window in [1_000, 65_535, 1 << 20] {
        let (mut sender, far) = connect(Http2::Own).await;
        let server = tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder
                .initial_window_size(window)
                .max_concurrent_streams(8);
            let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
            while let Some(accepted) = connection.accept().await {
                let (request, respond) = accepted.unwrap();
                tokio::spawn(echo(request, respond));
            }
        });
        let mut asked = JoinSet::new();
        for stream in 0..6_u8 {
            let mut sender = sender.clone();
            asked.spawn(async move {
                let body: Vec<u8> = (0..300_000_u32)
                    .map(|at| (at % 251) as u8 ^ stream)
                    .collect();
                let (request, _tasks) = upload(body.clone()).await;
                let answer = sender.send_http(request).await.unwrap();
                let outcome = outcome(Ok(answer)).await;
                assert_eq!(outcome.broke, None);
                assert_eq!(outcome.trailers, [("x-length".into(), "300000".into())]);
                assert!(outcome.body == body, "{} bytes", outcome.body.len());
            });
        }
        while let Some(done) = asked.join_next().await {
            done.unwrap();
        }
        assert!(!sender.is_closed());
        drop(sender);
        server.await.unwrap();
    }
}

/// A request with a body, which comes over a connection of its own, as from a client. The connection is there for as long as the tasks.
pub(super) async fn upload(body: Vec<u8>) -> (Request<UploadBody>, JoinSet<()>) {
    let (near, far) = duplex(1 << 16);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        let request = Request::post("https://agent/").body(()).unwrap();
        let (_answer, mut stream) = send.send_request(request, false).unwrap();
        stream.send_data(body.into(), true).unwrap();
        let _ = connection.await;
    });
    let mut connection = h2::server::handshake(far).await.unwrap();
    let (request, respond) = connection.accept().await.unwrap().unwrap();
    let (parts, stream) = request.into_parts();
    let incoming = WireBody::http2(&parts.headers, stream, None);
    tasks.spawn(async move {
        let _respond = respond;
        while connection.accept().await.is_some() {}
    });
    let trust = Arc::new(trust_in_nobody());
    let mut request = Request::new(Upload::new(incoming, &trust).body(None));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "https://server/echo".parse().unwrap();
    (request, tasks)
}

async fn echo(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let mut chunk = chunk.unwrap();
        length += chunk.len();
        while !chunk.is_empty() {
            stream.reserve_capacity(chunk.len());
            let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let part = chunk.split_to(granted.unwrap().unwrap().min(chunk.len()));
            let _ = body.flow_control().release_capacity(part.len());
            stream.send_data(part, false).unwrap();
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-length", HeaderValue::from(length));
    stream.send_trailers(trailers).unwrap();
}
