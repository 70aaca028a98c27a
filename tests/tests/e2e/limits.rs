//! Above a limit the agent refuses, counts, and serves everybody else as before.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use mvp::config::Limits;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Client;
use mvp_tests::raw::{self, CONTINUATION, GOAWAY, HEADERS, RST_STREAM, Raw, block};
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

const TARGET: &str = "/api/v1/namespaces";
const WATCH: &str = "/api/v1/namespaces?watch=1";
const PATIENCE: Duration = Duration::from_secs(20);
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Scene {
    plane: ControlPlane,
    agent: TestAgent,
    tls: Arc<rustls::ClientConfig>,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut Limits)) -> Self {
        let plane = ControlPlane::builder()
            .server(ServerSpec::new("cp-a", 36))
            .start()
            .await
            .unwrap();
        let agent = TestAgent::start_with(&plane, "cp-a", |config| change(&mut config.limits))
            .await
            .unwrap();
        let admin = ClientAuth::Certificate(plane.pki().admin().unwrap());
        let tls = Arc::new(plane.pki().client_config(admin, &[]).unwrap());
        Self { plane, agent, tls }
    }

    async fn http1(&self) -> Raw {
        Raw::http1(self.agent.address, &self.tls).await.unwrap()
    }

    async fn http2(&self) -> Raw {
        Raw::http2(self.agent.address, &self.tls).await.unwrap()
    }

    async fn client(&self) -> Client {
        Client::http2(self.agent.address, &self.tls).await.unwrap()
    }

    /// New clients of both kinds are served.
    async fn serves(&self) {
        let http1 = Client::http1(self.agent.address, &self.tls).await.unwrap();
        for client in [http1, self.client().await] {
            assert_eq!(client.get(TARGET, &[]).await.unwrap().status, 200);
        }
    }

    async fn refused(&self, limit: &str) -> f64 {
        let sample = format!("mvp_refused_total{{limit=\"{limit}\"}}");
        self.agent.metric(&sample).await.unwrap()
    }

    async fn counts(&self, sample: &str, at_least: f64) {
        eventually(sample, PATIENCE, || async {
            Ok(self.agent.metric(sample).await? >= at_least)
        })
        .await
        .unwrap();
    }

    async fn counts_refused(&self, limit: &str, at_least: f64) {
        self.counts(&format!("mvp_refused_total{{limit=\"{limit}\"}}"), at_least)
            .await;
    }

    fn streams(&self) -> usize {
        self.plane.server(0).streams()
    }
}

fn get(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "k"),
        (":path", path),
    ])
}

/// Reads until GOAWAY and gives its reason; the connection must end after it.
async fn goaway(raw: &mut Raw) -> u32 {
    let mut reason = None;
    while let Some(frame) = raw.frame().await.unwrap() {
        if frame.kind == GOAWAY {
            reason = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
        }
    }
    reason.expect("GOAWAY before the end")
}

#[tokio::test]
async fn header_bytes() {
    let scene = Scene::new(|limits| limits.header_bytes = 8192).await;
    let filler = "v".repeat(4096);

    let mut http1 = scene.http1().await;
    http1
        .send(format!("GET {TARGET} HTTP/1.1\r\nHost: k\r\nX-A: {filler}\r\nX-B: {filler}\r\nX-C: {filler}\r\n\r\n"))
        .await
        .unwrap();
    let refused = http1.answer(false).await.unwrap();
    assert_eq!((refused.status, refused.header("connection")), (431, None));
    scene.counts_refused("header_bytes", 1.0).await;
    http1
        .send(format!("GET {TARGET} HTTP/1.1\r\nHost: k\r\n\r\n"))
        .await
        .unwrap();
    assert_eq!(
        http1.answer(false).await.unwrap().status,
        200,
        "one request"
    );

    // One that never ends is answered, then cut off; the client may still be writing then.
    let mut endless = scene.http1().await;
    let _cut_off = endless
        .send(format!(
            "GET {TARGET} HTTP/1.1\r\nX-A: {}",
            filler.repeat(64)
        ))
        .await;
    let refused = endless.answer(false).await.unwrap();
    assert_eq!(
        (refused.status, refused.header("connection")),
        (431, Some("close"))
    );
    endless.until_closed().await.unwrap();
    scene.counts_refused("header_bytes", 2.0).await;

    let http2 = scene.client().await;
    let before = scene.refused("header_bytes").await;
    let large = [("x-a", filler.as_str()), ("x-b", &filler), ("x-c", &filler)];
    // A client that obeys the server's SETTINGS does not even send it; this one does.
    let answer = http2.get(TARGET, &large).await.unwrap();
    assert_eq!(answer.status, 431);
    assert_eq!(answer.json()["kind"], "Status");
    assert_eq!(
        http2.get(TARGET, &[]).await.unwrap().status,
        200,
        "one stream, not the connection"
    );
    assert_eq!(scene.refused("header_bytes").await, before + 1.0);
    let huge = "v".repeat(32 << 10);
    assert_eq!(
        http2.get(TARGET, &[("x-a", &huge)]).await.unwrap().status,
        431
    );
    assert_eq!(http2.get(TARGET, &[]).await.unwrap().status, 200);
    scene.serves().await;
}

