//! Membership against a tiny Kubernetes API: list, watch, a dead watch, an API that fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mvp::config::{Endpoint, KubernetesPeers, Peers};
use mvp::discovery::SyncCounters;
use mvp::membership::{
    Clients, Membership, MembershipChannels, MembershipError, MembershipLine, Roster, follow,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// Serves three collections. A change is kept and sent to the open watches.
struct Api {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    objects: Mutex<HashMap<&'static str, Vec<Value>>>,
    watches: Mutex<Vec<(&'static str, mpsc::UnboundedSender<Value>)>>,
    queries: Mutex<Vec<String>>,
    failing: AtomicBool,
    /// As of a role without Nodes.
    without_nodes: AtomicBool,
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const NODES: &str = "/api/v1/nodes";

impl Api {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let served = state.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = served.clone();
                let service = service_fn(move |request| answer(state.clone(), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        Self { address, state }
    }

    fn put(&self, path: &'static str, object: Value) {
        let mut objects = self.state.objects.lock().unwrap();
        let list = objects.entry(path).or_default();
        let name = object["metadata"]["name"].clone();
        list.retain(|o| o["metadata"]["name"] != name);
        list.push(object.clone());
        self.send(path, json!({"type": "MODIFIED", "object": object}));
    }

    fn delete(&self, path: &'static str, name: &str) {
        let mut objects = self.state.objects.lock().unwrap();
        let list = objects.entry(path).or_default();
        let at = list
            .iter()
            .position(|o| o["metadata"]["name"] == name)
            .unwrap();
        let object = list.remove(at);
        self.send(path, json!({"type": "DELETED", "object": object}));
    }

    fn send(&self, path: &str, event: Value) {
        let mut watches = self.state.watches.lock().unwrap();
        watches.retain(|(p, sender)| *p != path || sender.send(event.clone()).is_ok());
    }

    fn watches(&self, path: &str) -> usize {
        let watches = self.state.watches.lock().unwrap();
        watches
            .iter()
            .filter(|(p, s)| *p == path && !s.is_closed())
            .count()
    }

    fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
        .to_string()
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = [SLICES, LEASES, NODES]
        .into_iter()
        .find(|p| *p == request.uri().path());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let json = |status: u16, body: Value| {
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())).boxed_unsync())
            .unwrap()
    };
    let failing = state.failing.load(Ordering::SeqCst);
    let hidden = state.without_nodes.load(Ordering::SeqCst) && path == Some(NODES);
    let Some(path) = path.filter(|_| !failing && !hidden) else {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"});
        return Ok(json(403, status));
    };
    state.queries.lock().unwrap().push(query.clone());
    if query.contains("watch=true") {
        let (sender, receiver) = mpsc::unbounded_channel::<Value>();
        state.watches.lock().unwrap().push((path, sender));
        let events = futures_util::stream::unfold(receiver, |mut receiver| async {
            let event = receiver.recv().await?;
            Some((Bytes::from(format!("{event}\n")), receiver))
        });
        let body = StreamBody::new(events.map(|line| Ok(Frame::data(line))));
        return Ok(Response::new(BodyExt::boxed_unsync(body)));
    }
    let (kind, api) = match path {
        SLICES => ("EndpointSliceList", "discovery.k8s.io/v1"),
        LEASES => ("LeaseList", "coordination.k8s.io/v1"),
        _ => ("NodeList", "v1"),
    };
    let items = state
        .objects
        .lock()
        .unwrap()
        .get(path)
        .cloned()
        .unwrap_or_default();
    Ok(json(
        200,
        json!({"kind": kind, "apiVersion": api, "metadata": {"resourceVersion": "1"}, "items": items}),
    ))
}

fn slice(addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|a| json!({"addresses": [a], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "resourceVersion": "2"},
        "endpoints": endpoints, "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
    })
}

fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "resourceVersion": "2",
            "labels": {"node-role.kubernetes.io/control-plane": ""},
        },
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

fn lease(host: &str, address: &str, holder: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": format!("apiserver-{host}"), "namespace": "kube-system", "resourceVersion": "2",
            "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": host},
            "annotations": {"kubernetes.io/peer-advertise-address": address},
        },
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 3600, "renewTime": "2026-11-24T05:24:12.691773Z"},
    })
}

/// Polls a condition; the deadline is only there to end a test that cannot succeed.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn local() -> Endpoint {
    Endpoint {
        name: "cp-a".into(),
        host: "10.0.0.1".into(),
        port: 6443,
    }
}

fn names(members: &watch::Receiver<Arc<Vec<Endpoint>>>) -> Vec<String> {
    members.borrow().iter().map(|e| e.name.clone()).collect()
}

