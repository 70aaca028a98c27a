//! A new connection is looked at, and is forwarded whole or given back with nothing consumed.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::Relays;
use super::record::Record;
use super::registry::{EndReason, ForwardedKind, RelayPermit, WholeConnection};
use crate::net::{self, ClientHello, Gone, Peeked, peek, tune_upstream};
use crate::proxy::attempt::dial_ending;
use crate::proxy::{Shared, blame};
use crate::route::relay::{ClientHelloFacts, InspectReason, RetireReason, SILENCE, decide};
use crate::route::{RouteTable, Server};
use crate::splice::{PairLimits, Side};

/// What became of a connection.
pub(crate) enum Offered {
    /// It has ended.
    Done,
    /// It is to be inspected.
    Inspect {
        side: Side,
        /// The time that is left for its TLS handshake.
        left: Duration,
    },
}

/// Forwards a connection until its end, or gives it back. Before it is given back a whole ClientHello is awaited, so that `place` knows
/// which connections are silent.
pub(crate) async fn offer(
    shared: &Shared,
    stream: TcpStream,
    client: SocketAddr,
    place: &net::AdmissionPermit,
) -> Offered {
    let relays = &shared.relays;
    let timeout = shared.limits.handshake_timeout;
    if relays.pass_through.load(Ordering::Relaxed)
        && let Some((upstream, server)) = dial_local(shared).await
    {
        place.asked();
        let whole = Whole {
            side: stream.into(),
            upstream,
            client,
            server,
            server_name: None,
            kind: ForwardedKind::PassThrough,
        };
        Box::pin(whole.carry(shared)).await;
        return Offered::Done;
    }
    let deadline = tokio::time::Instant::now() + timeout;
    let looked = match peek(stream, deadline).await {
        Ok(looked) => looked,
        Err(Gone::TimedOut) => return gone(shared, "timeout"),
        Err(Gone::Closed | Gone::Broken(_)) => return gone(shared, "error"),
    };
    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
    let hello = match looked.found {
        Peeked::Hello(hello) => {
            place.spoke();
            Some(hello)
        }
        // rustls answers the client with an alert, as it always does.
        Peeked::NotTls | Peeked::TooLong => None,
    };
    let side = Side {
        stream: looked.stream,
        early: looked.early,
    };
    let table = shared.table.load_full();
    if let Some(reason) = relays.impossible(shared, &table) {
        shared.metrics.relay_decision(reason.as_str());
        return Offered::Inspect { side, left };
    }
    let chosen = match permit(shared, &table, client, hello.as_ref()) {
        Ok(chosen) => chosen,
        Err(reason) => {
            shared.metrics.relay_decision(reason.as_str());
            return Offered::Inspect { side, left };
        }
    };
    let Some((upstream, carried)) = dial(relays, &chosen.server)
        .await
        .zip(served(&table, &chosen.server))
    else {
        shared.metrics.relay_decision(DIAL_FAILED);
        return Offered::Inspect { side, left };
    };
    shared.metrics.relay_decision(RELAYED);
    place.asked();
    let server_name = hello.and_then(|hello| hello.server_name);
    let memory = relays.hot.find(client.ip(), server_name.as_deref());
    if let Some(memory) = &memory {
        memory.relayed(Instant::now());
    }
    let whole = Whole {
        side,
        upstream,
        client,
        server: Arc::clone(&chosen.server),
        server_name: server_name.map(String::into_boxed_str),
        kind: carried,
    };
    // Boxed: inspected connections, which are many, would otherwise contain its room.
    Box::pin(whole.carry(shared)).await;
    if let Some(memory) = &memory {
        memory.relayed(Instant::now());
    }
    Offered::Done
}

/// The values of `mvp_relay_decisions_total` that are not reasons for inspection.
const RELAYED: &str = "relayed";
const DIAL_FAILED: &str = "dial_failed";

/// Two connections that are to be joined.
struct Whole {
    side: Side,
    upstream: TcpStream,
    client: SocketAddr,
    server: Arc<Server>,
    server_name: Option<Box<str>>,
    kind: ForwardedKind,
}