#[tokio::test]
async fn header_count() {
    let scene = Scene::new(|limits| limits.header_count = 20).await;
    let fields: String = (0..40).map(|n| format!("X-{n}: v\r\n")).collect();
    let mut http1 = scene.http1().await;
    http1
        .send(format!("GET {TARGET} HTTP/1.1\r\nHost: k\r\n{fields}\r\n"))
        .await
        .unwrap();
    assert_eq!(http1.answer(false).await.unwrap().status, 431);
    assert_eq!(scene.refused("header_count").await, 1.0);

    let http2 = scene.client().await;
    let names: Vec<_> = (0..40).map(|n| format!("x-{n}")).collect();
    let headers: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let answer = http2.get(TARGET, &headers).await.unwrap();
    assert_eq!(answer.status, 431);
    assert_eq!(answer.json()["code"], 431);
    let same: Vec<_> = (0..40).map(|_| ("x-same", "v")).collect();
    assert_eq!(
        http2.get(TARGET, &same).await.unwrap().status,
        431,
        "fields, not names"
    );
    assert_eq!(scene.refused("header_count").await, 3.0);
    scene.serves().await;
}

#[tokio::test]
async fn connections() {
    let scene = Scene::new(|limits| limits.connections = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(scene.client().await);
    }
    for _ in 0..2 {
        // Refused before TLS: closed without an alert.
        let mut refused = TcpStream::connect(scene.agent.address).await.unwrap();
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
    scene.counts_refused("connections", 2.0).await;
    for client in &held {
        assert_eq!(client.get(TARGET, &[]).await.unwrap().status, 200);
    }
    held.clear();
    eventually("places are given back", PATIENCE, || async {
        let client = Client::http2(scene.agent.address, &scene.tls).await?;
        Ok(client.get(TARGET, &[]).await?.status == 200)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn pending_handshakes_and_their_time() {
    let scene = Scene::new(|limits| {
        limits.pending_handshakes = 4;
        limits.handshake_timeout = Duration::from_secs(2);
    })
    .await;
    let established = scene.client().await;
    // An answer shows that its own handshake has given its place back.
    assert_eq!(established.get(TARGET, &[]).await.unwrap().status, 200);
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(scene.agent.address).await.unwrap());
    }
    scene.counts_refused("pending_handshakes", 8.0).await;
    assert_eq!(established.get(TARGET, &[]).await.unwrap().status, 200);
    // The others are given up, too.
    for stream in &mut silent {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
    scene
        .counts("mvp_tls_handshake_failures_total{reason=\"timeout\"}", 4.0)
        .await;
    // And noise is no handshake.
    let mut noise = TcpStream::connect(scene.agent.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut noise, b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut noise, &mut Vec::new())
        .await
        .ok();
    scene
        .counts("mvp_tls_handshake_failures_total{reason=\"error\"}", 1.0)
        .await;
    scene.serves().await;
}

#[tokio::test]
async fn a_header_that_takes_forever() {
    let scene = Scene::new(|limits| limits.header_timeout = Duration::from_millis(700)).await;
    let mut slow = scene.http1().await;
    slow.send(format!("GET {TARGET} HTTP/1.1\r\nHost: k\r\nX-Slow"))
        .await
        .unwrap();
    slow.until_closed().await.unwrap();
    scene.counts_refused("header_timeout", 1.0).await;
    // Also as a second request.
    let mut second = scene.http1().await;
    second
        .send(format!("GET {TARGET} HTTP/1.1\r\nHost: k\r\n\r\n"))
        .await
        .unwrap();
    assert_eq!(second.answer(false).await.unwrap().status, 200);
    let mut idle = scene.http1().await;
    second.send("GET /").await.unwrap();
    second.until_closed().await.unwrap();
    scene.counts_refused("header_timeout", 2.0).await;
    // One that has said nothing all that time was not slow, before its first request or between two.
    for _ in 0..2 {
        idle.send(format!("GET {TARGET} HTTP/1.1\r\nHost: k\r\n\r\n"))
            .await
            .unwrap();
        assert_eq!(idle.answer(false).await.unwrap().status, 200);
        let mut slow = scene.http1().await;
        slow.send("GET /").await.unwrap();
        slow.until_closed().await.unwrap();
    }
    scene.serves().await;
}

#[tokio::test]
async fn streams_of_one_connection() {
    let scene = Scene::new(|limits| limits.streams_per_connection = 10).await;
    let mut http2 = scene.http2().await;
    let idle = scene.streams();
    for stream in 0..10 {
        http2
            .send_frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                2 * stream + 1,
                &get(WATCH),
            )
            .await
            .unwrap();
    }
    eventually("ten watches", PATIENCE, || async {
        Ok(scene.streams() >= idle + 10)
    })
    .await
    .unwrap();
    for stream in 10..15 {
        http2
            .send_frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                2 * stream + 1,
                &get(WATCH),
            )
            .await
            .unwrap();
    }
    let mut refused = Vec::new();
    while refused.len() < 5 {
        let frame = http2.frame().await.unwrap().expect("open");
        if frame.kind == RST_STREAM {
            assert_eq!(frame.payload, REFUSED_STREAM.to_be_bytes());
            refused.push(frame.stream);
        }
    }
    assert_eq!(refused, [21, 23, 25, 27, 29]);
    scene.serves().await;
    // The connection is still good for what was accepted.
    http2
        .send_frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())
        .await
        .unwrap();
    http2
        .send_frame(HEADERS, END_HEADERS | END_STREAM, 31, &get(TARGET))
        .await
        .unwrap();
    loop {
        let frame = http2.frame().await.unwrap().expect("open");
        if frame.stream == 31 {
            assert_eq!(frame.kind, HEADERS);
            break;
        }
    }
}

