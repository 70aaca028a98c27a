//! What one caller does is not paid for by another: connections, handshakes and silence.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use mvp_tests::agent::eventually;
use mvp_tests::child::{ChildAgent, raise_descriptor_limit};
use mvp_tests::client::{Client, connect_tls, empty};
use mvp_tests::crowd::Silent;
use mvp_tests::fixtures::{CONFIG_MAPS, NEVER, ONLY_36, SOON, admin, plane};
use mvp_tests::raw::{GOAWAY, HEADERS, RST_STREAM, Raw, block};
use mvp_tests::sim::ControlPlane;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");
const PING: u8 = 6;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn tls(plane: &ControlPlane) -> Arc<rustls::ClientConfig> {
    Arc::new(plane.pki().client_config(admin(plane), &[]).unwrap())
}

fn get(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "k"),
        (":path", path),
    ])
}

/// 1,024 connections that say nothing, and 100 more each second: from the good client's own address, as behind a load
/// balancer, and from another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_client_succeeds_beside_silent_connections() {
    raise_descriptor_limit().unwrap();
    let plane = plane(&[35, 36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |_| {})
        .await
        .unwrap();
    let tls = tls(&plane);
    for source in [loopback(1), loopback(2)] {
        let crowd = Silent::crowd(source, agent.address, 1024, 100)
            .await
            .unwrap();
        for attempt in 0..60 {
            let client = Client::http2(agent.address, &tls).await;
            let client = client.unwrap_or_else(|e| panic!("{source}, attempt {attempt}: {e:#}"));
            let answer = client.get(ONLY_36, &[]).await.unwrap();
            assert_eq!(answer.status, 200, "{source}, attempt {attempt}");
        }
        assert!(crowd.open() < 1024, "the oldest silent ones made room");
    }
    assert!(
        agent
            .metric("mvp_refused_total{limit=\"pending_handshakes\"}")
            .await
            .unwrap()
            > 0.0
    );
}

/// The greedy one's oldest silent connections make room, not those of somebody who has few.
#[tokio::test]
async fn the_largest_source_makes_room_first() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"]["pendingHandshakes"] = 8.into();
        config["limits"]["handshakeTimeout"] = "1h".into();
    })
    .await
    .unwrap();
    let greedy = Silent::crowd(loopback(2), agent.address, 40, 0)
        .await
        .unwrap();
    // The newest, and the fewest.
    let modest = Silent::crowd(loopback(3), agent.address, 2, 0)
        .await
        .unwrap();
    eventually("all but eight were closed", SOON, || async {
        Ok(modest.open() + greedy.open() == 8)
    })
    .await
    .unwrap();
    assert_eq!(modest.open(), 2);
}

/// Connections that were made and never used make room as well once there are too many.
#[tokio::test]
async fn unused_connections_make_room_for_another_source() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"]["connections"] = 16.into();
        config["limits"]["pendingHandshakes"] = 16.into();
    })
    .await
    .unwrap();
    let tls = tls(&plane);
    let mut used = Vec::new();
    for _ in 0..2 {
        let client = Client::http2(agent.address, &tls).await.unwrap();
        assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
        used.push(client);
    }
    let mut unused = Vec::new();
    for _ in 0..14 {
        unused.push(Raw::http2(agent.address, &tls).await.unwrap());
    }
    // From another address than the fourteen.
    let stream = mvp_tests::crowd::connect_from(loopback(9), agent.address)
        .await
        .unwrap();
    let mut other = Raw::over(stream, &tls, b"http/1.1").await.unwrap();
    other
        .send(format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: k\r\n\r\n"))
        .await
        .unwrap();
    assert_eq!(other.answer(false).await.unwrap().status, 200);
    unused.remove(0).until_closed().await.unwrap();
    for client in &used {
        assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    }
}

