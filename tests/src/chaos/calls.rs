//! The requests, and what is right to answer.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use uuid::Uuid;

use super::ledger::{Kind, Ledger, Open, Wrong};
use crate::facts;
use crate::fixtures::{ONLY_36, config_map, policy};
use crate::load::{Answer, Call, Client, Due, Endpoint, Failure, Persistent, Reply, Sent, bearer};
use crate::sim::ControlPlane;
use crate::sim::pki::ClientAuth;
use crate::sim::store::{Key, Store};

/// The namespace of everything that the load writes.
pub const NAMESPACE: &str = "chaos";
/// An object of each kind that is there all the time.
const SEED: &str = "seed";
/// Longest wait for a connection: Go's dialer waits 30 s, its TLS handshake 10 s.
const CONNECT: Duration = Duration::from_secs(30);
/// Longest wait for an answer. client-go has no limit of its own; HTTP/2 gives a silent connection up after 45 s.
const ANSWER: Duration = Duration::from_secs(60);
/// Requests of one front that are under way at once, at most.
const MOST: usize = 60;
/// Requests after which the sequence of kinds begins anew.
const MIX: u64 = 20;
/// Label with a value that only one write has.
const ID: &str = "chaos/id";

/// An address that clients know, as they reach it.
#[derive(Clone, Debug)]
pub struct Front {
    /// For people: who asks whom.
    pub name: String,
    /// Where they connect.
    pub address: SocketAddr,
}

/// The clients of one front.
pub struct Traffic {
    front: usize,
    name: String,
    clients: Vec<Persistent>,
    /// What discovery must list.
    expected: Arc<BTreeSet<String>>,
    row: Arc<ArcSwap<Ledger>>,
    under_way: Arc<AtomicUsize>,
    /// Documents that were found to list everything: to read one takes longer than a request.
    whole: Mutex<Vec<Bytes>>,
}

/// Documents remembered; there are hardly two at a time.
const DOCUMENTS: usize = 8;

/// Writes the objects that the load reads.
///
/// # Errors
/// The store does not take them.
pub async fn prepare(store: &Store) -> Result<()> {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let key = Key::new("", "namespaces", "", NAMESPACE);
    put(store, &key, namespace).await?;
    let mut map = config_map(SEED);
    map["metadata"]["namespace"] = NAMESPACE.into();
    let key = Key::new("", "configmaps", NAMESPACE, SEED);
    put(store, &key, map).await?;
    put(store, &crate::fixtures::policy_key(SEED), policy(SEED)).await
}

async fn put(store: &Store, key: &Key, mut object: Value) -> Result<()> {
    object["metadata"]["uid"] = Uuid::new_v4().to_string().into();
    let put = store.create(key, object).await;
    put.map_err(|error| anyhow::anyhow!("{key:?}: {error:?}"))?;
    Ok(())
}

impl Traffic {
    /// `number` is the front's index in every event.
    ///
    /// # Errors
    /// The control plane has no key material.
    pub fn new(
        plane: &ControlPlane,
        number: usize,
        front: &Front,
        expected: &Arc<BTreeSet<String>>,
        row: &Arc<ArcSwap<Ledger>>,
    ) -> Result<Self> {
        let certificate = ClientAuth::Certificate(plane.pki().admin()?);
        let token = Some(bearer("admin-token")?);
        // One user with a certificate, one with a token, and one that speaks HTTP/1.1, where requests wait for one another.
        let clients = [
            (certificate, None, "h2"),
            (ClientAuth::None, token.clone(), "h2"),
            (ClientAuth::None, token, "http/1.1"),
        ];
        let clients = clients.into_iter().map(|(auth, token, alpn)| {
            Ok(Persistent::new(client(plane, front, auth, token, alpn)?))
        });
        Ok(Self {
            front: number,
            name: front.name.clone(),
            clients: clients.collect::<Result<_>>()?,
            expected: Arc::clone(expected),
            row: Arc::clone(row),
            under_way: Arc::default(),
            whole: Mutex::default(),
        })
    }