const FLOODS: &str = "mvp_http2_reset_floods_total";

#[tokio::test]
async fn rapid_reset() {
    let scene = Scene::new(|_| {}).await;
    let mut http2 = scene.http2().await;
    let before = scene.plane.server(0).request_count();
    let mut flood = Vec::new();
    for stream in 0..5000 {
        flood.extend(raw::frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * stream + 1,
            &get(TARGET),
        ));
        flood.extend(raw::frame(
            RST_STREAM,
            0,
            2 * stream + 1,
            &8_u32.to_be_bytes(),
        ));
    }
    // The agent may hang up while the flood is still being written.
    let _cut_off = http2.send(&flood).await;
    let reason = goaway(&mut http2).await;
    assert_eq!(reason, ENHANCE_YOUR_CALM);
    scene.counts(FLOODS, 1.0).await;
    let reached = scene.plane.server(0).request_count() - before;
    assert!(reached < 2500, "{reached} of 5000 reached the server");
    scene.serves().await;
}

#[tokio::test]
async fn continuation_flood() {
    let scene = Scene::new(|_| {}).await;
    let mut http2 = scene.http2().await;
    let mut flood = raw::frame(HEADERS, END_STREAM, 1, &get(TARGET));
    for _ in 0..10_000 {
        flood.extend(raw::frame(CONTINUATION, 0, 1, &block(&[("x", "y")])));
    }
    let _cut_off = http2.send(&flood).await;
    assert_eq!(goaway(&mut http2).await, ENHANCE_YOUR_CALM);
    scene.counts(FLOODS, 1.0).await;
    scene.serves().await;
}

#[tokio::test]
async fn too_many_errors_of_the_clients_own_making() {
    let scene = Scene::new(|limits| limits.pending_resets = 50).await;
    let mut http2 = scene.http2().await;
    // Each of them is malformed (RFC 9113 §8.2.2) and costs one stream.
    let malformed = block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/malformed"),
        ("connection", "close"),
    ]);
    let mut flood = Vec::new();
    for stream in 0..500 {
        flood.extend(raw::frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * stream + 1,
            &malformed,
        ));
    }
    let _cut_off = http2.send(&flood).await;
    assert_eq!(goaway(&mut http2).await, ENHANCE_YOUR_CALM);
    scene.counts(FLOODS, 1.0).await;
    let seen = scene.plane.server(0).requests();
    assert!(seen.iter().all(|seen| seen.target != "/malformed"));
    scene.serves().await;
}

#[tokio::test]
async fn frames_that_break_the_protocol() {
    let scene = Scene::new(|_| {}).await;
    let with = |field| {
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/malformed"),
            field,
        ])
    };
    for fields in [
        with(("X-Upper", "x")),
        with(("x-line", "a\r\nx-remote-user: root")),
        with(("x-nul", "a\0b")),
        with((":path", "/twice")),
        with(("transfer-encoding", "chunked")),
        with(("keep-alive", "1")),
        with(("bad name", "x")),
        with(("content-length", "5")),
        with(("content-length", "-1")),
        block(&[
            (":method", "GET"),
            (":path", "/malformed"),
            ("x", "y"),
            (":scheme", "https"),
        ]),
        block(&[(":scheme", "https"), (":path", "/malformed")]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "malformed"),
        ]),
        block(&[
            (":method", "GE T"),
            (":scheme", "https"),
            (":path", "/malformed"),
        ]),
        block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/malformed a\r\n\r\n"),
        ]),
        block(&[(":method", "CONNECT"), (":authority", "malformed:443")]),
    ] {
        let mut http2 = scene.http2().await;
        http2
            .send_frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)
            .await
            .unwrap();
        // A stream error, a connection error, or an answer: all of them are about stream 1 or the connection.
        loop {
            let Some(frame) = http2.frame().await.unwrap() else {
                break;
            };
            if frame.kind == GOAWAY
                || (frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM))
            {
                break;
            }
        }
        scene.serves().await;
    }
    let seen = scene.plane.server(0).requests();
    let bad: Vec<_> = seen
        .iter()
        .filter(|seen| seen.target.contains("malformed") || seen.method == "CONNECT")
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}
