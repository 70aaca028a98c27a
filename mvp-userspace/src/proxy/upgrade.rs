//! `Connection: Upgrade` tunnels (WebSocket, SPDY): exec, attach, port-forward, and watches over WebSocket. The request goes
//! over an HTTP/1.1 connection of its own with the caller's identity on it; after 101 the bytes are relayed as they are. A watch over
//! WebSocket can be ended between two of its events, as any other watch.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use super::access::AccessRecord;
use super::attempt::attempt_error;
use super::blame::Ending;
use super::body::UploadBody;
use super::checkout::Lease;
use super::connect::{Connected, Purpose, connect};
use super::error::AttemptError;
use super::outgoing::UpstreamRequest;
use super::pool::Pool;
use super::tunnels::{ClientPlace, Tunnels};
use super::websocket::{GOING_AWAY, Messages};
use super::wire_body::WireBody;
use crate::identity::strip_hop_by_hop;
use crate::metrics::Metrics;
use crate::route::Server;
use crate::tls::{Alpn, IdentityClass};

/// The relay's buffer for each direction, bytes. Tunnels have terminal traffic and port-forwards; TLS records are at most 16
/// KiB.
const BUFFER: usize = 32 * 1024;
/// When a watch ends, a client that does not read is waited for no longer than this.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection on which one upgrade request can be sent.
pub(super) struct UpgradeConnection {
    sender: hyper::client::conn::http1::SendRequest<UploadBody>,
    pub lease: Lease,
}

pub(super) async fn connect_for_upgrade(
    pool: &Pool,
    server: &Arc<Server>,
    class: IdentityClass,
    tunnels: &Tunnels,
) -> Result<UpgradeConnection, AttemptError> {
    let place = match server.local {
        true => None,
        false => Some(tunnels.enter_peer(Instant::now()).ok_or_else(|| {
            AttemptError::new(
                Ending::Shortage,
                "half of the source ports towards other nodes (kernel.peerPorts) are taken by tunnels",
            )
        })?),
    };
    let tls = pool.tls().config(class, Alpn::Http1);
    match connect(
        &server.endpoint,
        tls,
        pool.tls().server_name(),
        pool.settings(),
        Purpose::Upgrade,
    )
    .await?
    {
        Connected::Http1 { sender, address } => Ok(UpgradeConnection {
            sender,
            lease: Lease::of_tunnel(server, address, place),
        }),
        // Only HTTP/1.1 was offered: a server that chooses HTTP/2 all the same breaks RFC 7301.
        Connected::Http2 { .. } => Err(AttemptError::new(
            Ending::ConnectProtocol,
            "the server chose a protocol that was not offered",
        )),
    }
}

impl UpgradeConnection {
    /// Sends the request with `Connection: Upgrade` restored.
    pub(super) async fn send(
        mut self,
        request: UpstreamRequest,
        protocol: HeaderValue,
    ) -> Result<(Response<WireBody>, Lease), AttemptError> {
        let mut request = request.into_http();
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(UPGRADE, protocol);
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok((response.map(WireBody::Http1), self.lease)),
            Err(error) => Err(attempt_error(error.into_error())),
        }
    }
}

/// What is left to do on a connection that was upgraded. Dropping it cuts both sides.
pub(super) type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

