//! `Connection: Upgrade` through the agent: WebSocket and SPDY, with the caller's identity, to whichever server serves it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use http::StatusCode;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::sim::api::authn::{Method, User};
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use mvp_tests::tunnel::{RawConnection, SPDY, WEBSOCKET, WEBSOCKET_ACCEPT};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(20);
const EXEC: &str = "/api/v1/namespaces/default/pods/p/exec?command=sh&stdin=true";
const ATTACH: &str = "/api/v1/namespaces/default/pods/p/attach";
const POLICY_WATCH: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies?watch=true";
const SWITCHED: StatusCode = StatusCode::SWITCHING_PROTOCOLS;

/// Servers of 1.35 (local) and 1.36 with a pod `p`, and the agent in front of the first.
async fn setup() -> (ControlPlane, TestAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let created = client
        .post_json("/api/v1/namespaces/default/pods", &[], &pod)
        .await
        .unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
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

async fn upgrades_open(agent: &TestAgent, wanted: f64) {
    eventually("number of open upgrades", LIMIT, || async {
        Ok(agent.metric("mvp_upgrades_open").await? == wanted)
    })
    .await
    .unwrap();
}

/// Nothing of a tunnel is left anywhere.
async fn all_ended(plane: &ControlPlane, agent: &TestAgent) {
    upgrades_open(agent, 0.0).await;
    eventually("no connection is left open", LIMIT, || async {
        let outstanding = agent
            .metric("mvp_outstanding_requests{server=\"cp-a\"}")
            .await?
            + agent
                .metric("mvp_outstanding_requests{server=\"cp-b\"}")
                .await?;
        let streams: usize = plane.servers().iter().map(|s| s.streams()).sum();
        Ok(outstanding == 0.0 && streams == 0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn websocket_and_spdy_to_the_local_server_are_tunnelled_and_counted() {
    let (plane, agent) = setup().await;
    let mut websocket = open(&agent, &plane).await;
    let (status, headers) = websocket.exchange("GET", EXEC, WEBSOCKET).await.unwrap();
    assert_eq!(status, SWITCHED);
    assert_eq!(headers["upgrade"], "websocket");
    assert_eq!(headers["connection"], "Upgrade");
    assert_eq!(headers["sec-websocket-accept"], WEBSOCKET_ACCEPT);
    assert_eq!(headers["sec-websocket-protocol"], "v5.channel.k8s.io");
    websocket.echo(b"a frame, or so").await.unwrap();

    let mut spdy = open(&agent, &plane).await;
    let (status, headers) = spdy.exchange("POST", ATTACH, SPDY).await.unwrap();
    assert_eq!(status, SWITCHED);
    assert_eq!(headers["upgrade"], "SPDY/3.1");
    assert_eq!(headers["x-stream-protocol-version"], "v4.channel.k8s.io");
    spdy.echo(b"\x80\x03\x00\x01 syn").await.unwrap();
    websocket.echo(b"still here").await.unwrap();

    upgrades_open(&agent, 2.0).await;
    assert_eq!(
        agent
            .metric("mvp_outstanding_requests{server=\"cp-a\"}")
            .await
            .unwrap(),
        2.0
    );
    drop(websocket);
    upgrades_open(&agent, 1.0).await;
    spdy.echo(b"unmoved").await.unwrap();
    drop(spdy);
    all_ended(&plane, &agent).await;
}

#[tokio::test]
async fn a_watch_over_websocket_of_a_type_only_the_peer_serves_keeps_the_users_identity() {
    let (plane, agent) = setup().await;
    let mut watch = open(&agent, &plane).await;
    let (status, headers) = watch
        .exchange("GET", POLICY_WATCH, WEBSOCKET)
        .await
        .unwrap();
    assert_eq!(status, SWITCHED);
    assert_eq!(headers["sec-websocket-accept"], WEBSOCKET_ACCEPT);

    let seen = plane.named("cp-b").unwrap().requests();
    let seen = seen.iter().find(|r| r.target == POLICY_WATCH).unwrap();
    assert_eq!(seen.how, Some(Method::FrontProxy));
    let user = seen.user.as_ref().unwrap();
    assert_eq!(user.name, "kubernetes-admin");
    assert!(user.groups.iter().any(|g| g == "system:masters"));
    assert!(seen.headers.contains_key("x-kubernetes-peer-proxied"));

    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "live"},
        "spec": {
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
        },
    });
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let path = POLICY_WATCH.split('?').next().unwrap();
    let created = client.post_json(path, &[], &policy).await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(watch.stream.read_u8().await.unwrap(), 0x81, "a text frame");
    assert_eq!(watch.stream.read_u8().await.unwrap(), 126);
    let mut event = vec![0; watch.stream.read_u16().await.unwrap().into()];
    watch.stream.read_exact(&mut event).await.unwrap();
    let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"]["metadata"]["name"], "live");
    drop(watch);
    all_ended(&plane, &agent).await;
}

#[tokio::test]
async fn tunnels_go_to_the_peer_while_the_local_server_is_down() {
    let (plane, agent) = setup().await;
    plane.named("cp-a").unwrap().kill().await;
    for (method, target, protocol) in [("GET", EXEC, WEBSOCKET), ("POST", ATTACH, SPDY)] {
        let mut tunnel = open(&agent, &plane).await;
        let (status, _) = tunnel.exchange(method, target, protocol).await.unwrap();
        assert_eq!(status, SWITCHED);
        tunnel.echo(b"by way of the peer").await.unwrap();
    }
    let seen = plane.named("cp-b").unwrap().requests();
    for target in [EXEC, ATTACH] {
        let seen = seen.iter().find(|r| r.target == target).unwrap();
        assert_eq!(seen.how, Some(Method::FrontProxy));
        assert_eq!(seen.user.as_ref().unwrap().name, "kubernetes-admin");
    }
    all_ended(&plane, &agent).await;
}

#[tokio::test]
async fn a_token_goes_to_the_server_that_knows_whose_it_is() {
    let (plane, agent) = setup().await;
    let robot = User {
        name: "robot".into(),
        groups: vec!["system:masters".into()],
        ..User::default()
    };
    plane.add_token("s3cr3t", robot);
    let mut headers = vec![("authorization", "Bearer s3cr3t")];
    headers.extend_from_slice(SPDY);
    let mut tunnel = RawConnection::open(agent.address, &plane, ClientAuth::None)
        .await
        .unwrap();
    let (status, _) = tunnel.exchange("POST", ATTACH, &headers).await.unwrap();
    assert_eq!(status, SWITCHED);
    tunnel.echo(b"robot speaking").await.unwrap();
    let seen = plane.named("cp-a").unwrap().requests();
    let seen = seen.iter().find(|r| r.target == ATTACH).unwrap();
    assert_eq!(seen.how, Some(Method::Token));
    assert_eq!(seen.user.as_ref().unwrap().name, "robot");
    assert!(!seen.headers.contains_key("x-remote-user"));
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer_and_the_connection_goes_on() {
    let (plane, agent) = setup().await;
    let missing = "/api/v1/namespaces/default/pods/nobody/exec";
    let mut connection = open(&agent, &plane).await;
    for (target, protocol, code) in [
        (missing, "websocket", 404),
        (ATTACH, "gopher", 400),
        (missing, "SPDY/3.1", 404),
    ] {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", protocol),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let (status, headers) = connection.exchange("GET", target, &headers).await.unwrap();
        assert_eq!(status.as_u16(), code, "{target} {protocol}");
        let body = body(&mut connection, &headers).await;
        assert_eq!(body["kind"], "Status");
        assert_eq!(body["code"], code);
    }
    let (status, _) = connection.exchange("GET", ATTACH, SPDY).await.unwrap();
    assert_eq!(status, SWITCHED, "the same connection");
    connection.echo(b"at last").await.unwrap();
    drop(connection);

    // Alice may not: the server says so, not the agent.
    let alice = ClientAuth::Certificate(plane.pki().alice().unwrap());
    let mut connection = RawConnection::open(agent.address, &plane, alice)
        .await
        .unwrap();
    let (status, headers) = connection.exchange("GET", EXEC, WEBSOCKET).await.unwrap();
    assert_eq!(status, 403);
    let refusal = body(&mut connection, &headers).await;
    assert!(
        refusal["message"].as_str().unwrap().contains("\"alice\""),
        "{refusal}"
    );
    let (status, _) = connection.exchange("GET", "/version", &[]).await.unwrap();
    assert_eq!(status, 200);
    drop(connection);
    all_ended(&plane, &agent).await;
}

/// A body with a Content-Length.
async fn body(connection: &mut RawConnection, headers: &http::HeaderMap) -> serde_json::Value {
    let length = headers["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    connection.stream.read_exact(&mut body).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn big_transfers_go_both_ways_at_once_and_end_with_half_a_close() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = if cfg!(debug_assertions) { 256 } else { 4096 };
    let (plane, agent) = setup().await;
    let mut tunnel = open(&agent, &plane).await;
    assert_eq!(
        tunnel.exchange("POST", ATTACH, SPDY).await.unwrap().0,
        SWITCHED
    );
    let chunk: Vec<u8> = (0..CHUNK).map(|at| (at % 251) as u8).collect();
    let (mut reading, mut writing) = tokio::io::split(tunnel.stream);
    let sent = chunk.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..CHUNKS {
            writing.write_all(&sent).await.unwrap();
        }
        // The end of one direction only: what is under way the other way must still come.
        writing.shutdown().await.unwrap();
        writing
    });
    let mut back = vec![0; CHUNK];
    for at in 0..CHUNKS {
        reading.read_exact(&mut back).await.unwrap();
        assert!(back == chunk, "chunk {at} differs");
    }
    let _writing = writer.await.unwrap();
    assert_eq!(
        reading.read(&mut back).await.unwrap(),
        0,
        "a clean end, with close_notify"
    );
    all_ended(&plane, &agent).await;
    assert_eq!(tunnel_bytes(&agent).await, [(CHUNK * CHUNKS) as f64; 2]);
}

/// To servers and to clients.
async fn tunnel_bytes(agent: &TestAgent) -> [f64; 2] {
    let metric = async |direction| {
        let sample = format!("mvp_tunnel_bytes_total{{direction=\"{direction}\"}}");
        agent.metric(&sample).await.unwrap()
    };
    [metric("to_server").await, metric("to_client").await]
}

#[tokio::test]
async fn a_server_that_dies_ends_the_tunnel() {
    let (plane, agent) = setup().await;
    let mut tunnel = open(&agent, &plane).await;
    assert_eq!(
        tunnel.exchange("POST", ATTACH, SPDY).await.unwrap().0,
        SWITCHED
    );
    tunnel.echo(b"before").await.unwrap();
    assert_eq!(tunnel_bytes(&agent).await, [6.0, 6.0], "counted as they go");
    plane.named("cp-a").unwrap().kill().await;
    let end = tokio::time::timeout(LIMIT, tunnel.read_some())
        .await
        .expect("the end is seen")
        .unwrap();
    assert_eq!(end, b"");
    upgrades_open(&agent, 0.0).await;
}

#[tokio::test]
async fn a_client_that_vanishes_ends_the_tunnel_at_the_server() {
    let (plane, agent) = setup().await;
    let server = plane.named("cp-a").unwrap();
    let mut tunnel = open(&agent, &plane).await;
    assert_eq!(
        tunnel.exchange("POST", ATTACH, SPDY).await.unwrap().0,
        SWITCHED
    );
    tunnel.echo(b"before").await.unwrap();
    let with_tunnel = server.connections();
    // RST: no close_notify, no FIN.
    tunnel.stream.get_ref().0.set_zero_linger().unwrap();
    drop(tunnel);
    eventually("the server's connection is gone", LIMIT, || async {
        Ok(server.connections() < with_tunnel)
    })
    .await
    .unwrap();
    all_ended(&plane, &agent).await;
}

#[tokio::test]
async fn an_upgrade_over_http2_is_ignored() {
    let (plane, agent) = setup().await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    // `Connection` may not be sent over HTTP/2 (RFC 9113 §8.2.2), and hyper would not; a lone `Upgrade` neither.
    // What a confused client can send is the rest; kube-apiserver answers as to any request without an upgrade.
    let answer = client
        .get(EXEC, &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")])
        .await
        .unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(answer.json()["message"], "Upgrade request required");
    let seen = plane.named("cp-a").unwrap().requests();
    let seen = seen.iter().find(|r| r.target == EXEC).unwrap();
    assert_eq!(seen.version, http::Version::HTTP_2);
    assert_eq!(agent.metric("mvp_upgrades_open").await.unwrap(), 0.0);
}
