//! One client connection: TLS handshake, then HTTP/1.1 or HTTP/2 until it ends, is drained, or breaks a limit.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Thread;
use super::cut_targets::{CutTargets, Watched};
use super::header_timeout::{HeaderTimeout, HeaderTooSlow, RequestClock};
use super::headers::forwarded_for;
use super::preface::PrefaceTimeout;
use super::relay::{self, Memory, Offered};
use super::service::handle;
use super::upgrade::Tunnel;
use crate::app::DrainSignal;
use crate::identity::PeerCertificates;
use crate::net::{Accepted, Deferred, Slot, tune_client};

/// Header fields of an HTTP/1.1 request, whatever the limit is.
const MAX_HTTP1_FIELDS: usize = 4096;
/// Window a stream and a connection, for uploads.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const MAX_FRAME: u32 = 64 * 1024;
/// A client that went away without a word is noticed after this; kube-apiserver itself waits for TCP keepalive.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two requests of an HTTP/1.1 connection. kube-apiserver waits 90 s (`IdleTimeout` of its http.Server), as long as Go's
/// clients do; a little more lets the client be the one that closes.
const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// What every request of a connection needs to know about it.
pub struct Connection {
    pub thread: Arc<Thread>,
    pub peer: SocketAddr,
    /// The client's address as a header's value, made once.
    pub forwarded_for: HeaderValue,
    /// What the client presented, if anything; what it proves is asked for each request.
    pub certificates: Option<PeerCertificates>,
    /// Targets that the HTTP library cannot carry.
    pub cut: CutTargets,
    /// Whether its client should come again, to be relayed.
    pub memory: Memory,
    /// Set when a request of an HTTP/1.1 connection was answered with 101.
    tunnel: Mutex<Option<Tunnel>>,
}

impl Connection {
    /// `tunnel` runs once HTTP on this connection has ended.
    pub fn upgraded(&self, tunnel: Tunnel) {
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
    }

    fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Serves one accepted connection to its end.
pub async fn serve(thread: Arc<Thread>, accepted: Accepted) {
    let Accepted { stream, peer, slot } = accepted;
    let shared = &thread.shared;
    let Some(handshake) = Guard::below(&shared.load.handshakes, shared.limits.pending_handshakes)
    else {
        shared.metrics.refused("pending_handshakes");
        return;
    };
    let stream = match TcpStream::from_std(stream)
        .and_then(|stream| tune_client(&stream).map(|()| stream))
    {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %error, "connection was gone before its handshake");
            return;
        }
    };
    let _open = shared.metrics.client_connection();
    let (stream, handshake, left) = match relay::offer(shared, stream, peer, handshake).await {
        Offered::Done => return,
        Offered::Inspect {
            stream,
            handshake,
            left,
        } => (stream, handshake, left),
    };
    let tls = match stream.local_addr() {
        Ok(local) => shared.server_tls.config_for(local.ip()),
        Err(_gone) => return,
    };
    let acceptor = TlsAcceptor::from(tls);
    let stream = match tokio::time::timeout(left, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.metrics.handshake_failure("error");
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_elapsed) => {
            shared.metrics.handshake_failure("timeout");
            return;
        }
    };
    drop(handshake);
    serve_http(thread, peer, stream, slot).await;
}

async fn serve_http(
    thread: Arc<Thread>,
    peer: SocketAddr,
    stream: TlsStream<TcpStream>,
    slot: Slot,
) {
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let certificates = PeerCertificates::new(session.peer_certificates());
    let memory = Memory::new(peer.ip(), session.server_name());
    let header_bytes = thread.shared.limits.header_bytes as usize;
    let (stream, cut) = Watched::new(Deferred::new(stream), http2, header_bytes);
    let connection = Arc::new(Connection {
        thread: Arc::clone(&thread),
        peer,
        forwarded_for: forwarded_for(peer.ip()),
        certificates,
        cut,
        memory,
        tunnel: Mutex::default(),
    });
    let (of_requests, memory) = (Arc::clone(&connection), Arc::clone(&connection));
    let shared = Arc::clone(&thread.shared);
    let mut drain = shared.drain.clone();
    let limits = &shared.limits;
    let ended = if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_concurrent_streams(limits.streams_per_connection)
            // hyper refuses above this by itself and tells nobody; `service` refuses from the limit on, and counts. h2 derives
            // from it, and from the frame size, how many frames a header may come in; clients' frames are smaller than ours.
            .max_header_list_size(limits.header_bytes.saturating_mul(4))
            .max_pending_accept_reset_streams(limits.pending_resets)
            .max_local_error_reset_streams(limits.pending_resets)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let service = service_fn(move |request| {
            let connection = Arc::clone(&of_requests);
            // Boxed: hyper moves the future of every stream several times.
            Box::pin(async move { Ok::<_, Infallible>(handle(connection, request).await) })
        });
        let io = PrefaceTimeout::new(stream, limits.header_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = asked_to_end(&mut drain, &memory.memory) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = drain.forced() => Ok(()),
                }
            }
        }
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(KEEP_ALIVE)
            // hyper makes room for so many before it reads one. Clients with more speak HTTP/2.
            .max_headers(limits.header_count.min(MAX_HTTP1_FIELDS))
            .max_header_size(limits.header_bytes as usize)
            .max_buf_size(limits.header_bytes as usize + 64 * 1024);
        let clock = RequestClock::default();
        let io = HeaderTimeout::new(stream, clock.clone(), limits.header_timeout);
        let service = service_fn(move |request| {
            clock.begin();
            let (connection, clock) = (Arc::clone(&of_requests), clock.clone());
            Box::pin(async move {
                let response = handle(connection, request).await;
                let upgraded = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
                Ok::<_, Infallible>(response.map(|body| clock.track(body, upgraded)))
            })
        });
        let mut connection = pin!(
            builder
                .serve_connection(TokioIo::new(io), service)
                .with_upgrades()
        );
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = asked_to_end(&mut drain, &memory.memory) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection => ended,
                    () = drain.forced() => Ok(()),
                }
            }
        }
    };
    if let Err(error) = ended {
        note_end(&thread, peer, &error);
    } else if let Some(tunnel) = connection.take_tunnel() {
        tokio::select! {
            () = tunnel => {}
            () = drain.forced() => {}
        }
    }
    drop(slot);
}

/// Resolves when the connection is to end once what is under way has ended: the agent drains, or the client should come again.
async fn asked_to_end(drain: &mut DrainSignal, memory: &Memory) {
    tokio::select! {
        _deadline = drain.draining() => {}
        () = memory.leaving() => {}
    }
}

/// Counts the ends that are a client's attack or breach of protocol; the rest is the usual coming and going.
fn note_end(thread: &Thread, peer: SocketAddr, error: &hyper::Error) {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>()
            && h2.is_library()
            && h2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        {
            thread.shared.metrics.reset_flood();
            tracing::warn!(%peer, "connection closed: HTTP/2 reset flood");
            return;
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io
                .get_ref()
                .is_some_and(|inner| inner.is::<HeaderTooSlow>())
        {
            thread.shared.metrics.refused("header_timeout");
        }
        source = cause.source();
    }
    if error.is_parse_too_large() {
        thread.shared.metrics.refused("header_bytes");
    }
    tracing::debug!(%peer, %error, "client connection ended");
}

/// One of a limited number of places, given back on drop.
pub struct Guard(Arc<AtomicUsize>);

impl Guard {
    pub fn below(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