    /// Sends the request that is due, and books it on the row that is under way.
    pub async fn send(&self, due: Due) {
        let row = self.row.load_full();
        if self.under_way.fetch_add(1, Ordering::SeqCst) >= MOST {
            row.left_out();
        } else {
            self.perform(due.number, &row).await;
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }

    async fn perform(&self, number: u64, row: &Arc<Ledger>) {
        // Every client gets every kind.
        let client = match (number / MIX) % 16 {
            15 => &self.clients[2],
            odd if odd % 2 == 1 => &self.clients[1],
            _ => &self.clients[0],
        };
        let (kind, call, id) = call(number);
        let open = row.open(kind, self.front);
        let sent = client.send(&call).await;
        self.judge(open, &call, id, sent);
    }

    fn judge(&self, open: Open, call: &Call, id: Option<String>, sent: Sent) {
        let repeats = sent.repeats();
        let write = id.is_some();
        let (wrong, text) = match sent.outcome {
            Ok(reply) => match (self.fault(open.kind, write, &reply), id) {
                (None, Some(id)) => return open.confirmed(id, repeats),
                (None, None) => return open.right(repeats),
                (Some(wrong), _) => (wrong, describe(&reply)),
            },
            Err(failure) => (of_failure(&failure, write), failure.to_string()),
        };
        let text = format!(
            "{} {} at {}: {text}",
            call.method,
            call.path.split('?').next().unwrap_or_default(),
            self.name
        );
        open.wrong(wrong, text, repeats);
    }

    /// What is wrong with an answer.
    fn fault(&self, kind: Kind, write: bool, reply: &Reply) -> Option<Wrong> {
        match Answer::classify(reply.status, &reply.body) {
            Answer::Ok if kind == Kind::Discovery => self.shrunk(&reply.headers, &reply.body),
            Answer::Ok => None,
            Answer::NoSuchType => Some(Wrong::FalseNotFound),
            Answer::ServerError if write && !reply.headers.contains_key(header::RETRY_AFTER) => {
                Some(Wrong::InDoubt)
            }
            Answer::ServerError => Some(Wrong::Unavailable),
            _ if reply.status == StatusCode::TOO_MANY_REQUESTS => Some(Wrong::Unavailable),
            _ => Some(Wrong::Other),
        }
    }

    fn shrunk(&self, headers: &HeaderMap, body: &Bytes) -> Option<Wrong> {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if whole.contains(body) {
            return None;
        }
        let document = facts::document(headers, body);
        match document.and_then(|document| facts::facts(&document)) {
            Ok(found) if found.is_superset(&self.expected) => {
                whole.truncate(DOCUMENTS - 1);
                whole.insert(0, body.clone());
                None
            }
            Ok(_) => Some(Wrong::Shrunk),
            Err(_) => Some(Wrong::Other),
        }
    }
}

/// A client as client-go's transport, with patience.
///
/// # Errors
/// The control plane has no key material.
pub(super) fn client(
    plane: &ControlPlane,
    front: &Front,
    auth: ClientAuth,
    token: Option<HeaderValue>,
    alpn: &str,
) -> Result<Client> {
    let endpoint = Endpoint {
        address: front.address,
        server_name: ServerName::try_from("kubernetes.default.svc")?,
        tls: Arc::new(plane.pki().client_config(auth, &[alpn])?),
    };
    Ok(Client::new(endpoint, token).patient(CONNECT, ANSWER))
}

/// The `number`-th request of a front, and the mark of a write.
fn call(number: u64) -> (Kind, Call, Option<String>) {
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let id = Uuid::new_v4().simple().to_string();
    let create = |collection: &str, mut object: Value| {
        // A write that is done twice makes two objects.
        object["metadata"] = json!({"generateName": "w-", "labels": {ID: id}});
        Call::create(collection, &object)
    };
    // No two writes in a row.
    match number * 7 % MIX {
        0..8 => (Kind::Read, Call::get(&format!("{maps}/{SEED}")), None),
        8..16 => (Kind::ReadNew, Call::get(&format!("{ONLY_36}/{SEED}")), None),
        16 | 17 => (Kind::Write, create(&maps, config_map("")), Some(id)),
        18 => (Kind::WriteNew, create(ONLY_36, policy("")), Some(id)),
        _ => {
            let mut call = Call::get("/apis");
            let accept = HeaderValue::from_static(facts::V2);
            call.headers.insert(header::ACCEPT, accept);
            (Kind::Discovery, call, None)
        }
    }
}

/// The mark of a write.
pub(super) fn id(object: &Value) -> Option<&str> {
    object["metadata"]["labels"][ID].as_str()
}

fn of_failure(failure: &Failure, write: bool) -> Wrong {
    match failure {
        Failure::Connect(_) => Wrong::NoConnection,
        Failure::Timeout(_) => Wrong::TimedOut,
        Failure::Broken(_) if write => Wrong::InDoubt,
        Failure::Broken(_) => Wrong::NoAnswer,
        Failure::Request(_) => Wrong::Other,
    }
}

fn describe(reply: &Reply) -> String {
    let body = String::from_utf8_lossy(&reply.body);
    let body: String = body.trim_end().chars().take(160).collect();
    format!("{}: {body}", reply.status.as_u16())
}
