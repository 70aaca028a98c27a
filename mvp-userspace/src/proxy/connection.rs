//! One client connection: TLS handshake, then HTTP/1.1 or HTTP/2 until it ends, is drained, or breaks a limit.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Worker;
use super::header_budget::ConnectionHeaders;
use super::header_timeout::{HeaderTimeout, HeaderTooSlow, RequestClock};
use super::idle::{InStream, Streams};
use super::keep_alive::{KeepAlive, Reads};
use super::preface::PrefaceTimeout;
use super::relay::{self, Memory, Offered};
use super::rides::Rides;
use super::service::handle;
use super::streams::{Granted, Serving};
use super::upgrade::Tunnel;
use super::watched::{Unseen, Watched};
use super::wire_body::WireBody;
use crate::config::Http2;
use crate::drain::DrainSignal;
use crate::h1wire;
use crate::h2wire::{self, Fault};
use crate::identity::{PeerCertificates, forwarded_for};
use crate::net::{Accepted, AdmissionPermit, Bulk, Deferred, Slot, tune_client};

/// Header fields of an HTTP/1.1 request, whatever the limit is: `http::HeaderMap` holds 24,576.
const MAX_HTTP1_FIELDS: usize = 20_000;
/// A head that is marked as to be refused has so many of its own.
const FIELDS_OF_A_MARK: usize = 2;
/// The flow-control window of each stream for uploads, bytes: kube-apiserver's own value (`MaxUploadBufferPerStream`).
const STREAM_WINDOW: u32 = 256 * 1024;
/// RFC 9113 §6.9.1.
const LARGEST_WINDOW: u32 = (1 << 31) - 1;
const MAX_FRAME: u32 = 64 * 1024;
/// Requests of one connection that may begin in one turn of its thread's event loop, so that others come between those of a burst.
const BEGUN_A_TURN: usize = 4;
/// A client that went away silently is noticed after this; kube-apiserver itself waits for TCP keepalive.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two requests of an HTTP/1.1 connection. kube-apiserver waits 90 s (`IdleTimeout` of its http.Server), as long as Go's
/// clients do; a little more lets the client be the one that closes.
const KEEP_ALIVE: Duration = Duration::from_secs(120);
/// An HTTP/2 client that received GOAWAY because it sends no requests has this long to close its side.
const GOODBYE: Duration = Duration::from_secs(5);

/// What every request of a connection needs to know about it.
pub struct Connection {
    pub thread: Arc<Worker>,
    pub peer: SocketAddr,
    /// The client's address as a header's value, made once.
    pub forwarded_for: HeaderValue,
    /// What the client presented, if anything; what it proves is asked for each request.
    pub certificates: Option<PeerCertificates>,
    /// A request has come.
    pub asked: Notify,
    /// Whether its requests were looked at before the HTTP library read them.
    pub unseen: Unseen,
    /// Whether its client should reconnect, so that its next connection can be relayed.
    pub memory: Memory,
    /// Its place among all connections.
    pub place: AdmissionPermit,
    /// What its client's requests share while the client is a stranger.
    pub rides: Rides,
    /// Its header fields under way.
    pub headers: ConnectionHeaders,
    /// Set when a request of an HTTP/1.1 connection was answered with 101.
    tunnel: Mutex<Option<Tunnel>>,
    /// Wakes the connection when its client is to reconnect.
    leave: Notify,
}

impl Connection {
    /// Ends the connection once what is under way on it has ended: GOAWAY, or no further request over HTTP/1.1.
    pub fn leave(&self) {
        self.leave.notify_one();
    }

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
pub async fn serve(thread: Arc<Worker>, accepted: Accepted) {
    let Accepted {
        stream,
        peer,
        place,
        slot,
    } = accepted;
    let _open = thread.shared.metrics.client_connection();
    let established = tokio::select! {
        established = establish(&thread, stream, peer, &place) => established,
        () = place.evicted() => None,
    };
    if let Some(stream) = established {
        place.established();
        serve_http(thread, peer, stream, place, slot).await;
    }
}

/// The TLS handshake. `None`: the connection has ended, or was forwarded whole until its end.
async fn establish(
    thread: &Worker,
    stream: StdTcpStream,
    peer: SocketAddr,
    place: &AdmissionPermit,
) -> Option<TlsStream<Bulk<TcpStream>>> {
    let shared = &*thread.shared;
    let stream = match TcpStream::from_std(stream)
        .and_then(|stream| tune_client(&stream).map(|()| stream))
    {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %error, "connection was gone before its handshake");
            return None;
        }
    };
    let (side, left) = match relay::offer(shared, stream, peer, place).await {
        Offered::Done => return None,
        Offered::Inspect { side, left } => (side, left),
    };
    let tls = shared
        .server_tls
        .config_for(side.stream.local_addr().ok()?.ip());
    let accepting = TlsAcceptor::from(tls).accept(Bulk::after(side.early, side.stream));
    let handshake = thread.turns.limit(accepting);
    match tokio::time::timeout(left, handshake).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            shared.metrics.handshake_failure("error");
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_elapsed) => {
            shared.metrics.handshake_failure("timeout");
            None
        }
    }
}