/// When a watch over WebSocket is to end at its next event.
pub(super) type WatchEnd = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whether an answer of 101 switches to a WebSocket, and not to SPDY.
pub(super) fn is_websocket(answer: &HeaderMap) -> bool {
    let protocol = answer.get(UPGRADE).map(HeaderValue::as_bytes);
    protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// After a 101: the head for the client, and the relay, which runs until both sides have ended. It belongs to the task that
/// serves the client's connection, so that a tunnel counts as its connection and is drained with it. `end`: the tunnel has a
/// watch over WebSocket; anything else, such as a shell, has no moment at which it could go on elsewhere.
pub(super) fn tunnel(
    client: OnUpgrade,
    mut response: Response<WireBody>,
    lease: Lease,
    place: Option<ClientPlace>,
    metrics: Arc<Metrics>,
    record: Option<Box<AccessRecord>>,
    end: Option<WatchEnd>,
) -> (Response<()>, Tunnel) {
    let server = hyper::upgrade::on(&mut response);
    let (mut parts, _body) = response.into_parts();
    let protocol = parts.headers.get(UPGRADE).cloned();
    strip_hop_by_hop(&mut parts.headers);
    parts
        .headers
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(UPGRADE, protocol);
    }
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    let relay = async move {
        let (_lease, _place) = (lease, place);
        let _open = metrics.upgrade();
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let mut client = Counted {
                    stream: TokioIo::new(client),
                    metrics: &metrics,
                    record,
                    watch: end.is_some().then(Watch::default),
                };
                let mut server = TokioIo::new(server);
                // An error is how most tunnels end (a side closes without TLS close_notify): nothing to report.
                if let Err(error) = join(&mut client, &mut server, end).await {
                    tracing::debug!(%error, "tunnel broke off");
                }
                if let Some(record) = &mut client.record {
                    record.complete();
                }
            }
            Err(error) => tracing::debug!(%error, "tunnel was not established"),
        }
    };
    (Response::from_parts(parts, ()), Box::pin(relay))
}

/// Relays until both sides have ended, or until the watch is to end and a whole event has passed.
async fn join<C, S>(
    client: &mut Counted<'_, C>,
    server: &mut S,
    end: Option<WatchEnd>,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (Some(end), Some(state)) = (end, client.watch.as_ref().map(|w| Arc::clone(&w.state)))
    else {
        let copied = tokio::io::copy_bidirectional_with_sizes(client, server, BUFFER, BUFFER);
        return copied.await.map(|_| ());
    };
    let copied = {
        let copying = tokio::io::copy_bidirectional_with_sizes(client, server, BUFFER, BUFFER);
        let mut copying = std::pin::pin!(copying);
        tokio::select! {
            done = &mut copying => return done.map(|_| ()),
            () = end => state.ends.store(true, Ordering::Relaxed),
        }
        match state.between.load(Ordering::Relaxed) {
            true => Ok(()),
            // It fails at the end of the event that is under way.
            false => copying.await.map(|_| ()),
        }
    };
    if !state.between.load(Ordering::Relaxed) {
        return copied;
    }
    let goodbye = async {
        client.stream.write_all(&GOING_AWAY).await?;
        client.stream.shutdown().await
    };
    timeout(GOODBYE, goodbye).await.unwrap_or(Ok(()))
}

/// The client's end of a tunnel. Bytes are counted as they pass, since a port-forward may be open for days.
struct Counted<'a, S> {
    stream: S,
    metrics: &'a Metrics,
    record: Option<Box<AccessRecord>>,
    watch: Option<Watch>,
}

/// What the client has got of a watch over WebSocket.
#[derive(Default)]
struct Watch {
    messages: Messages,
    state: Arc<WatchState>,
}

struct WatchState {
    /// It is to end with the event that is under way.
    ends: AtomicBool,
    /// No event is under way.
    between: AtomicBool,
}

impl Default for WatchState {
    fn default() -> Self {
        Self {
            ends: AtomicBool::new(false),
            between: AtomicBool::new(true),
        }
    }
}

impl Watch {
    /// How many of these bytes the client may have yet.
    fn may_pass(&self, bytes: &[u8]) -> usize {
        match self.state.ends.load(Ordering::Relaxed) {
            true if self.messages.between() => 0,
            true => self.messages.until_between(bytes),
            false => bytes.len(),
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.messages.pass(bytes);
        let between = self.messages.between();
        self.state.between.store(between, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.metrics.tunnel_bytes(bytes as u64, 0);
            if let Some(record) = &mut self.record {
                record.received(bytes);
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let may_pass = self
            .watch
            .as_ref()
            .map_or(bytes.len(), |watch| watch.may_pass(bytes));
        if may_pass == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(io::Error::other("the watch ends here")));
        }
        let bytes = bytes.get(..may_pass).unwrap_or_default();
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        if let Some(watch) = &mut self.watch {
            watch.passed(bytes.get(..written).unwrap_or_default());
        }
        self.metrics.tunnel_bytes(0, written as u64);
        if let Some(record) = &mut self.record {
            record.sent(written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
