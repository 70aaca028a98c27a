//! Connections that are not relayed, each for one reason, which is counted; all of them are served as usual.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::common::{
    decisions, inspected_because, mixed, open, relayed, relaying, retired, tls, until_asked,
};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Client, NAME};
use mvp_tests::fixtures::{
    CONFIG_MAPS, DEFINITIONS, NEVER, ONLY_36, SOON, admin, definition, direct, plane, spec,
};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::pki::Pki;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn no_server_name() {
    let (plane, agent) = mixed(|_| {}).await;
    // An address is no name: nothing is sent.
    inspected_because(
        &agent,
        &tls(&plane, admin(&plane)),
        "127.0.0.1",
        "no_server_name",
    )
    .await;
}

#[tokio::test]
async fn no_server_name_and_allowed() {
    let (plane, agent) = mixed(|config| config.relay.without_server_name = true).await;
    let tls = tls(&plane, admin(&plane));
    let first = Client::http2_naming(agent.address, &tls, "127.0.0.1")
        .await
        .unwrap();
    until_asked(&agent, &first, &[]).await;
    let second = Client::http2_naming(agent.address, &tls, "127.0.0.1")
        .await
        .unwrap();
    assert_eq!(second.get(ONLY_36, &[]).await.unwrap().status, 200);
    assert_eq!(open(&agent, "cp-b").await.unwrap(), 1.0);
}

#[tokio::test]
async fn a_name_that_the_other_servers_certificate_lacks() {
    let plane = plane(&[35, 36]).await;
    plane
        .pki()
        .issue_server("wide", &["api.example.com"])
        .unwrap();
    let (cert, key) = (plane.pki().path("wide.crt"), plane.pki().path("wide.key"));
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        relaying(config);
        (config.serving.cert_file, config.serving.key_file) = (cert, key);
    })
    .await
    .unwrap();
    let tls = tls(&plane, admin(&plane));
    inspected_because(&agent, &tls, "api.example.com", "name_not_covered").await;
}

#[tokio::test]
async fn another_ca() {
    let plane = plane(&[35, 36]).await;
    let dir = tempfile::tempdir().unwrap();
    let other = Pki::generate(dir.path()).unwrap();
    let both = plane.pki().read("ca.crt").unwrap() + &other.read("ca.crt").unwrap();
    let bundle = dir.path().join("both.crt");
    std::fs::write(&bundle, both).unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        relaying(config);
        config.serving.cert_file = other.path("apiserver.crt");
        config.serving.key_file = other.path("apiserver.key");
        config.upstream.ca_file = bundle;
    })
    .await
    .unwrap();
    let tls = other.client_config(admin(&plane), &[]).unwrap().into();
    inspected_because(&agent, &tls, NAME, "other_ca").await;
}

#[tokio::test]
async fn a_certificate_that_changed_a_minute_ago() {
    let (plane, agent) = mixed(|config| {
        config.relay.certificate_age = Duration::from_secs(60);
    })
    .await;
    inspected_because(
        &agent,
        &tls(&plane, admin(&plane)),
        NAME,
        "certificate_changed",
    )
    .await;
}

#[tokio::test]
async fn a_peer_that_lacks_one_subresource() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 35))
        .server(spec(b'b', 36).crd_delay(NEVER))
        .start()
        .await
        .unwrap();
    // cp-b learns of it by a restart, then cp-a alone of its new subresource.
    let cp_a = direct(&plane, plane.server(0)).await;
    let crd = definition("relay.example.com", "things", "Thing", json!({}));
    let made = cp_a.post_json(DEFINITIONS, &[], &crd).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    plane.server(1).restart(36).await.unwrap();
    let patch = json!({"spec": {"versions": [{
        "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
    }]}});
    let patched = cp_a
        .call(
            http::Method::PATCH,
            &format!("{DEFINITIONS}/things.relay.example.com"),
            &[("content-type", "application/merge-patch+json")],
            mvp_tests::client::full(patch.to_string()),
        )
        .await
        .unwrap();
    assert_eq!(patched.status, 200, "{}", patched.text());
    let agent = TestAgent::start_with(&plane, "cp-a", relaying)
        .await
        .unwrap();
    inspected_because(&agent, &tls(&plane, admin(&plane)), NAME, "no_superset").await;
}

#[tokio::test]
async fn the_share_is_used_up() {
    let (plane, agent) = mixed(|config| config.relay.max_share = 0.4).await;
    // One of two would be more than the share.
    inspected_because(&agent, &tls(&plane, admin(&plane)), NAME, "share").await;
}

