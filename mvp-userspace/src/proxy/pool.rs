//! Connections to kube-apiservers, kept by one data thread for itself: for each (server, lane) a few HTTP/2 connections that
//! streams share, or HTTP/1.1 connections for servers that support only that. A request in quarantine shares
//! its connection with nobody but its own caller.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper::client::conn::http1;
use rustls_pki_types::ServerName;

use super::body::UploadBody;
use super::checkout::{Checkout, Lease, Sender};
use super::connect::{ConnectSettings, Connected, Purpose, connect};
use super::counts::PoolCounts;
use super::error::AttemptError;
use super::http2;
use super::lane::{AcceptedTokens, Lane};
use super::quarantine::Quarantine;
use super::rides::Asking;
use super::windows::Windows;
use crate::identity::Credentials;
use crate::net::OpenCount;
use crate::route::Server;
use crate::tls::{Alpn, ClientTls};

/// Streams on the least busy connection from which one more connection is worth its handshake. Below it, sharing is better:
/// frames of many streams leave in one write.
const DENSE: usize = 32;
/// Connections to one server from one thread, whatever the load: 512 x 100 streams.
const MOST: usize = 512;
/// A surplus connection without a stream is closed after this.
const IDLE: Duration = Duration::from_secs(60);

/// One data thread's connections. Locks are never held across an await and never contended by other data threads.
pub struct Pool {
    tls: Arc<ClientTls>,
    settings: ConnectSettings,
    /// The number of connections up to which a host is grown when its streams get dense.
    connections: usize,
    hosts: Mutex<HashMap<(usize, Lane), Arc<Host>>>,
    counts: PoolCounts,
    tokens: Mutex<AcceptedTokens>,
    quarantine: Quarantine,
}

/// One server as seen in one lane.
pub(super) struct Host {
    /// Keeps the server alive, so that its address in the pool's key stays its own.
    server: Arc<Server>,
    lane: Lane,
    open: Arc<AtomicUsize>,
    pub(super) state: Mutex<State>,
    /// Held while the first connection is made: requests that arrive meanwhile wait for it and share its outcome.
    dialing: tokio::sync::Mutex<Option<AttemptError>>,
    /// Dials finished so far; with it a waiter knows whether one finished while it waited.
    dialled: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    http2: Vec<Http2>,
    pub(super) http1: Vec<Http1>,
    /// The server chose HTTP/1.1 last time.
    speaks_http1: bool,
    growing: bool,
}

struct Http2 {
    sender: http2::Sender,
    address: SocketAddr,
    active: Arc<AtomicUsize>,
    /// Uploads under way on it, and what the server grants them.
    uploads: Arc<AtomicUsize>,
    windows: Arc<Windows>,
    /// The TLS configuration it was made with: after a certificate rotation new requests go over new connections, since
    /// kube-apiserver checks a certificate's validity on every request.
    tls: Arc<rustls::ClientConfig>,
    idle_since: Option<Instant>,
    _open: OpenCount,
}

pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<UploadBody>,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    pub(super) since: Instant,
    _open: OpenCount,
}

impl Pool {
    /// No connection is open yet. `connections`: how many HTTP/2 connections a server and lane may have before streams share
    /// them more densely.
    pub fn new(
        tls: Arc<ClientTls>,
        settings: ConnectSettings,
        connections: usize,
        counts: PoolCounts,
    ) -> Self {
        Self {
            tls,
            settings,
            connections: connections.max(1),
            hosts: Mutex::default(),
            counts,
            tokens: Mutex::default(),
            quarantine: Quarantine::default(),
        }
    }

    /// How connections to servers are made.
    pub fn settings(&self) -> &ConnectSettings {
        &self.settings
    }

    /// What the agent shows servers, and how it verifies them.
    pub fn tls(&self) -> &ClientTls {
        &self.tls
    }

    pub(super) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Of open connections.
    pub(super) fn counter(&self, server: &Arc<Server>, lane: Lane) -> Arc<AtomicUsize> {
        self.counts.counter(&server.name, lane)
    }

    /// A connection for one request of this caller.
    pub async fn checkout_for(
        self: &Arc<Self>,
        server: &Arc<Server>,
        caller: Asking<'_>,
        uploads: bool,
    ) -> Result<Checkout, AttemptError> {
        let credentials = caller.credentials;
        let lane = self.lane_now(server, credentials);
        if !lane.is_quarantine()
            && let Some(found) = self.find_in(server, lane, uploads)
        {
            return Ok(found);
        }
        // Apart, since the future is large (a TLS handshake is in it): every request's would have room for it.
        Box::pin(self.wait_for(server, caller, uploads)).await
    }