#[tokio::test]
async fn follows_what_kubernetes_says() {
    let api = Api::start().await;
    api.put(SLICES, slice(&["10.0.0.1", "10.0.0.2"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), api.kubeconfig()).unwrap();
    let peers = Peers {
        fixed: vec![Endpoint {
            name: "fixed".into(),
            host: "10.0.0.9".into(),
            port: 6443,
        }],
        kubernetes: KubernetesPeers {
            enabled: true,
            kubeconfig: Some(file.path().to_owned()),
        },
    };
    let counters = Arc::new(SyncCounters::default());
    let mut membership = Membership::start(&peers, &local(), None, None, counters.clone())
        .await
        .unwrap();
    assert_eq!(
        names(&membership.members),
        ["fixed"],
        "there before anything was asked"
    );
    until("listed", || {
        names(&membership.members) == ["fixed", "10.0.0.2"]
    })
    .await;
    until("watched", || {
        [SLICES, LEASES, NODES]
            .iter()
            .all(|path| api.watches(path) == 1)
    })
    .await;
    // Discovery says that it answered: only such a server stays when it leaves the list.
    counters.reached.mark(&Endpoint {
        name: "10.0.0.2".into(),
        host: "10.0.0.2".into(),
        port: 6443,
    });

    api.put(LEASES, lease("cp-b", "10.0.0.2:6443", "b_1"));
    until("named", || names(&membership.members) == ["fixed", "cp-b"]).await;
    let b = membership.restarts.recv().await.unwrap().unwrap();
    assert_eq!((&*b.name, &*b.host, b.port), ("cp-b", "10.0.0.2", 6443));
    api.put(LEASES, lease("cp-b", "10.0.0.2:6443", "b_1"));
    api.put(LEASES, lease("cp-b", "10.0.0.2:6443", "b_2"));
    assert_eq!(membership.restarts.recv().await.unwrap().unwrap(), b);
    assert!(
        membership.restarts.try_recv().is_err(),
        "a renewal is no restart"
    );
    api.delete(LEASES, "apiserver-cp-b");
    assert_eq!(membership.restarts.recv().await.unwrap().unwrap(), b);

    api.put(SLICES, slice(&["10.0.0.1", "10.0.0.3"]));
    until("joined", || {
        names(&membership.members) == ["fixed", "10.0.0.3", "cp-b"]
    })
    .await;
    assert_eq!(counters.lease_list.load(Ordering::Relaxed), 0);
    let queries = api.state.queries.lock().unwrap();
    assert!(
        queries
            .iter()
            .any(|q| q.contains("fieldSelector=metadata.name%3Dkubernetes"))
    );
    assert!(
        queries
            .iter()
            .any(|q| q.contains("labelSelector=node-role.kubernetes.io%2Fcontrol-plane"))
    );
    assert!(
        queries
            .iter()
            .any(|q| q.contains("apiserver.kubernetes.io%2Fidentity%3Dkube-apiserver"))
    );
    assert!(
        queries
            .iter()
            .filter(|q| q.contains("watch=true"))
            .all(|q| q.contains("timeoutSeconds=30"))
    );
}

#[tokio::test]
async fn an_api_that_fails_changes_nothing_and_is_counted() {
    let api = Api::start().await;
    api.put(SLICES, slice(&["10.0.0.2"]));
    let client = kube::Client::try_from(kube::Config::new(
        format!("http://{}", api.address).parse().unwrap(),
    ))
    .unwrap();
    let counters = Arc::new(SyncCounters::default());
    let (sender, members) = watch::channel(Arc::default());
    let (restarted, _restarts) = mpsc::channel(1);
    let roster = Roster::new(local(), Vec::new(), |_| false);
    let line = MembershipLine::default();
    let channels = MembershipChannels {
        members: sender,
        restarts: restarted,
        line: line.clone(),
    };
    let clients = Clients {
        members: client.clone(),
        storage_versions: client,
    };
    let task = tokio::spawn(follow(clients, roster, channels, counters.clone()));
    until("listed", || names(&members) == ["10.0.0.2"]).await;
    let watched = || api.watches(SLICES) == 1 && api.watches(LEASES) == 1;
    until("watched", watched).await;

    // The watches end, and the API refuses until later.
    api.state.failing.store(true, Ordering::SeqCst);
    api.state.watches.lock().unwrap().clear();
    until("counted", || {
        counters.lease_list.load(Ordering::Relaxed) >= 3
    })
    .await;
    assert_eq!(names(&members), ["10.0.0.2"]);
    until("said", || line.get().contains("what was last known stands")).await;
    api.state.failing.store(false, Ordering::SeqCst);
    until("watched again", || api.watches(SLICES) == 1).await;
    api.put(SLICES, slice(&["10.0.0.2", "10.0.0.3"]));
    until("joined", || names(&members) == ["10.0.0.2", "10.0.0.3"]).await;

    drop(members);
    task.await.unwrap();
}

/// Whoever has seen the list has seen every name that it ever showed.
#[tokio::test]
async fn nodes_give_the_names_from_the_first_list_on() {
    let api = Api::start().await;
    api.put(SLICES, slice(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    // As 1.35 and older write it, and as 1.36 does, under another name than the Node's.
    let mut old = lease("cp-b", "", "b_1");
    old["metadata"]["annotations"] = Value::Null;
    api.put(LEASES, old);
    api.put(LEASES, lease("host-c", "10.0.0.3:6443", "c_1"));
    for (name, address) in [
        ("cp-a", "10.0.0.1"),
        ("cp-b", "10.0.0.2"),
        ("cp-c", "10.0.0.3"),
    ] {
        api.put(NODES, node(name, address));
    }
    let mut membership = start(&api).await;
    membership.members.changed().await.unwrap();
    assert_eq!(names(&membership.members), ["cp-b", "cp-c"]);
    assert_eq!(
        membership.line.get(),
        "3 servers (EndpointSlice default/kubernetes)"
    );
    // Both Leases are new to this agent.
    membership.restarts.recv().await.unwrap();
    membership.restarts.recv().await.unwrap();
    watched(&api).await;

    // A new process of the old server is known by its name, since its Lease has no address.
    let mut restarted = lease("cp-b", "", "b_2");
    restarted["metadata"]["annotations"] = Value::Null;
    api.put(LEASES, restarted);
    let b = membership.restarts.recv().await.unwrap().unwrap();
    assert_eq!((&*b.name, &*b.host, b.port), ("cp-b", "10.0.0.2", 6443));
    // Its upgrade changes no name.
    api.put(LEASES, lease("cp-b", "10.0.0.2:6443", "b_3"));
    assert_eq!(membership.restarts.recv().await.unwrap(), Some(b));
    assert_eq!(names(&membership.members), ["cp-b", "cp-c"]);
    api.put(
        SLICES,
        slice(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]),
    );
    until("joined", || {
        names(&membership.members) == ["cp-b", "cp-c", "10.0.0.4"]
    })
    .await;
}

#[tokio::test]
async fn without_nodes_leases_name_and_the_line_says_so() {
    let api = Api::start().await;
    api.state.without_nodes.store(true, Ordering::SeqCst);
    api.put(SLICES, slice(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    api.put(LEASES, lease("cp-b", "10.0.0.2:6443", "b_1"));
    let mut membership = start(&api).await;
    membership.members.changed().await.unwrap();
    assert_eq!(names(&membership.members), ["cp-b", "10.0.0.3"]);
    assert!(membership.line.get().contains("Nodes cannot be read"));
    until("watched", || api.watches(SLICES) == 1).await;
    api.put(SLICES, slice(&["10.0.0.1"]));
    until("alone", || {
        membership
            .line
            .get()
            .contains("only the local server is known")
    })
    .await;
}

#[tokio::test]
async fn a_slice_of_the_same_label_and_another_name_is_nobody() {
    let api = Api::start().await;
    api.put(SLICES, slice(&["10.0.0.2"]));
    let mut foreign = slice(&["10.6.6.6"]);
    foreign["metadata"]["name"] = json!("kubernetes-abcde");
    foreign["metadata"]["labels"] = json!({"kubernetes.io/service-name": "kubernetes"});
    api.put(SLICES, foreign.clone());
    let mut membership = start(&api).await;
    membership.members.changed().await.unwrap();
    assert_eq!(names(&membership.members), ["10.0.0.2"]);
    watched(&api).await;
    api.put(SLICES, foreign);
    api.put(SLICES, slice(&["10.0.0.2", "10.0.0.3"]));
    until("joined", || {
        names(&membership.members) == ["10.0.0.2", "10.0.0.3"]
    })
    .await;
}

async fn watched(api: &Api) {
    until("watched", || {
        [SLICES, LEASES, NODES]
            .iter()
            .all(|path| api.watches(path) == 1)
    })
    .await;
}

async fn start(api: &Api) -> Membership {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), api.kubeconfig()).unwrap();
    let peers = Peers {
        fixed: Vec::new(),
        kubernetes: KubernetesPeers {
            enabled: true,
            kubeconfig: Some(file.path().to_owned()),
        },
    };
    Membership::start(&peers, &local(), None, None, Arc::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_static_list_needs_no_api() {
    let peers = Peers {
        fixed: vec![local()],
        ..Peers::default()
    };
    let membership = Membership::start(&peers, &local(), None, None, Arc::default())
        .await
        .unwrap();
    assert_eq!(names(&membership.members), ["cp-a"]);
    assert!(
        membership
            .line
            .get()
            .starts_with("only the local server is known")
    );
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_is_named() {
    let path = std::path::PathBuf::from("/does/not/exist");
    let kubernetes = KubernetesPeers {
        enabled: true,
        kubeconfig: Some(path),
    };
    let peers = Peers {
        fixed: Vec::new(),
        kubernetes,
    };
    let error = Membership::start(&peers, &local(), None, None, Arc::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, MembershipError::Kubeconfig { .. }));
    assert!(error.to_string().contains("/does/not/exist"), "{error}");
}
