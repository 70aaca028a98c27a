//! How an agent ends: what is under way may finish, what never would is cut at the deadline, and the exit code is 0.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::client::{Client, connect_tls, empty, piecemeal};
use mvp_tests::operator::operate;
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use mvp_tests::tunnel::{RawConnection, SPDY};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");
const LIMIT: Duration = Duration::from_secs(30);
const ECHO: &str = "/api/v1/namespaces/default/services/y/proxy/echo";
const ATTACH: &str = "/api/v1/namespaces/default/pods/p/attach";
const NAMESPACES: &str = "/api/v1/namespaces";
const WATCH: &str = "/api/v1/namespaces?watch=true";
const PEER_WATCH: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies?watch=true";

struct Setup {
    plane: ControlPlane,
    agent: ChildAgent,
}

impl Setup {
    async fn new(deadline: &str) -> Self {
        let plane = ControlPlane::builder()
            .server(ServerSpec::new("cp-a", 35))
            .server(ServerSpec::new("cp-b", 36))
            .start()
            .await
            .unwrap();
        let change = |config: &mut serde_json::Value| {
            config["drain"]["deadline"] = deadline.into();
            config["limits"] = json!({"headerTimeout": "5s", "handshakeTimeout": "5s"});
        };
        let agent = ChildAgent::start(BINARY, &plane, "cp-a", change)
            .await
            .unwrap();
        Self { plane, agent }
    }

    fn auth(&self) -> ClientAuth {
        ClientAuth::Certificate(self.plane.pki().admin().unwrap())
    }

    async fn http2(&self) -> Client {
        self.agent.http2(&self.plane, self.auth()).await.unwrap()
    }

    async fn http1(&self) -> Client {
        self.agent.http1(&self.plane, self.auth()).await.unwrap()
    }

    async fn raw(&self) -> RawConnection {
        RawConnection::open(self.agent.address, &self.plane, self.auth())
            .await
            .unwrap()
    }

    async fn tunnel(&self) -> RawConnection {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
        let client = self.http2().await;
        client
            .post_json("/api/v1/namespaces/default/pods", &[], &pod)
            .await
            .unwrap();
        let mut tunnel = self.raw().await;
        let (status, _) = tunnel.exchange("POST", ATTACH, SPDY).await.unwrap();
        assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS);
        tunnel.echo(b"open").await.unwrap();
        tunnel
    }

    /// The agent says that it drains, and its listener is closed.
    async fn draining(&self) {
        eventually("the agent drains", LIMIT, || async {
            let (status, body) = self.agent.admin_get("/readyz").await?;
            Ok(status == 503 && body.contains("draining"))
        })
        .await
        .unwrap();
        eventually("the listener is closed", LIMIT, || async {
            Ok(TcpStream::connect(self.agent.address).await.is_err())
        })
        .await
        .unwrap();
    }

    async fn exits_well(mut self) {
        let status = self.agent.wait_exit(LIMIT).await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.agent.log());
    }
}

async fn start(client: &Client, method: Method, target: &str) -> Incoming {
    let request = client.request(method, target, &[], empty()).unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body()
}

async fn chunk(body: &mut Incoming) -> Bytes {
    let frame = tokio::time::timeout(LIMIT, body.frame());
    frame
        .await
        .expect("a chunk")
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap()
}

/// What is left of a body that must end well.
async fn rest(body: Incoming) -> Bytes {
    tokio::time::timeout(LIMIT, body.collect())
        .await
        .expect("an end")
        .expect("a clean end")
        .to_bytes()
}

#[tokio::test]
async fn sigterm_lets_everything_under_way_finish_and_takes_nothing_new() {
    let setup = Setup::new("1h").await;
    // Under way: an exchange over HTTP/2, one over HTTP/1.1, watches over both, an idle connection of both.
    let client = setup.http2().await;
    let (upload, body) = piecemeal();
    let request = client.request(Method::POST, ECHO, &[], body).unwrap();
    upload.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
    let mut echo = client.send(request).await.unwrap().into_body();
    assert_eq!(chunk(&mut echo).await, "first");
    let mut raw = setup.raw().await;
    raw.send("POST", ECHO, &[("content-length", "4")])
        .await
        .unwrap();
    let (status, _) = raw.head().await.unwrap();
    assert_eq!(status, 200);
    let watcher = setup.http2().await;
    let mut watch = start(&watcher, Method::GET, WATCH).await;
    assert!(chunk(&mut watch).await.ends_with(b"}\n"));
    let silent = start(&watcher, Method::GET, PEER_WATCH).await;
    let http1 = setup.http1().await;
    let watch1 = start(&http1, Method::GET, WATCH).await;
    let (idle2, idle1) = (setup.http2().await, setup.http1().await);
    for idle in [&idle2, &idle1] {
        assert_eq!(idle.get("/version", &[]).await.unwrap().status, 200);
    }

    setup.agent.signal(Signal::TERM).unwrap();
    setup.draining().await;

    // Watches end, all of them between two events.
    let seen = rest(watch).await;
    assert!(seen.is_empty() || seen.ends_with(b"}\n"), "{seen:?}");
    let seen = rest(watch1).await;
    assert!(seen.ends_with(b"}\n"), "{seen:?}");
    assert_eq!(rest(silent).await, "");
    // GOAWAY: no new streams on the old connections.
    for client in [&client, &idle2, &idle1, &watcher] {
        eventually("the connection takes nothing new", LIMIT, || async {
            Ok(client.get("/version", &[]).await.is_err())
        })
        .await
        .unwrap();
    }
    // The exchanges go on for as long as they like.
    upload
        .send(Ok(Bytes::from_static(b"second")))
        .await
        .unwrap();
    assert_eq!(chunk(&mut echo).await, "second");
    drop(upload);
    assert_eq!(rest(echo).await, "");
    tokio::io::AsyncWriteExt::write_all(&mut raw.stream, b"last")
        .await
        .unwrap();
    let mut answer = Vec::new();
    loop {
        let some = raw.read_some().await.unwrap();
        if some.is_empty() {
            break;
        }
        answer.extend_from_slice(&some);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("last"), "{answer}");
    setup.exits_well().await;
}

