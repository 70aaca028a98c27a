//! A small kube-apiserver of the discovery tests: real TLS, HTTP/2 or HTTP/1.1, a surface and faults on command.

// Each test file uses a part of it.
#![allow(dead_code)]

pub(crate) mod objects;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mvp::config::Endpoint;
use mvp::discovery::{
    Dialer, Discovery, DiscoveryHandle, EventTimes, HubSettings, ServerStatus, SyncCounters,
};
use objects::{Objects, WatchFault};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

pub(crate) const NAME: &str = "kubernetes.default.svc";

/// One certificate that is its own CA.
pub(crate) struct Pki {
    server: Arc<rustls::ServerConfig>,
    pub client: Arc<rustls::ClientConfig>,
}

pub(crate) fn pki(alpn: &[&str]) -> Pki {
    let cert = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(cert.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.cert.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Pki {
        server: Arc::new(server),
        client: Arc::new(client),
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Form {
    V2,
    V2beta1,
    Legacy,
}

#[derive(Clone)]
pub(crate) struct Behaviour {
    pub form: Form,
    /// "group/version/resource", core as "/v1/pods".
    pub serves: Vec<&'static str>,
    pub ready: bool,
    /// `/readyz` names the check of a shutdown.
    pub stops: bool,
    pub version: &'static str,
    /// Status to answer a path with.
    pub fail: HashMap<&'static str, u16>,
    /// Paths that are never answered; "" is every path.
    pub hang: Vec<&'static str>,
    /// Answer /apis with a document without end.
    pub endless: bool,
    /// CustomResourceDefinitions and APIServices; without them their paths are unknown.
    pub objects: Option<Arc<Objects>>,
    pub watch: WatchFault,
    /// Paths and hashes of `/openapi/v3`; without any it is unknown.
    pub openapi: Vec<(&'static str, &'static str)>,
}

pub(crate) fn serving(serves: &[&'static str]) -> Behaviour {
    Behaviour {
        form: Form::V2,
        serves: serves.to_vec(),
        ready: true,
        stops: false,
        version: "v1.36.0",
        fail: HashMap::new(),
        hang: Vec::new(),
        endless: false,
        objects: None,
        watch: WatchFault::None,
        openapi: Vec::new(),
    }
}

pub(crate) struct Seen {
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub status: u16,
}

pub(crate) struct Fake {
    pub address: SocketAddr,
    pub state: Arc<FakeState>,
    accept: AbortHandle,
}

pub(crate) struct FakeState {
    pub behaviour: Mutex<Behaviour>,
    pub seen: Mutex<Vec<Seen>>,
    pub connections: AtomicU64,
    /// Bytes of the endless document taken by the network.
    pub endless: Arc<AtomicU64>,
    open: Mutex<Vec<AbortHandle>>,
}

impl Fake {
    pub(crate) async fn start(pki: &Pki, behaviour: Behaviour) -> Self {
        Self::start_at(pki, behaviour, "127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(pki: &Pki, behaviour: Behaviour, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(FakeState {
            behaviour: Mutex::new(behaviour),
            seen: Mutex::default(),
            connections: AtomicU64::new(0),
            endless: Arc::default(),
            open: Mutex::default(),
        });
        let accept =
            tokio::spawn(accept(listener, pki.server.clone(), state.clone())).abort_handle();
        Self {
            address,
            state,
            accept,
        }
    }

    pub(crate) fn endpoint(&self, name: &str) -> Endpoint {
        Endpoint {
            name: name.to_owned(),
            host: self.address.ip().to_string(),
            port: self.address.port(),
        }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.state
            .seen
            .lock()
            .unwrap()
            .iter()
            .filter(|s| s.path == path)
            .count()
    }

    pub(crate) fn break_connections(&self) {
        for connection in self.state.open.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// Stops listening and breaks what is open. The port can be bound again afterwards.
    pub(crate) async fn stop(self) -> SocketAddr {
        self.accept.abort();
        self.break_connections();
        until("the port is free", || {
            std::net::TcpStream::connect(self.address).is_err()
        })
        .await;
        self.address
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accept.abort();
        self.break_connections();
    }
}

async fn accept(listener: TcpListener, tls: Arc<rustls::ServerConfig>, state: Arc<FakeState>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    while let Ok((socket, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, served) = (acceptor.clone(), state.clone());
        let task = tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else {
                return;
            };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let service = service_fn(move |request| answer(served.clone(), request));
            // Errors end the connection, which is what tests look at.
            if http2 {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        state.open.lock().unwrap().push(task.abort_handle());
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    state: Arc<FakeState>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let behaviour = state.behaviour.lock().unwrap().clone();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let shared = behaviour.objects.as_ref();
    let shared = shared.filter(|_| !behaviour.fail.contains_key(&*path));
    let response = shared
        .and_then(|objects| objects.answer(&path, &query, behaviour.watch, &state.endless))
        .unwrap_or_else(|| respond(&behaviour, &path, request.headers(), &state.endless));
    state.seen.lock().unwrap().push(Seen {
        path: path.clone(),
        query,
        headers: request.headers().clone(),
        status: response.status().as_u16(),
    });
    if behaviour.hang.iter().any(|h| h.is_empty() || *h == path) {
        std::future::pending::<()>().await;
    }
    Ok(response)
}

fn respond(
    behaviour: &Behaviour,
    path: &str,
    headers: &HeaderMap,
    sent: &Arc<AtomicU64>,
) -> Response<Body> {
    let plain = |status: u16, kind: &str, body: String| {
        Response::builder()
            .status(status)
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body)).boxed_unsync())
            .unwrap()
    };
    if let Some(status) = behaviour.fail.get(path) {
        return plain(*status, "text/plain", "no".to_owned());
    }
    match path {
        "/readyz" => {
            let (status, said) = match (behaviour.ready, behaviour.stops) {
                (true, false) => (200, "ok"),
                (false, false) => (500, "[-]etcd failed: reason withheld\n[+]shutdown ok\n"),
                (_, true) => (500, "[+]etcd ok\n[-]shutdown failed: reason withheld\n"),
            };
            return plain(status, "text/plain", said.to_owned());
        }
        "/version" => {
            return plain(
                200,
                "application/json",
                json!({"gitVersion": behaviour.version}).to_string(),
            );
        }
        "/openapi/v3" if !behaviour.openapi.is_empty() => {
            let entry = |(path, hash): &(&str, &str)| {
                let url = format!("/openapi/v3/{path}?hash={hash}");
                ((*path).to_owned(), json!({"serverRelativeURL": url}))
            };
            let paths: serde_json::Map<_, _> = behaviour.openapi.iter().map(entry).collect();
            return plain(200, "text/plain", json!({ "paths": paths }).to_string());
        }
        _ => {}
    }
    let version = match behaviour.form {
        Form::Legacy => {
            return legacy(behaviour, path).map_or_else(
                || plain(404, "text/plain", "404 page not found\n".to_owned()),
                |document| plain(200, "application/json", document.to_string()),
            );
        }
        Form::V2 => "v2",
        Form::V2beta1 => "v2beta1",
    };
    let accept = headers.get("accept").unwrap().to_str().unwrap();
    if !matches!(path, "/api" | "/apis") || !accept.contains(&format!("v={version};")) {
        return plain(404, "text/plain", "404 page not found\n".to_owned());
    }
    let kind =
        format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if behaviour.endless && path == "/apis" {
        return Response::builder()
            .header("content-type", kind)
            .body(Endless(sent.clone()).boxed_unsync())
            .unwrap();
    }
    let document = aggregated(behaviour, path, version).to_string();
    let etag = format!(
        "\"{:X}\"",
        document
            .bytes()
            .fold(5381u64, |h, b| h.wrapping_mul(33) ^ u64::from(b))
    );
    let unchanged = headers.get("if-none-match").is_some_and(|v| *v == *etag);
    let mut response = plain(
        if unchanged { 304 } else { 200 },
        &kind,
        if unchanged { String::new() } else { document },
    );
    response.headers_mut().insert("etag", etag.parse().unwrap());
    response
}

/// 64 KiB of blanks in each frame.
struct Endless(Arc<AtomicU64>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(64 << 10, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 64 << 10])))))
    }
}