#[tokio::test]
async fn a_peer_that_is_not_ready() {
    let (plane, agent) = mixed(|_| {}).await;
    let client = relayed(&plane, &agent).await;
    plane.server(1).not_ready(true);
    eventually("the agent knows", SOON, || async {
        Ok(agent
            .metric("mvp_server_available{server=\"cp-b\"}")
            .await?
            == 0.0)
    })
    .await
    .unwrap();
    let next = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(next.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    assert_eq!(decisions(&agent, "server_unavailable").await.unwrap(), 1.0);
    // And the one that is there ends in a silent moment.
    eventually("it is retired", SOON, || async {
        Ok(retired(&agent, "server_unavailable").await? == 1.0)
    })
    .await
    .unwrap();
    assert!(client.get(CONFIG_MAPS, &[]).await.is_err());
}

#[tokio::test]
async fn relay_is_off() {
    let (plane, agent) = mixed(|config| config.relay.mode = mvp::config::Mode::Off).await;
    inspected_because(&agent, &tls(&plane, admin(&plane)), NAME, "relay_off").await;
}

#[tokio::test]
async fn nothing_is_mixed() {
    let plane = plane(&[36, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", relaying)
        .await
        .unwrap();
    inspected_because(&agent, &tls(&plane, admin(&plane)), NAME, "local_suffices").await;
}

#[tokio::test]
async fn a_client_hello_in_pieces_is_served() {
    let (plane, agent) = mixed(|_| {}).await;
    let connector = TlsConnector::from(tls_http2(&plane));
    let tcp = TcpStream::connect(agent.address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = connector.connect(name, Pieces(tcp)).await.unwrap();
    let client = Client::http2_over(stream, agent.address).await.unwrap();
    let answer = client.get(ONLY_36, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(decisions(&agent, "not_hot").await.unwrap(), 1.0);
}

#[tokio::test]
async fn a_client_hello_that_never_ends_is_cut() {
    let (plane, agent) = mixed(|config| {
        config.limits.handshake_timeout = Duration::from_millis(500);
    })
    .await;
    let mut tcp = TcpStream::connect(agent.address).await.unwrap();
    // The head of a record of 512 bytes, and of a ClientHello.
    tcp.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])
        .await
        .unwrap();
    assert!(matches!(tcp.read(&mut [0; 16]).await, Ok(0) | Err(_)));
    assert_eq!(decisions(&agent, "no_client_hello").await.unwrap(), 1.0);
    let timeouts = "mvp_tls_handshake_failures_total{reason=\"timeout\"}";
    assert_eq!(agent.metric(timeouts).await.unwrap(), 1.0);
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_not_tls_is_told_so() {
    let (plane, agent) = mixed(|_| {}).await;
    let mut tcp = TcpStream::connect(agent.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert (RFC 8446 section 6)");
    assert_eq!(decisions(&agent, "no_client_hello").await.unwrap(), 1.0);
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_peer_that_refuses_leaves_the_connection_to_be_inspected() {
    let plane = plane(&[35, 36]).await;
    let gate = Gate::before(plane.server(1).addr()).await;
    let address = gate.address;
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        relaying(config);
        let peer = config.peers.fixed.first_mut().unwrap();
        (peer.host, peer.port) = (address.ip().to_string(), address.port());
    })
    .await
    .unwrap();
    let first = agent.http2(&plane, admin(&plane)).await.unwrap();
    until_asked(&agent, &first, &[]).await;
    gate.close().await;
    let second = agent.http2(&plane, admin(&plane)).await.unwrap();
    let answer = second.get(CONFIG_MAPS, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(decisions(&agent, "dial_failed").await.unwrap(), 1.0);
    assert_eq!(decisions(&agent, "relayed").await.unwrap(), 0.0);
}

fn tls_http2(plane: &ControlPlane) -> std::sync::Arc<rustls::ClientConfig> {
    let tls = plane.pki().client_config(admin(plane), &["h2"]);
    tls.unwrap().into()
}

/// Writes 40 bytes at a time, each a segment of its own.
struct Pieces(TcpStream);

impl AsyncWrite for Pieces {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let some = bytes.get(..40).unwrap_or(bytes);
        Pin::new(&mut self.0).poll_write(cx, some)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

/// Passes connections on to a server until it is closed; those that are open stay so.
struct Gate {
    address: SocketAddr,
    accept: tokio::task::JoinHandle<()>,
}

impl Gate {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { address, accept }
    }

    /// New connections are refused from now on.
    async fn close(self) {
        self.accept.abort();
        // Cancelled: the listener is gone.
        assert!(self.accept.await.unwrap_err().is_cancelled());
    }
}
