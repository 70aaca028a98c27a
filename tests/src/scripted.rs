//! A server that answers as a test says and keeps what it received, trailers included. To an agent it looks like a
//! kube-apiserver: the peer serves one group, [`GROUP`], that the local one does not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mvp::config::{Config, Endpoint};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::agent::TestAgent;
use crate::bench::answers::{Answers, Role};
use crate::bench::upstream::Answering;
use crate::client::{TestBody, full};
use crate::proving;
use crate::sim::pki::Pki;
use crate::sim::{ControlPlane, ServerSpec};

pub use crate::bench::upstream::GROUP;

/// A collection that only the peer serves.
pub const WIDGETS: &str = "/apis/bench.mvp.dev/v1/namespaces/default/widgets";

/// One received request that was not the agent's own (discovery, health, version).
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method as it came.
    pub method: Method,
    /// Path and query as they came.
    pub target: String,
    /// `:authority`, or what HTTP/1.1 has in its target; `None`: only a `Host` field came.
    pub authority: Option<String>,
    /// The HTTP version of the connection.
    pub version: Version,
    /// Header fields as they came.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Fields behind the body; `None`: none came.
    pub trailers: Option<HeaderMap>,
    /// From 1.
    pub connection: usize,
}

type Script = dyn Fn(&Seen) -> Response<TestBody> + Send + Sync;

/// Runs until dropped.
pub struct Scripted {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accept: JoinHandle<()>,
}

/// A local and a peer server with scripts, and an agent in front of them.
pub struct Stage {
    /// The local server of the agent.
    pub local: Scripted,
    /// The agent's only peer.
    pub peer: Scripted,
    /// The agent before the two.
    pub agent: TestAgent,
    /// For its key material only.
    pub plane: ControlPlane,
}

impl Stage {
    /// Both servers speak `alpn` and answer by `script`.
    pub async fn new(
        alpn: &[&str],
        script: impl Fn(&Seen) -> Response<TestBody> + Clone + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::with(alpn, script, |_| {}).await
    }

    /// As [`Self::new`], with a configuration that is changed before the agent starts.
    ///
    /// # Errors
    /// A server or the agent does not start.
    pub async fn with(
        alpn: &[&str],
        script: impl Fn(&Seen) -> Response<TestBody> + Clone + Send + Sync + 'static,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self> {
        let plane = ControlPlane::builder()
            .server(ServerSpec::new("cp-a", 35))
            .start()
            .await?;
        let own = |_: &http::Request<Incoming>| None;
        let local = Scripted::start(plane.pki(), Role::Local, alpn, script.clone(), own).await?;
        let peer = Scripted::start(plane.pki(), Role::Peer, alpn, script, own).await?;
        let (here, there) = (local.endpoint("cp-a"), peer.endpoint("cp-b"));
        let agent = TestAgent::start_with(&plane, "cp-a", |config| {
            config.local = here;
            config.peers.fixed = vec![there];
            change(config);
        })
        .await?;
        Ok(Self {
            local,
            peer,
            agent,
            plane,
        })
    }
}

impl Scripted {
    /// A server of which only what agents and clients read of discovery matters: `answers` has it.
    pub async fn of_documents(
        pki: &Pki,
        answers: impl Fn(&http::Request<Incoming>) -> Option<Response<TestBody>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let nothing = |_: &Seen| Response::new(full(Bytes::new()));
        Self::start(pki, Role::Local, &["h2", "http/1.1"], nothing, answers).await
    }

    async fn start(
        pki: &Pki,
        role: Role,
        alpn: &[&str],
        script: impl Fn(&Seen) -> Response<TestBody> + Send + Sync + 'static,
        own: impl Fn(&http::Request<Incoming>) -> Option<Response<TestBody>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let identity = pki.identity("apiserver")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(proving::any_certificate())
            .with_single_cert(identity.chain()?, identity.key()?)?;
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::default();
        let shared = Arc::new((Answers::new(role), Arc::clone(&seen), script, own));
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let accept = tokio::spawn(async move {
            for connection in 1.. {
                let Ok((tcp, _)) = listener.accept().await else {
                    return;
                };
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let tls = acceptor.accept(tcp).await?;
                    let session = tls.get_ref().1;
                    let http2 = session.alpn_protocol() == Some(b"h2");
                    let certificate = session.peer_certificates().is_some();
                    let service = service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        async move {
                            let (answers, seen, script, own) = &*shared;
                            let (path, headers) = (request.uri().path(), request.headers());
                            if let Some((status, body)) =
                                proving::answer(path, headers, certificate)
                            {
                                let mut answer = Response::new(full(body));
                                *answer.status_mut() = status;
                                return Ok(answer);
                            }
                            if let Some(answer) = own(&request) {
                                return Ok(answer);
                            }
                            respond(request, connection, answers, seen, script).await
                        }
                    });
                    let io = TokioIo::new(tls);
                    if http2 {
                        http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await?;
                    } else {
                        http1::Builder::new().serve_connection(io, service).await?;
                    }
                    anyhow::Ok(())
                });
            }
        });
        Ok(Self {
            address,
            seen,
            accept,
        })
    }

    /// Every request so far, in the order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// The only request so far for this target.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn only(&self, target: &str) -> Result<Seen> {
        let mut found = self.seen();
        found.retain(|seen| seen.target == target);
        anyhow::ensure!(found.len() <= 1, "{target} came {} times", found.len());
        found.pop().with_context(|| {
            let all: Vec<_> = self.seen().into_iter().map(|seen| seen.target).collect();
            format!("{target} did not come, but {all:?}")
        })
    }

    /// Where an agent dials it, under this name.
    pub fn endpoint(&self, name: &str) -> Endpoint {
        Endpoint {
            name: name.to_owned(),
            host: self.address.ip().to_string(),
            port: self.address.port(),
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn respond(
    request: http::Request<Incoming>,
    connection: usize,
    answers: &Answers,
    seen: &Mutex<Vec<Seen>>,
    script: &Script,
) -> Result<Response<TestBody>, Infallible> {
    let path = request.uri().path();
    let own = matches!(
        path,
        "/version" | "/readyz" | "/livez" | "/healthz" | "/api" | "/apis"
    );
    let agent = request
        .headers()
        .get("x-remote-user")
        .is_some_and(|user| user == "system:mvp");
    if agent && !own {
        // What the agent follows and reads for itself: not there.
        let mut nothing = Response::new(full(Bytes::from_static(b"404 page not found\n")));
        *nothing.status_mut() = http::StatusCode::NOT_FOUND;
        return Ok(nothing);
    }
    if own && request.method() == Method::GET {
        let (answer, head) = answers.to(&request, Answering::Lean);
        let body = if head.status() == 304 {
            Bytes::new()
        } else {
            answer.body.clone()
        };
        return Ok(head.map(|()| full(body)));
    }
    let (parts, body) = request.into_parts();
    // A client that breaks off sends what it sent.
    let collected = body.collect().await.unwrap_or_default();
    let request = Seen {
        method: parts.method,
        target: parts
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        authority: parts.uri.authority().map(ToString::to_string),
        version: parts.version,
        headers: parts.headers,
        trailers: collected.trailers().cloned(),
        body: collected.to_bytes(),
        connection,
    };
    let response = script(&request);
    lock(seen).push(request);
    Ok(response)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
