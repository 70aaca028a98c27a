//! The port over real sockets: what all tests use.

mod browsing;
mod port;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::*;
use crate::drain::{Drain, DrainSignal, DrainState};
use crate::history::{HistoryView, Report};
use crate::readiness::{PassingBy, PassingReasons, Readiness};
use crate::steering::{ClusterOrder, GuardView};

struct Port {
    address: SocketAddr,
    folder: tempfile::TempDir,
    readiness: Readiness,
    standing: PassingReasons,
    drain: DrainSignal,
    stalled: Arc<Mutex<Vec<String>>>,
    level: Arc<Mutex<String>>,
}

async fn port() -> Port {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let readiness = Readiness::new();
    let standing = PassingReasons::new();
    let (trigger, drain) = Drain::new();
    let stalled: Arc<Mutex<Vec<String>>> = Arc::default();
    let level: Arc<Mutex<String>> = Arc::default();
    let server = ServerView {
        name: "cp-b".into(),
        version: Some("v1.36.3".into()),
        ..ServerView::default()
    };
    let status = StatusView {
        node: "cp-a".into(),
        guard: GuardView::default(),
        servers: vec![server.clone()],
        ..StatusView::default()
    };
    let (stalled2, level2) = (stalled.clone(), level.clone());
    let views = Views {
        status: Box::new(move || status.clone()),
        servers: Box::new(move || vec![server.clone()]),
        routes: Box::new(|| {
            vec![RouteView {
                version: "v1".into(),
                resource: "pods".into(),
                verbs: BTreeMap::from([("cp-a".into(), vec!["get".into(), "list".into()])]),
                sources: BTreeMap::from([("cp-a".into(), "v2".into())]),
                ..RouteView::default()
            }]
        }),
        history: Box::new(|since| HistoryView {
            since_ms: since.as_secs(),
            ..HistoryView::default()
        }),
        report: Box::new(|since| Report {
            node: "<b>cp-a".into(),
            requests: since.as_secs(),
            ..Report::default()
        }),
        skew: Box::new(|| SkewView {
            servers: vec![SkewServer {
                name: "cp-a".into(),
                knowledge: "fresh".into(),
                ..SkewServer::default()
            }],
            rows: Vec::new(),
        }),
        explain: Box::new(|method, path| match method {
            "GET" => Ok(ExplainView {
                path: path.into(),
                line: format!("{method} {path} -> cp-a"),
                ..ExplainView::default()
            }),
            _ => Err(format!("{method} is no method")),
        }),
        explain_connection: Box::new(|address, name| ConnectionView {
            server_name: name.map(str::to_owned),
            line: format!("{address} -> inspected"),
            ..ConnectionView::default()
        }),
        metrics: Box::new(|| ("application/openmetrics-text", "# EOF\n".into())),
        stalled: Box::new(move || stalled2.lock().unwrap().clone()),
        probe: Box::new(|name, path| {
            Box::pin(async move {
                match name.as_str() {
                    "cp-b" => Ok(ServerResponse {
                        status: 500,
                        content_type: "text/plain".into(),
                        body: format!("asked {path}").into(),
                    }),
                    "cp-c" => Err(ServerResponseError::Unreachable(
                        "connection refused".into(),
                    )),
                    "cp-d" => std::future::pending().await,
                    _ => Err(ServerResponseError::UnknownServer),
                }
            })
        }),
        canary: Box::new(|| {
            Box::pin(async {
                CanaryView {
                    servers: BTreeMap::from([("cp-b".into(), LegView::default())]),
                    ..CanaryView::default()
                }
            })
        }),
        set_log_level: Box::new(move |level| match level {
            "nonsense" => Err("no such level".into()),
            _ => {
                *level2.lock().unwrap() = level.into();
                Ok(())
            }
        }),
        cluster: Box::new(|order| {
            Box::pin(async move {
                match order {
                    ClusterOrder::Arm(time) if time > Duration::from_secs(7200) => {
                        Err("the Lease is away".into())
                    }
                    order => Ok(format!("{order:?}")),
                }
            })
        }),
        retire: Box::new(|| None),
        guard: Box::new(|word| GuardView {
            state: "armed".into(),
            reasons: vec![format!("{word:?}")],
            ..GuardView::default()
        }),
    };
    let admin = Admin {
        views,
        readiness: readiness.clone(),
        standing: standing.clone(),
        drain: trigger,
        drain_deadline: Duration::from_secs(30),
        answer_timeout: Duration::from_millis(500),
    };
    let admin = Arc::new(admin);
    let folder = tempfile::tempdir().unwrap();
    let socket = OperatorSocket::bind(&folder.path().join("s")).unwrap();
    let socket = Door::Operator(socket.publish().unwrap());
    tokio::spawn(serve(socket, admin.clone()));
    let hosts = Hosts::new(["cp-a".to_owned()]);
    tokio::spawn(serve(Door::Reader(listener, hosts), admin));
    Port {
        address,
        folder,
        readiness,
        standing,
        drain,
        stalled,
        level,
    }
}

/// Sends raw text and gives status and the rest of the answer.
async fn raw(address: SocketAddr, request: &str) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    over(stream, request).await
}

/// The same through the Unix socket.
async fn raw_operator(port: &Port, request: &str) -> (u16, String) {
    let stream = UnixStream::connect(port.folder.path().join("s")).await;
    over(stream.unwrap(), request).await
}

async fn over(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    request: &str,
) -> (u16, String) {
    // The server may answer and close before all of a long request is written.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer
        .split(' ')
        .nth(1)
        .map_or(0, |code| code.parse().unwrap());
    (status, answer)
}

async fn ask(port: &Port, method: &str, target: &str, more: &str) -> (u16, String) {
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: cp-a\r\nConnection: close\r\n{more}\r\n");
    let (status, answer) = raw_operator(port, &request).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (status, body.to_owned())
}

/// As [`ask`], by the network.
async fn read(port: &Port, method: &str, target: &str, host: &str) -> (u16, String) {
    let request = format!("{method} {target} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    let (status, answer) = raw(port.address, &request).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (status, body.to_owned())
}

async fn get(port: &Port, target: &str) -> (u16, String) {
    ask(port, "GET", target, "").await
}

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}
