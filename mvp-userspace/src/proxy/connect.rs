//! One new connection to a kube-apiserver: TCP, TLS, and the HTTP version both sides speak.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attempt::dial_ending;
use super::blame::Ending;
use super::body::UploadBody;
use super::error::AttemptError;
use super::http2;
use super::keep_alive::{KeepAlive, Reads};
use super::windows::{Watched, Windows};
use crate::config::{self, Endpoint};
use crate::h2wire::Limits;
use crate::net::{self, Bulk, Deferred, DialFrom, Turns, forget_on_close, tune_upstream};

/// The flow-control window of each stream that the agent receives on, bytes. A client that stops reading holds at most this
/// much of the agent's memory.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Streams share a connection's window. It is so large that stalled streams cannot exhaust it for the others
/// (kube-apiserver allows 100 to 250 streams for each connection).
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;
const MAX_FRAME: u32 = 64 * 1024;
/// The streams of a connection whose windows fit into the connection's window together.
const STREAMS_THAT_FIT: usize = (CONNECTION_WINDOW / STREAM_WINDOW) as usize;
/// Cancelled streams that are remembered for a second, so that frames which the server still sends on them are not answered one
/// by one.
const REMEMBERED_RESETS: usize = 4096;

/// How connections are made; the same for all servers.
#[derive(Clone, Debug)]
pub struct ConnectSettings {
    /// Where connections come from.
    pub from: DialFrom,
    /// The turns of the thread that makes the connections.
    pub turns: Turns,
    /// For TCP, TLS and the HTTP/2 preface together.
    pub timeout: Duration,
    /// After so long without a byte from the server a PING is sent.
    pub ping_interval: Duration,
    /// A PING that is not answered within this ends the connection.
    pub ping_timeout: Duration,
    /// Largest header list accepted from a server, bytes.
    pub header_bytes: u32,
    /// What speaks HTTP/2.
    pub engine: config::Http2,
}

/// A connection ready for requests.
pub(super) enum Connected {
    Http2 {
        sender: http2::Sender,
        address: SocketAddr,
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
pub(super) enum Purpose {
    /// Requests of many, one after the other or together.
    Shared,
    /// The requests of one unknown caller.
    Alone,
    /// One request that may switch the connection to another protocol; HTTP/1.1.
    Upgrade,
}

/// Connects and spawns the connection's own task on this runtime.
pub(super) async fn connect(
    endpoint: &Endpoint,
    tls: Arc<rustls::ClientConfig>,
    server_name: ServerName<'static>,
    settings: &ConnectSettings,
    purpose: Purpose,
) -> Result<Connected, AttemptError> {
    let dial = dial(endpoint, tls, server_name, settings);
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
        let reads = Reads::default();
        let (stream, windows) = Watched::new(stream, reads.clone());
        let keep_alive = KeepAlive::new(reads, settings.ping_interval, settings.ping_timeout);
        let http2 = http2::Settings {
            limits: Limits {
                stream_window: STREAM_WINDOW,
                connection_window: CONNECTION_WINDOW,
                frame: MAX_FRAME,
                header_list: settings.header_bytes,
                // No more than the connection's window holds.
                streams: STREAMS_THAT_FIT,
                // A server answers what it was asked.
                blocks_a_turn: usize::MAX,
            },
            remembered_resets: REMEMBERED_RESETS,
            keep_alive,
        };
        let (sender, driver) = http2::handshake(settings.engine, stream, http2)
            .await
            .map_err(|error| connect_error(Ending::ConnectProtocol, &error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%address, %error, "connection to a server ended");
            }
        });
        return Ok(Connected::Http2 {
            sender,
            address,
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

async fn dial(
    endpoint: &Endpoint,
    tls: Arc<rustls::ClientConfig>,
    server_name: ServerName<'static>,
    settings: &ConnectSettings,
) -> Result<TlsStream<Bulk<TcpStream>>, AttemptError> {
    let stream = net::dial(&endpoint.host, endpoint.port, &settings.from)
        .await
        .map_err(|error| connect_error(dial_ending(&error), &error))?;
    tune_upstream(&stream).map_err(|error| connect_error(Ending::ConnectReset, &error))?;
    let handshake = TlsConnector::from(tls).connect(server_name, Bulk::new(stream));
    settings
        .turns
        .limit(handshake)
        .await
        .map_err(|error| connect_error(dial_ending(&error), &error))
}

fn connect_error(ending: Ending, error: &dyn std::error::Error) -> AttemptError {
    AttemptError::new(ending, error.to_string())
}