    async fn wait_for(
        self: &Arc<Self>,
        server: &Arc<Server>,
        caller: Asking<'_>,
        uploads: bool,
    ) -> Result<Checkout, AttemptError> {
        let mut lane = self.lane_now(server, caller.credentials);
        if lane.is_quarantine() {
            if let Some(apart) = self.checkout_apart(server, lane, caller, uploads).await? {
                return Ok(apart);
            }
            lane = self.lane_now(server, caller.credentials);
        }
        self.checkout(server, lane, uploads).await
    }

    /// Learns from the head of an answer to a caller with these credentials.
    pub fn answered(
        &self,
        server: &Arc<Server>,
        credentials: Credentials,
        status: StatusCode,
        lease: &mut Lease,
    ) {
        let (key, now) = (key_of(server), Instant::now());
        let mut tokens = lock(&self.tokens);
        tokens.answered(key, credentials, status, now);
        if lease.is_quarantined() && tokens.lane(key, credentials, now) == Lane::Accepted {
            // A watch may last for hours, and no other unknown caller should wait for it.
            lease.leave_quarantine();
        }
    }

    /// A connection in a shared lane: one that has room, also for one more upload if that is asked for, else a new one.
    pub async fn checkout(
        self: &Arc<Self>,
        server: &Arc<Server>,
        lane: Lane,
        uploads: bool,
    ) -> Result<Checkout, AttemptError> {
        let host = self.host(server, lane);
        let tls = self.tls.config(lane.class(), Alpn::H2OrHttp1);
        if let Some(found) = self.find(&host, &tls, uploads) {
            return Ok(found);
        }
        if lock(&host.state).speaks_http1 {
            return self
                .dial(&host, tls)
                .await
                .map(|fresh| self.keep(&host, fresh, uploads));
        }
        let seen = host.dialled.load(Ordering::Acquire);
        let mut last_error = host.dialing.lock().await;
        if let Some(found) = self.find(&host, &tls, uploads) {
            return Ok(found);
        }
        if host.dialled.load(Ordering::Acquire) > seen
            && let Some(error) = &*last_error
        {
            // A dial failed while this request waited for it: it shares the failure instead of another timeout.
            return Err(error.clone());
        }
        let outcome = self.dial(&host, tls).await;
        *last_error = outcome.as_ref().err().cloned();
        host.dialled.fetch_add(1, Ordering::Release);
        outcome.map(|fresh| self.keep(&host, fresh, uploads))
    }

    /// Which connections a request with these credentials may share at this moment.
    pub(super) fn lane_now(&self, server: &Arc<Server>, credentials: Credentials) -> Lane {
        lock(&self.tokens).lane(key_of(server), credentials, Instant::now())
    }

    /// Closes connections that nobody needs: surplus ones without streams, those of servers that left, outdated ones.
    pub fn tidy(&self, is_member: impl Fn(&Arc<Server>) -> bool, now: Instant) {
        lock(&self.hosts).retain(|_, host| is_member(&host.server));
        let hosts: Vec<_> = lock(&self.hosts).values().cloned().collect();
        for host in hosts {
            let tls = self.tls.config(host.lane.class(), Alpn::H2OrHttp1);
            let mut state = lock(&host.state);
            let mut spare = 0;
            state.http2.retain_mut(|c| {
                if c.active.load(Ordering::Relaxed) > 0 {
                    c.idle_since = None;
                    return !c.sender.is_closed();
                }
                let since = *c.idle_since.get_or_insert(now);
                spare += 1;
                !c.sender.is_closed()
                    && Arc::ptr_eq(&c.tls, &tls)
                    && (spare == 1 || now.saturating_duration_since(since) < IDLE)
            });
            state.http1.retain(|c| {
                !c.sender.is_closed()
                    && Arc::ptr_eq(&c.tls, &tls)
                    && now.saturating_duration_since(c.since) < IDLE
            });
        }
    }

    fn host(&self, server: &Arc<Server>, lane: Lane) -> Arc<Host> {
        let key = (key_of(server), lane);
        let mut hosts = lock(&self.hosts);
        Arc::clone(
            hosts
                .entry(key)
                .or_insert_with(|| Arc::new(Host::new(server, lane, self.counter(server, lane)))),
        )
    }

    fn find_in(
        self: &Arc<Self>,
        server: &Arc<Server>,
        lane: Lane,
        uploads: bool,
    ) -> Option<Checkout> {
        let tls = self.tls.config(lane.class(), Alpn::H2OrHttp1);
        self.find(&self.host(server, lane), &tls, uploads)
    }