/// As a kube-apiserver does; PINGs are no requests (`server-side IdleTimeout of golang.org/x/net/http2`).
#[tokio::test]
async fn an_http2_connection_that_never_asks_is_closed() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"]["idleTimeout"] = "1s".into();
    })
    .await
    .unwrap();
    let tls = tls(&plane);
    let watching = Client::http2(agent.address, &tls).await.unwrap();
    let request = watching
        .request(
            http::Method::GET,
            "/api/v1/namespaces?watch=1",
            &[],
            empty(),
        )
        .unwrap();
    let watch = watching.send(request).await.unwrap();
    assert_eq!(watch.status(), 200);
    for asks in [false, true] {
        let mut idle = Raw::http2(agent.address, &tls).await.unwrap();
        if asks {
            idle.send_frame(HEADERS, END_HEADERS | END_STREAM, 1, &get(CONFIG_MAPS))
                .await
                .unwrap();
        }
        assert_eq!(
            goaway_despite_pings(&mut idle).await,
            Some(0),
            "asks: {asks}"
        );
    }
    assert_eq!(
        watching.get(CONFIG_MAPS, &[]).await.unwrap().status,
        200,
        "one with an open watch stays"
    );
    drop(watch);
}

/// Answers PINGs and sends some, until the end of the connection. The reason in the last GOAWAY.
async fn goaway_despite_pings(raw: &mut Raw) -> Option<u32> {
    let mut reason = None;
    let end = async {
        loop {
            let Ok(frame) = timeout(Duration::from_millis(100), raw.frame()).await else {
                // The agent may have closed in between.
                let _gone = raw.send_frame(PING, 0, 0, b"activity").await;
                continue;
            };
            let Some(frame) = frame.unwrap() else { return };
            match frame.kind {
                PING if frame.flags & ACK == 0 => {
                    let _gone = raw.send_frame(PING, ACK, 0, &frame.payload).await;
                }
                GOAWAY => {
                    let code = frame.payload[4..8].try_into().unwrap();
                    reason = Some(u32::from_be_bytes(code));
                }
                RST_STREAM => panic!("{frame:?}"),
                _ => {}
            }
        }
    };
    timeout(SOON, end).await.expect("still open");
    reason
}

/// A hello of which every byte is a segment of its own is not looked at for long, and its client is served all the same.
#[tokio::test]
async fn a_hello_byte_by_byte_is_inspected_as_usual() {
    let plane = plane(&[35, 36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"]["handshakeTimeout"] = "1m".into();
        // Hellos are looked into for connections that could be forwarded whole.
        config["relay"]["mode"] = "auto".into();
    })
    .await
    .unwrap();
    let tls = tls(&plane);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let stream = tokio::net::TcpStream::connect(agent.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut from_agent, mut to_agent) = stream.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut byte = [0; 1];
        let mut sent = 0;
        while from_client.read_exact(&mut byte).await.is_ok() {
            if to_agent.write_all(&byte).await.is_err() {
                return;
            }
            sent += 1;
            if sent < 100 {
                // The attack's pace: the next byte comes when this one has been looked at.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    tokio::spawn(async move { tokio::io::copy(&mut from_agent, &mut to_client).await });
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let name = "kubernetes".try_into().unwrap();
    let mut client = connector.connect(name, near).await.unwrap();
    client
        .write_all(
            format!("GET {ONLY_36} HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    let given_up = "mvp_relay_decisions_total{decision=\"no_client_hello\"}";
    // The kernel kept the bytes until the record was whole.
    assert_eq!(agent.metric(given_up).await.unwrap(), 0.0);
}

/// Silence has its time, whoever else is there.
#[tokio::test]
async fn a_silent_connection_ends_by_itself() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"]["handshakeTimeout"] = "300ms".into();
        config["limits"]["idleTimeout"] = "1h".into();
    })
    .await
    .unwrap();
    let crowd = Silent::crowd(loopback(1), agent.address, 5, 0)
        .await
        .unwrap();
    eventually("all are closed", SOON, || async { Ok(crowd.open() == 0) })
        .await
        .unwrap();
    let tls = tls(&plane);
    let good = connect_tls(agent.address, &tls, &[b"h2"], "kubernetes");
    timeout(NEVER, good).await.unwrap().unwrap();
}