impl Whole {
    async fn carry(self, shared: &Shared) {
        let relays = &shared.relays;
        let socket = match self.side.stream.as_fd().try_clone_to_owned() {
            Ok(socket) => socket.into(),
            Err(error) => {
                // No descriptors are left.
                tracing::warn!(client = %self.client, %error, "cannot carry a connection");
                return;
            }
        };
        let (carried, signal) = WholeConnection::new(
            self.kind,
            self.server,
            self.server_name,
            self.client,
            socket,
        );
        let carried = Arc::new(carried);
        let technique = relays.splicing.technique();
        let server_address = self.upstream.peer_addr().ok();
        // This order matters: the last of the two closes the connection.
        let mode = technique.plan.messages;
        let mut record = Record::start(&carried, &shared.metrics, server_address, mode);
        let _registered = relays.registry.add(&carried);
        let limits = PairLimits {
            silence: SILENCE,
            ..PairLimits::default()
        };
        let joined = relays.splicing.splicer().join(
            self.side,
            self.upstream.into(),
            technique.plan,
            &limits,
            signal,
        );
        let mut drain = shared.drain.clone();
        let forced = async {
            drain.forced().await;
            carried.stop(EndReason::Retired(RetireReason::Draining));
            std::future::pending().await
        };
        tokio::select! {
            outcome = joined => record.end(outcome),
            () = forced => {}
        }
    }
}

/// `None`: the local server cannot be used, and its clients are served better if their requests are inspected.
async fn dial_local(shared: &Shared) -> Option<(TcpStream, Arc<Server>)> {
    let table = shared.table.load_full();
    let server = &table.local()?.server;
    if !server.available() {
        return None;
    }
    let upstream = dial(&shared.relays, server).await?;
    Some((upstream, Arc::clone(server)))
}

fn permit<'a>(
    shared: &'a Shared,
    table: &RouteTable,
    client: SocketAddr,
    hello: Option<&ClientHello>,
) -> Result<RelayPermit<'a>, InspectReason> {
    let relays: &'a Relays = &shared.relays;
    let now = Instant::now();
    let server_name = hello.and_then(|hello| hello.server_name.as_deref());
    let memory = relays.hot.find(client.ip(), server_name);
    let facts = ClientHelloFacts {
        readable: hello.is_some(),
        server_name,
        asks_about_server: relays.about.lately(client.ip(), now),
        hot: memory.as_ref().is_some_and(|memory| memory.is_hot(now)),
        client: memory.as_deref(),
    };
    // If the client would not be relayed anyway, its server name is not worth a handshake with a server.
    let probes = if facts.hot {
        relays.probes(table, server_name, now)
    } else {
        Vec::new()
    };
    let open = shared.load.connections.load(Ordering::Relaxed);
    relays.registry.decide(table, |places| {
        decide(&facts, &relays.view(shared, table, &probes, places, open))
    })
}

fn served(table: &RouteTable, server: &Arc<Server>) -> Option<ForwardedKind> {
    let member = table.member(table.position(server)?)?;
    let served = Arc::clone(member.apis.as_ref()?);
    Some(ForwardedKind::Relay { served })
}

/// `None`: the failure was noted for the server, and the client has not noticed anything.
async fn dial(relays: &Relays, server: &Arc<Server>) -> Option<TcpStream> {
    let endpoint = &server.endpoint;
    let connect = net::dial(&endpoint.host, endpoint.port, relays.from());
    let ending = match tokio::time::timeout(relays.settings.connect_timeout, connect).await {
        Ok(Ok(stream)) => match tune_upstream(&stream) {
            Ok(()) => return Some(stream),
            Err(_gone) => blame::Ending::ConnectReset,
        },
        Ok(Err(error)) => dial_ending(&error),
        Err(_elapsed) => blame::Ending::ConnectTimedOut,
    };
    tracing::debug!(server = %server.name, ?ending, "cannot carry a connection to a server");
    if let Some(failure) = ending.verdict().counts {
        server.failed(failure);
    }
    None
}

fn gone(shared: &Shared, failure: &'static str) -> Offered {
    let reason = InspectReason::NoClientHello;
    shared.metrics.relay_decision(reason.as_str());
    shared.metrics.handshake_failure(failure);
    Offered::Done
}
