//! The fast upstream: four servers with pre-built answers, on one thread. It leaves the machine to what is measured. They speak HTTP/2,
//! and HTTP/1.1 to whoever does not offer that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot};
use tokio_rustls::TlsAcceptor;

pub use super::answering::Answering;
use super::answering::{Records, Way};
pub use super::answers::{
    ANSWERED_BY, GROUP, LARGE, LARGE_BYTES, MEDIUM, MEDIUM_BYTES, PATH, Role, WATCH, sent_at,
};
use super::answers::{Answers, event};
use super::{upstream_http1, upstream_http2};
use crate::load;
use crate::proving;
use crate::sim::pki::Pki;

/// Runs until dropped.
pub struct Upstream {
    /// Serves what an old server serves.
    pub local: SocketAddr,
    /// Serves what a new server serves.
    pub peer: SocketAddr,
    /// Answers as `peer` does: an agent with the two has servers that agree.
    pub twin: SocketAddr,
    /// Answers as `local` does, for an agent before whom the kernel steers what comes to its own server's port: only its clients may
    /// go there.
    pub steered: SocketAddr,
    events: broadcast::Sender<Bytes>,
    watches: Arc<AtomicUsize>,
    way: Way,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Listens on four ports of 127.0.0.1 with the servers' certificate of `pki`.
    pub fn start(pki: &Pki) -> Result<Self> {
        let tls = TlsAcceptor::from(Arc::new(server_tls(pki)?));
        let (local, local_address) = listen()?;
        let (peer, peer_address) = listen()?;
        let (twin, twin_address) = listen()?;
        let (steered, steered_address) = listen()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listeners = {
            let _entered = runtime.enter();
            [local, peer, twin, steered].map(TcpListener::from_std)
        };
        let events = broadcast::Sender::new(EVENTS);
        let told = events.clone();
        let watches = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&watches);
        let way = Way::default();
        let shared_way = way.clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("upstream".into())
            .spawn(move || {
                runtime.block_on(async move {
                    let [local_answers, peer_answers] =
                        [Role::Local, Role::Peer].map(|role| Arc::new(Answers::new(role)));
                    let answers = [&local_answers, &peer_answers, &peer_answers, &local_answers];
                    for (listener, answers) in listeners.into_iter().zip(answers) {
                        // It was bound a moment ago: what could fail now fails every connection, and is seen there.
                        let Ok(listener) = listener else { continue };
                        let server = Server {
                            tls: tls.clone(),
                            answers: Arc::clone(answers),
                            events: told.clone(),
                            watches: Arc::clone(&counted),
                            way: shared_way.clone(),
                        };
                        tokio::spawn(accept(listener, server));
                    }
                    // Watches end with the last sender, which is not to be this one.
                    drop(told);
                    let _ = stopped.await;
                });
            })?;
        Ok(Self {
            local: local_address,
            peer: peer_address,
            twin: twin_address,
            steered: steered_address,
            events,
            watches,
            way,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// From the next request on all servers answer so. They begin with [`Answering::Lean`].
    pub fn answer(&self, answering: Answering) {
        self.way.set(answering);
    }

    /// Open watches of [`WATCH`] on all of the servers.
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::Relaxed)
    }

    /// Tells an event, sent at this moment by the caller's clock, to all watches.
    pub fn tell(&self, sent: u64) {
        // Without a watch there is nobody to send it to.
        let _ = self.events.send(event(sent));
    }
}

/// Events that a watch may lag behind.
const EVENTS: usize = 1024;

/// What every connection of one listener has.
#[derive(Clone)]
pub(super) struct Server {
    tls: TlsAcceptor,
    pub(super) answers: Arc<Answers>,
    pub(super) events: broadcast::Sender<Bytes>,
    pub(super) watches: Arc<AtomicUsize>,
    pub(super) way: Way,
}

/// Whether a watch is one of [`WATCH`].
pub(super) fn is_told<B>(request: &Request<B>) -> bool {
    WATCH.starts_with(request.uri().path())
}

/// Counts as an open watch for as long as it is there.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(watches: &Arc<AtomicUsize>) -> Self {
        watches.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(watches))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen() -> Result<(std::net::TcpListener, SocketAddr)> {
    let listener =
        std::net::TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// TLS 1.3 with the benchmark's one cipher suite. It asks for a client certificate, as kube-apiserver does; the load is
/// sent with a bearer token over connections that have none.
fn server_tls(pki: &Pki) -> Result<ServerConfig> {
    let identity = pki.identity("apiserver")?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(load::one_cipher()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(proving::any_certificate())
        .with_single_cert(identity.chain()?, identity.key()?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn accept(listener: TcpListener, server: Server) {
    while let Ok((socket, _)) = listener.accept().await {
        let server = server.clone();
        tokio::spawn(async move {
            // A client that breaks off is its own affair.
            let _ = serve(socket, server).await;
        });
    }
}

async fn serve(socket: TcpStream, server: Server) -> Result<()> {
    socket.set_nodelay(true)?;
    let socket = Records {
        socket,
        way: server.way.clone(),
    };
    let io = server.tls.accept(socket).await?;
    let session = io.get_ref().1;
    if session.alpn_protocol() != Some(b"h2") {
        return upstream_http1::serve(io, server).await;
    }
    let certificate = session.peer_certificates().is_some();
    upstream_http2::serve(io, certificate, server).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::ServerName;

    use super::*;
    use crate::bench::target;
    use crate::load::{Endpoint, Limit, Session, tls};

    #[tokio::test(flavor = "current_thread")]
    async fn a_session_counts_every_answer_of_every_stream() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::generate(dir.path()).unwrap();
        let upstream = Upstream::start(&pki).unwrap();
        let tls = Arc::new(tls(pki.read("ca.crt").unwrap().as_bytes(), &["h2"]).unwrap());
        let server_name = ServerName::try_from("kubernetes.default.svc").unwrap();
        let endpoints = [upstream.local, upstream.peer].map(|address| Endpoint {
            address,
            server_name: server_name.clone(),
            tls: tls.clone(),
        });
        let session = Session::open(&endpoints, 2).await.unwrap();
        let limit = Limit {
            duration: Duration::from_secs(60),
            requests: 1000,
        };

        let mut get = target::request().unwrap();
        let outcome = session.run(&get, 3, limit).await;
        assert_eq!((outcome.answers.ok, outcome.answers.total()), (1000, 1000));
        assert_eq!(
            (outcome.bytes, outcome.latency.count()),
            (1000 * 1024, 1000)
        );

        get.uri = "https://kubernetes.default.svc/nothing".parse().unwrap();
        let outcome = session.run(&get, 3, limit).await;
        assert_eq!(
            (outcome.answers.no_such_type, outcome.answers.total()),
            (1000, 1000)
        );

        drop(upstream);
        let outcome = session.run(&get, 3, limit).await;
        // Every stream notices once.
        assert_eq!(
            (outcome.answers.transport, outcome.answers.total()),
            (12, 12)
        );
    }
}
