//! One new connection to a kube-apiserver: TCP, TLS, and the HTTP version both sides speak.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attempt::dial_ending;
use super::blame::Ending;
use super::body::UploadBody;
use super::error::AttemptError;
use super::windows::{Watched, Windows};
use crate::config::Endpoint;
use crate::net::{self, Bulk, Deferred, DialFrom, forget_on_close, tune_upstream};

/// Window a stream, towards the agent. A client that stops reading holds at most this much of the agent's memory.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Streams share a connection's window. It is so large that stalled streams cannot exhaust it for the others
/// (kube-apiserver allows 100 to 250 streams a connection).
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
const MAX_FRAME: u32 = 64 * 1024;
/// Streams on a connection whose windows its own window holds.
const STREAMS_THAT_FIT: usize = (CONNECTION_WINDOW / STREAM_WINDOW) as usize;
/// Cancelled streams that are remembered for a second, so that what a server still sends on them is not answered frame by frame.
const REMEMBERED_RESETS: usize = 4096;

type UpstreamIo = TokioIo<Watched<Deferred<TlsStream<Bulk<TcpStream>>>>>;

/// How connections are made; the same for all servers.
#[derive(Clone, Debug)]
pub struct ConnectSettings {
    /// Where connections come from.
    pub from: DialFrom,
    pub timeout: Duration,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    /// Largest header list accepted from a server, bytes.
    pub header_bytes: u32,
}

/// A connection ready for requests.
pub enum Connected {
    Http2 {
        sender: http2::SendRequest<UploadBody>,
        address: SocketAddr,
        /// Streams the server allows at a time, as its SETTINGS last said, and no more than the connection's window holds.
        stream_limit: Arc<AtomicUsize>,
        /// What the server grants uploads.
        windows: Arc<Windows>,
    },
    Http1 {
        sender: http1::SendRequest<UploadBody>,
        address: SocketAddr,
    },
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Requests of many, one after the other or together.
    Shared,
    /// One request.
    Alone,
    /// One request that may switch the connection to another protocol; HTTP/1.1.
    Upgrade,
}

/// Connects and spawns the connection's own task on this runtime.
pub async fn connect(
    endpoint: &Endpoint,
    tls: Arc<rustls::ClientConfig>,
    server_name: ServerName<'static>,
    settings: &ConnectSettings,
    purpose: Purpose,
) -> Result<Connected, AttemptError> {
    let dial = dial(endpoint, tls, server_name, &settings.from);
    let stream = match tokio::time::timeout(settings.timeout, dial).await {
        Ok(result) => result?,
        Err(_elapsed) => {
            return Err(AttemptError::new(
                Ending::ConnectTimedOut,
                "no connection in time",
            ));
        }
    };
    let address = stream
        .get_ref()
        .0
        .get_ref()
        .peer_addr()
        .map_err(|error| connect_error(Ending::ConnectReset, &error))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if purpose == Purpose::Alone {
        forget_on_close(stream.get_ref().0.get_ref())
            .map_err(|error| connect_error(Ending::ConnectReset, &error))?;
    }
    let stream = Deferred::new(stream);
    if http2 {
        let (stream, windows) = Watched::new(stream);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(settings.header_bytes)
            // The connection is shared: what one client cancels must not end it for the others. h2 counts over the connection's whole
            // life, the frames that a server still sends on cancelled streams among them.
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .keep_alive_interval(settings.ping_interval)
            .keep_alive_timeout(settings.ping_timeout)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| connect_error(Ending::ConnectProtocol, &error))?;
        let stream_limit = Arc::new(AtomicUsize::new(
            connection.current_max_send_streams().min(STREAMS_THAT_FIT),
        ));
        let driver = Driver {
            connection,
            stream_limit: Arc::clone(&stream_limit),
        };
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%address, %error, "connection to a server ended");
            }
        });
        return Ok(Connected::Http2 {
            sender,
            address,
            stream_limit,
            windows,
        });
    }
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(settings.header_bytes as usize + 64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| connect_error(Ending::ConnectProtocol, &error))?;
    tokio::spawn(async move {
        let ended = if purpose == Purpose::Upgrade {
            connection.with_upgrades().await
        } else {
            connection.await
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "connection to a server ended");
        }
    });
    Ok(Connected::Http1 { sender, address })
}

/// Drives an HTTP/2 connection and notes the server's stream limit, which hyper tells only the connection's owner.
struct Driver {
    connection: http2::Connection<UpstreamIo, UploadBody, TokioExecutor>,
    stream_limit: Arc<AtomicUsize>,
}

impl Future for Driver {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        let ended = Pin::new(&mut self.connection).poll(cx);
        self.stream_limit.store(
            self.connection
                .current_max_send_streams()
                .min(STREAMS_THAT_FIT),
            Ordering::Relaxed,
        );
        ended
    }
}

async fn dial(
    endpoint: &Endpoint,
    tls: Arc<rustls::ClientConfig>,
    server_name: ServerName<'static>,
    from: &DialFrom,
) -> Result<TlsStream<Bulk<TcpStream>>, AttemptError> {
    let stream = net::dial(&endpoint.host, endpoint.port, from)
        .await
        .map_err(|error| connect_error(dial_ending(&error), &error))?;
    tune_upstream(&stream).map_err(|error| connect_error(Ending::ConnectReset, &error))?;
    TlsConnector::from(tls)
        .connect(server_name, Bulk::new(stream))
        .await
        .map_err(|error| connect_error(dial_ending(&error), &error))
}

fn connect_error(ending: Ending, error: &dyn std::error::Error) -> AttemptError {
    AttemptError::new(ending, error.to_string())
}