#[tokio::test]
async fn an_http1_answer_that_begins_while_draining_says_that_the_connection_closes() {
    let setup = Setup::new("1h").await;
    let local = setup.plane.named("cp-a").unwrap();
    let mut raw = setup.raw().await;
    let (status, headers) = raw.exchange("HEAD", "/version", &[]).await.unwrap();
    assert_eq!(status, 200);
    assert!(!headers.contains_key("connection"));
    local.hang(true);
    raw.send("GET", NAMESPACES, &[]).await.unwrap();
    eventually("the request is on its way", LIMIT, || async {
        Ok(setup
            .agent
            .metric("mvp_outstanding_requests{server=\"cp-a\"}")
            .await?
            == 1.0)
    })
    .await
    .unwrap();
    setup.agent.signal(Signal::INT).unwrap();
    setup.draining().await;
    local.hang(false);
    let (status, headers) = raw.head().await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(headers["connection"], "close");
    setup.exits_well().await;
}

#[tokio::test]
async fn what_never_ends_is_cut_at_the_deadline() {
    let setup = Setup::new("300ms").await;
    let mut tunnel = setup.tunnel().await;
    let local = setup.plane.named("cp-a").unwrap();
    let (_upload, body) = piecemeal();
    let client = setup.http2().await;
    let request = client.request(Method::POST, ECHO, &[], body).unwrap();
    let mut stuck = client.send(request).await.unwrap().into_body();
    setup.agent.signal(Signal::TERM).unwrap();
    let end = tokio::time::timeout(LIMIT, stuck.frame())
        .await
        .expect("an end");
    assert!(matches!(end, Some(Err(_))), "{end:?}");
    assert_eq!(tunnel.read_some().await.unwrap(), b"");
    eventually("the servers are free", LIMIT, || async {
        Ok(local.streams() == 0)
    })
    .await
    .unwrap();
    setup.exits_well().await;
}

#[tokio::test]
async fn tunnels_go_on_while_draining_and_a_second_signal_cuts_them() {
    let setup = Setup::new("1s").await;
    let mut tunnel = setup.tunnel().await;
    // The command, with a deadline of its own.
    let url = format!("unix:{}", setup.agent.socket.display());
    let output = std::process::Command::new(BINARY)
        .args(["drain", "--deadline", "1h", "--admin", &url])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "draining, at most 3600s\n"
    );
    setup.draining().await;
    tunnel.echo(b"still open").await.unwrap();
    // Asking once more changes nothing.
    let (status, answer) = operate(&setup.agent.socket, Method::POST, "/drain?deadline=0s", "")
        .await
        .unwrap();
    assert_eq!(
        (status, answer.text().as_str()),
        (202, "already draining\n")
    );
    tunnel.echo(b"still open").await.unwrap();
    let (_, status) = setup.agent.admin_get("/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["drain"], &status["upgrades"], &status["ready"]),
        (&"draining".into(), &1.into(), &false.into())
    );

    setup.agent.signal(Signal::TERM).unwrap();
    let end = tokio::time::timeout(LIMIT, tunnel.read_some())
        .await
        .expect("an end");
    assert_eq!(end.unwrap(), b"");
    setup.exits_well().await;
}

#[tokio::test]
async fn an_idle_agent_drains_at_once_and_answers_who_asked_it_to() {
    let setup = Setup::new("1h").await;
    let (status, answer) = operate(&setup.agent.socket, Method::POST, "/drain", "")
        .await
        .unwrap();
    assert_eq!(
        (status, answer.text().as_str()),
        (202, "draining, at most 3600s\n")
    );
    setup.exits_well().await;
}

#[tokio::test]
async fn connections_that_never_asked_anything_do_not_delay_the_end() {
    let setup = Setup::new("1h").await;
    let tcp = TcpStream::connect(setup.agent.address).await.unwrap();
    let silent1 = setup.raw().await;
    let mut half = setup.raw().await;
    tokio::io::AsyncWriteExt::write_all(&mut half.stream, b"GET /version HT")
        .await
        .unwrap();
    let tls = setup
        .plane
        .pki()
        .client_config(setup.auth(), &[])
        .unwrap()
        .into();
    // No preface follows.
    let silent2 = connect_tls(setup.agent.address, &tls, &[b"h2"], "kubernetes")
        .await
        .unwrap();
    eventually("all are accepted", LIMIT, || async {
        Ok(setup.agent.metric("mvp_client_connections_open").await? == 4.0)
    })
    .await
    .unwrap();
    setup.agent.signal(Signal::TERM).unwrap();
    // Handshake, header and preface have their own limits, and these are short.
    setup.exits_well().await;
    drop((tcp, silent1, half, silent2));
}