async fn serve_http(
    thread: Arc<Worker>,
    peer: SocketAddr,
    stream: TlsStream<Bulk<TcpStream>>,
    place: AdmissionPermit,
    slot: Slot,
) {
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let certificates = PeerCertificates::new(session.peer_certificates());
    let memory = Memory::new(peer.ip(), session.server_name());
    let header_bytes = thread.shared.limits.header_bytes as usize;
    let (stream, unseen) = (Deferred::new(stream), Unseen::default());
    let connection = Arc::new(Connection {
        thread: Arc::clone(&thread),
        peer,
        forwarded_for: forwarded_for(peer.ip()),
        certificates,
        asked: Notify::new(),
        unseen: unseen.clone(),
        memory,
        place,
        rides: Rides::default(),
        headers: ConnectionHeaders::default(),
        tunnel: Mutex::default(),
        leave: Notify::new(),
    });
    let (of_requests, own) = (Arc::clone(&connection), Arc::clone(&connection));
    let shared = Arc::clone(&thread.shared);
    let mut drain = shared.drain.clone();
    let limits = &shared.limits;
    if http2 {
        let reads = Reads::default();
        match shared.serving_http2 {
            Http2::Library => {
                let stream = Watched::http2(stream, header_bytes, unseen);
                serve_http2(own, stream, reads).await;
            }
            // It reads every request as it came.
            Http2::Own => serve_http2(own, stream, reads).await,
        }
        return;
    };
    let ended = {
        let max_fields = limits.header_count.min(MAX_HTTP1_FIELDS);
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // As Go's servers write the names of fields (`http.CanonicalHeaderKey`).
            .title_case_headers(true)
            .header_read_timeout(KEEP_ALIVE)
            // hyper makes room for so many before it reads one. Whoever is above these limits is refused before (`h1wire`).
            .max_headers(max_fields + FIELDS_OF_A_MARK)
            .max_header_size(2 * header_bytes)
            .max_buf_size(2 * header_bytes + 64 * 1024);
        let clock = RequestClock::default();
        let io = HeaderTimeout::new(stream, clock.clone(), limits.header_timeout);
        let of_heads = h1wire::HeadLimits {
            bytes: header_bytes,
            count: max_fields,
        };
        let (io, answered) = Watched::http1(io, of_heads);
        let service = service_fn(move |request: http::Request<Incoming>| {
            clock.begin();
            let request = request.map(WireBody::Http1);
            let (connection, clock) = (Arc::clone(&of_requests), clock.clone());
            let answered = answered.clone();
            Box::pin(async move {
                let mut response = handle(Arc::clone(&connection), request).await;
                let upgraded = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
                answered.next(upgraded);
                // A client that is to reconnect to kube-apiserver itself learns it with an answer. If the connection were
                // closed between two requests, the client might be sending the next one, and could not know that it was lost.
                if *connection.thread.shared.leave.borrow() && !upgraded {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
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
            () = own.place.evicted() => Ok(()),
            () = asked_to_end(&mut drain, &own) => {
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

/// How a connection over HTTP/2 is asked to end.
enum Asks {
    /// It makes room for another one.
    Now,
    /// Once all that is under way has ended.
    InOrder,
    /// The same, since nothing has been under way for long.
    Idle,
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin>(
    own: Arc<Connection>,
    stream: S,
    reads: Reads,
) {
    let shared = Arc::clone(&own.thread.shared);
    let limits = &shared.limits;
    let mut drain = shared.drain.clone();
    let granted = Granted {
        limits: h2wire::Limits {
            stream_window: STREAM_WINDOW,
            connection_window: connection_window(limits.streams_per_connection),
            frame: MAX_FRAME,
            // Neither implementation reads a request above this; `service` refuses from the limit on, and counts.
            header_list: limits.header_bytes.saturating_mul(4),
            streams: limits.streams_per_connection as usize,
            blocks_a_turn: BEGUN_A_TURN,
        },
        pending_resets: limits.pending_resets,
    };
    let streams = Streams::new();
    let (of_requests, of_requests_streams) = (Arc::clone(&own), streams.clone());
    let answer = move |request| {
        let (connection, open) = (Arc::clone(&of_requests), of_requests_streams.begin());
        async move {
            let response = handle(connection, request).await;
            response.map(|body| InStream::new(body, open))
        }
    };
    let keep_alive = KeepAlive::new(reads, PING_INTERVAL, PING_TIMEOUT);
    let io = PrefaceTimeout::new(stream, limits.header_timeout);
    let serving = Serving::new(shared.serving_http2, granted, io, keep_alive, answer);
    let mut connection = pin!(serving);
    let asks = async {
        tokio::select! {
            () = own.place.evicted() => Asks::Now,
            () = told_by_goaway(&mut drain, &own) => Asks::InOrder,
            () = streams.idle_for(limits.idle_timeout) => Asks::Idle,
        }
    };
    // It is polled only when one of them is woken, and not for each request.
    let mut asks: FuturesUnordered<_> = std::iter::once(asks).collect();
    let asked = tokio::select! {
        biased;
        ended = connection.as_mut() => Err(ended),
        Some(asks) = asks.next() => Ok(asks),
    };
    drop(asks);
    let ended = match asked {
        Err(ended) => ended,
        Ok(Asks::Now) => Ok(()),
        Ok(Asks::InOrder) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = drain.forced() => Ok(()),
            }
        }
        Ok(Asks::Idle) => {
            connection.as_mut().graceful_shutdown();
            // A request may still come before the client has read it.
            tokio::select! {
                ended = connection => ended,
                () = streams.idle_for(GOODBYE) => Ok(()),
                () = drain.forced() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        note_end(&own.thread, own.peer, &error);
    }
}

/// Resolves when the connection is to end once what is under way has ended: the agent drains, or the client should reconnect.
async fn asked_to_end(drain: &mut DrainSignal, connection: &Connection) {
    tokio::select! {
        _deadline = drain.draining() => {}
        () = connection.memory.leaving() => {}
        () = connection.leave.notified() => {}
    }
}

/// The same over HTTP/2, where the client can receive GOAWAY at any time and loses no request by it: also when it is to
/// reconnect to kube-apiserver itself.
async fn told_by_goaway(drain: &mut DrainSignal, connection: &Connection) {
    tokio::select! {
        () = asked_to_end(drain, connection) => {}
        () = told_to_leave(connection) => {}
    }
}

/// The connection's window holds every stream's, so that uploads which nobody reads leave room for the others, as kube-apiserver
/// has it (`MaxUploadBufferPerConnection`).
fn connection_window(streams: u32) -> u32 {
    STREAM_WINDOW.saturating_mul(streams).min(LARGEST_WINDOW)
}

fn note_flood(thread: &Worker, peer: SocketAddr) {
    thread.shared.metrics.reset_flood();
    tracing::warn!(%peer, "connection closed: HTTP/2 reset flood");
}

/// A client that has not sent a request yet may be about to: its first request is answered, and with that answer it learns that
/// it should reconnect.
async fn told_to_leave(connection: &Connection) {
    let mut leave = connection.thread.shared.leave.clone();
    if leave.wait_for(|leave| *leave).await.is_err() {
        // The agent ends, and the client learns that in another way.
        std::future::pending::<()>().await;
    }
    connection.asked.notified().await;
}

/// Counts the ends that are a client's attack or breach of protocol; the rest is the usual coming and going.
fn note_end(thread: &Worker, peer: SocketAddr, error: &(dyn std::error::Error + 'static)) {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(Fault::OwnLimit(_)) = cause.downcast_ref::<Fault>() {
            note_flood(thread, peer);
            return;
        }
        let h2 = cause.downcast_ref::<h2::Error>();
        if h2
            .is_some_and(|h2| h2.is_library() && h2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
        {
            note_flood(thread, peer);
            return;
        }
        let io = h2.and_then(h2::Error::get_io);
        if let Some(inner) = io
            .or(cause.downcast_ref::<std::io::Error>())
            .and_then(std::io::Error::get_ref)
            && inner.is::<HeaderTooSlow>()
        {
            thread.shared.metrics.refused("header_timeout");
        }
        source = cause.source();
    }
    tracing::debug!(%peer, %error, "client connection ended");
}