    /// The least busy connection with room. Starts one more in the background when even that one is busy.
    fn find(
        self: &Arc<Self>,
        host: &Arc<Host>,
        tls: &Arc<rustls::ClientConfig>,
        uploads: bool,
    ) -> Option<Checkout> {
        let mut state = lock(&host.state);
        if let Some(connection) = take_http1(&mut state, tls) {
            return Some(Checkout {
                upload: None,
                lease: Lease::new(&host.server, connection.address, None),
                sender: Sender::Http1 {
                    connection,
                    host: Arc::clone(host),
                },
            });
        }
        state.http2.retain_mut(|c| !c.sender.is_closed());
        let full = state.http2.len() >= MOST;
        let usable = state.http2.iter().filter(|c| {
            let takes = !uploads || full || c.uploads.load(Ordering::Relaxed) < c.windows.uploads();
            takes && Arc::ptr_eq(&c.tls, tls)
        });
        let (count, best) = usable.fold((0_usize, None::<(usize, &Http2)>), |(count, best), c| {
            let active = c.active.load(Ordering::Relaxed);
            (
                count + 1,
                if best.is_none_or(|(least, _)| active < least) {
                    Some((active, c))
                } else {
                    best
                },
            )
        });
        let (active, connection) = best?;
        let has_room = active < connection.sender.stream_limit();
        if !has_room && count < MOST {
            return None;
        }
        let found = Checkout {
            upload: uploads.then(|| Arc::new(OpenCount::new(&connection.uploads))),
            lease: Lease::new(&host.server, connection.address, Some(&connection.active)),
            sender: Sender::Http2(connection.sender.clone()),
        };
        if active >= DENSE && count < self.connections && !state.growing {
            state.growing = true;
            let (pool, host, tls) = (Arc::clone(self), Arc::clone(host), Arc::clone(tls));
            tokio::spawn(async move {
                let fresh = pool.dial(&host, tls).await;
                lock(&host.state).growing = false;
                if let Ok(fresh) = fresh {
                    drop(pool.keep(&host, fresh, false));
                }
            });
        }
        Some(found)
    }

    async fn dial(
        &self,
        host: &Arc<Host>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<(Connected, Arc<rustls::ClientConfig>), AttemptError> {
        let name: ServerName<'static> = self.tls.server_name();
        connect(
            &host.server.endpoint,
            Arc::clone(&tls),
            name,
            &self.settings,
            Purpose::Shared,
        )
        .await
        .map(|c| (c, tls))
    }

    /// Adds a new connection to the pool and takes its first place.
    fn keep(
        &self,
        host: &Arc<Host>,
        (fresh, tls): (Connected, Arc<rustls::ClientConfig>),
        uploads: bool,
    ) -> Checkout {
        let open = OpenCount::new(&host.open);
        let mut state = lock(&host.state);
        match fresh {
            Connected::Http2 {
                sender,
                address,
                windows,
            } => {
                let under_way = Arc::new(AtomicUsize::new(0));
                let upload = uploads.then(|| Arc::new(OpenCount::new(&under_way)));
                let active = Arc::new(AtomicUsize::new(0));
                let lease = Lease::new(&host.server, address, Some(&active));
                state.speaks_http1 = false;
                state.http2.push(Http2 {
                    sender: sender.clone(),
                    address,
                    active,
                    uploads: under_way,
                    windows,
                    tls,
                    idle_since: None,
                    _open: open,
                });
                Checkout {
                    upload,
                    lease,
                    sender: Sender::Http2(sender),
                }
            }
            Connected::Http1 { sender, address } => {
                state.speaks_http1 = true;
                let connection = Http1 {
                    sender,
                    address,
                    tls,
                    since: Instant::now(),
                    _open: open,
                };
                Checkout {
                    upload: None,
                    lease: Lease::new(&host.server, address, None),
                    sender: Sender::Http1 {
                        connection,
                        host: Arc::clone(host),
                    },
                }
            }
        }
    }
}

impl Host {
    fn new(server: &Arc<Server>, lane: Lane, open: Arc<AtomicUsize>) -> Self {
        Self {
            open,
            server: Arc::clone(server),
            lane,
            state: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
            dialled: AtomicU64::new(0),
        }
    }
}

/// Servers are distinguished by their address in memory: hosts keep it from being used again.
pub(super) fn key_of(server: &Arc<Server>) -> usize {
    Arc::as_ptr(server) as usize
}

/// The most recently used HTTP/1.1 connection that is still good.
fn take_http1(state: &mut State, tls: &Arc<rustls::ClientConfig>) -> Option<Http1> {
    while let Some(connection) = state.http1.pop() {
        if connection.sender.is_ready() && Arc::ptr_eq(&connection.tls, tls) {
            return Some(connection);
        }
    }
    None
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock protects stays usable after a panic elsewhere: at worst a connection is counted wrongly.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
