//! The clients: several for each front, with a certificate or a token, over HTTP/2 or HTTP/1.1.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use http::{HeaderValue, StatusCode, header};
use rustls_pki_types::ServerName;
use serde_json::json;

use super::operation::{Kind, Operation, client, operation};
use super::tally::Tally;
use crate::load::{Answer, Call, Client, Due, Endpoint, Failure, Reply, bearer};
use crate::sim::pki::{ClientAuth, Pki};

/// Sends operations and counts what comes back.
pub(super) struct Traffic {
    clients: Vec<Arc<Caller>>,
    tally: Arc<Tally>,
    new_keys: Arc<AtomicBool>,
}

/// A client with what it remembers.
struct Caller {
    front: String,
    client: Client,
    etags: Mutex<HashMap<&'static str, HeaderValue>>,
}

/// How a client connects and who it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Profile {
    Http2Certificate,
    Http2Token,
    Http1Token,
}

const DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Four clients for each front, one of them over HTTP/1.1.
const PROFILES: [Profile; 4] = [
    Profile::Http2Certificate,
    Profile::Http2Token,
    Profile::Http2Token,
    Profile::Http1Token,
];

impl Traffic {
    /// `fronts` are the names and addresses that clients know; a client keeps to one of them, as a kubeconfig does.
    pub(super) fn new(
        fronts: &[(String, SocketAddr)],
        pki: &Pki,
        tally: Arc<Tally>,
        new_keys: Arc<AtomicBool>,
    ) -> Result<Self> {
        let mut clients = Vec::new();
        for profile in PROFILES {
            for (front, address) in fronts {
                let client = profile.client(pki, *address)?;
                clients.push(Arc::new(Caller {
                    front: front.clone(),
                    client,
                    etags: Mutex::default(),
                }));
            }
        }
        Ok(Self {
            clients,
            tally,
            new_keys,
        })
    }

    /// Starts the request that is due. Its task ends with its answer.
    pub(super) fn send(&self, due: Due) -> tokio::task::JoinHandle<()> {
        let caller = self.clients[client(due.number, self.clients.len())].clone();
        let operation = operation(due.number, self.new_keys.load(Ordering::SeqCst));
        let tally = self.tally.clone();
        tokio::spawn(async move { caller.perform(operation, due.at, &tally).await })
    }
}

impl Profile {
    pub(super) fn client(self, pki: &Pki, address: SocketAddr) -> Result<Client> {
        let (auth, token) = match self {
            Self::Http2Certificate => (ClientAuth::Certificate(pki.admin()?), None),
            Self::Http2Token | Self::Http1Token => (ClientAuth::None, Some(bearer("admin-token")?)),
        };
        let alpn = match self {
            Self::Http1Token => "http/1.1",
            _ => "h2",
        };
        let endpoint = Endpoint {
            address,
            server_name: ServerName::try_from("kubernetes.default.svc")?,
            tls: Arc::new(pki.client_config(auth, &[alpn])?),
        };
        Ok(Client::new(endpoint, token))
    }
}

impl Caller {
    async fn perform(&self, operation: Operation, due: Instant, tally: &Tally) {
        match operation {
            Operation::Read { kind, path } => {
                let result = self.client.send(&Call::get(&path)).await;
                self.count(kind, &path, due, result, tally);
            }
            Operation::Discover { path } => self.discover(path, due, tally).await,
            Operation::Cycle { collection, name } => {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"demo": "cycle"}});
                let result = self.client.send(&Call::create(&collection, &object)).await;
                if !self.count(Kind::Create, &collection, due, result, tally) {
                    return;
                }
                tally.with(|seen| {
                    seen.created.insert(name.clone());
                });
                let path = format!("{collection}/{name}");
                let start = Instant::now();
                let result = self.client.send(&Call::delete(&path)).await;
                self.count(Kind::Delete, &path, start, result, tally);
            }
        }
    }

    async fn discover(&self, path: &'static str, due: Instant, tally: &Tally) {
        let mut call = Call::get(path);
        call.headers
            .insert(header::ACCEPT, HeaderValue::from_static(DISCOVERY));
        if let Some(etag) = self
            .etags
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
        {
            call.headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        let result = self.client.send(&call).await;
        if let Ok(reply) = &result {
            if reply.status == StatusCode::NOT_MODIFIED {
                tally.with(|seen| seen.not_modified += 1);
            } else if let Some(etag) = reply.headers.get(header::ETAG) {
                self.etags
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(path, etag.clone());
            }
        }
        self.count(Kind::Discovery, path, due, result, tally);
    }

    /// Whether the answer was what was asked for.
    fn count(
        &self,
        kind: Kind,
        path: &str,
        due: Instant,
        result: Result<Reply, Failure>,
        tally: &Tally,
    ) -> bool {
        match result {
            Ok(reply) => {
                tally.latency(due.elapsed());
                let answer = Answer::classify(reply.status, &reply.body);
                if answer == Answer::Ok {
                    tally.count(kind, answer);
                } else {
                    tally.fail(kind, answer, describe(&self.front, path, &reply));
                }
                answer == Answer::Ok
            }
            Err(failure) => {
                tally.fail(
                    kind,
                    Answer::Transport,
                    format!("{path} at {}: {failure}", self.front),
                );
                false
            }
        }
    }
}

/// One line for a person who wants to know what went wrong.
pub(super) fn describe(front: &str, path: &str, reply: &Reply) -> String {
    let body = String::from_utf8_lossy(&reply.body);
    let body: String = body.trim_end().chars().take(200).collect();
    format!("{path} at {front}: {}: {body}", reply.status.as_u16())
}