type Surface<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a str>>>;

fn surface(behaviour: &Behaviour) -> Surface<'_> {
    let mut groups = Surface::new();
    for key in &behaviour.serves {
        let [group, version, resource] = key.split('/').collect::<Vec<_>>()[..] else {
            panic!("{key}")
        };
        groups
            .entry(group)
            .or_default()
            .entry(version)
            .or_default()
            .push(resource);
    }
    groups
}

fn aggregated(behaviour: &Behaviour, path: &str, api_version: &str) -> Value {
    let mut items = Vec::new();
    for (group, versions) in surface(behaviour) {
        if group.is_empty() != (path == "/api") {
            continue;
        }
        let resource = |r: &&str| json!({"resource": r, "responseKind": {"kind": "X"}, "verbs": ["get", "list"]});
        let versions: Vec<_> = versions
            .iter()
            .map(|(v, rs)| json!({"version": v, "resources": rs.iter().map(resource).collect::<Vec<_>>(), "freshness": "Current"}))
            .collect();
        items.push(json!({"metadata": {"name": group}, "versions": versions}));
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{api_version}"), "metadata": {}, "items": items})
}

fn legacy(behaviour: &Behaviour, path: &str) -> Option<Value> {
    let surface = surface(behaviour);
    let segments: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let list = |group: &str, version: &str| {
        let resources = surface.get(group)?.get(version)?;
        let resources: Vec<_> = resources
            .iter()
            .map(|r| json!({"name": r, "kind": "X", "verbs": ["get", "list"]}))
            .collect();
        let gv = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        Some(json!({"kind": "APIResourceList", "groupVersion": gv, "resources": resources}))
    };
    match segments[..] {
        ["api"] => Some(
            json!({"kind": "APIVersions", "versions": surface.get("").map(|v| v.keys().collect::<Vec<_>>())}),
        ),
        ["apis"] => {
            let groups: Vec<_> = surface
                .iter()
                .filter(|(g, _)| !g.is_empty())
                .map(|(g, vs)| json!({"name": g, "versions": vs.keys().map(|v| json!({"version": v})).collect::<Vec<_>>()}))
                .collect();
            Some(json!({"kind": "APIGroupList", "groups": groups}))
        }
        ["api", version] => list("", version),
        ["apis", group, version] => list(group, version),
        _ => None,
    }
}

/// Polls a condition; the deadline is only there to end a test that cannot succeed.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls often and waits long.
pub(crate) fn settings(pki: &Pki) -> HubSettings {
    let client = pki.client.clone();
    HubSettings {
        dialer: Dialer {
            tls: Arc::new(move || client.clone()),
            own: Default::default(),
            from: mvp::net::DialFrom::anywhere(),
            server_name: NAME.try_into().unwrap(),
            connect_timeout: Duration::from_secs(20),
            timeout: Duration::from_secs(20),
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(20),
        },
        interval: Duration::from_millis(20),
        idle_interval: Duration::from_millis(20),
        refresh: Duration::from_secs(20),
        stale_after: Duration::from_secs(60),
        max_bytes: 1 << 20,
        retain: Duration::from_secs(600),
        events: EventTimes::default(),
        prover: None,
    }
}

/// Discovery under test and the ends of its inputs.
pub(crate) struct Running {
    pub discovery: DiscoveryHandle,
    pub members: watch::Sender<Arc<Vec<Endpoint>>>,
    pub restarts: mpsc::Sender<Option<Endpoint>>,
}

pub(crate) fn status(running: &Running, name: &str) -> ServerStatus {
    running
        .discovery
        .status()
        .into_iter()
        .find(|s| s.name == name)
        .unwrap()
}

pub(crate) fn run(settings: HubSettings, local: Endpoint, peers: Vec<Endpoint>) -> Running {
    let (members, receiver) = watch::channel(Arc::new(peers));
    let (restarts, restarted) = mpsc::channel(8);
    let counters = Arc::new(SyncCounters::default());
    let runtime = tokio::runtime::Handle::current();
    let discovery = Discovery::start(settings, local, receiver, restarted, counters, &runtime);
    Running {
        discovery,
        members,
        restarts,
    }
}
