//! Connections to kube-apiservers, kept by one data thread for itself: for each (server, identity class) a few HTTP/2
//! connections that streams share, or HTTP/1.1 connections for servers that speak only that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use rustls_pki_types::ServerName;

use super::attempt::attempt_error;
use super::body::UploadBody;
use super::connect::{ConnectSettings, Connected, connect};
use super::counts::{OpenCount, PoolCounts};
use super::error::AttemptError;
use crate::route::Server;
use crate::tls::{Alpn, ClientTls, IdentityClass};

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
    /// Connections a host is grown to when its streams get dense.
    connections: usize,
    hosts: Mutex<HashMap<(usize, IdentityClass), Arc<Host>>>,
    counts: PoolCounts,
}

/// One server as seen with one identity class.
struct Host {
    /// Keeps the server alive, so that its address in the pool's key stays its own.
    server: Arc<Server>,
    class: IdentityClass,
    open: Arc<AtomicUsize>,
    state: Mutex<State>,
    /// Held while the first connection is made: whoever comes meanwhile waits for it and shares its outcome.
    dialing: tokio::sync::Mutex<Option<AttemptError>>,
    /// Dials finished so far; with it a waiter knows whether one finished while it waited.
    dialled: AtomicU64,
}

#[derive(Default)]
struct State {
    http2: Vec<Http2>,
    http1: Vec<Http1>,
    /// The server chose HTTP/1.1 last time.
    speaks_http1: bool,
    growing: bool,
}

struct Http2 {
    sender: http2::SendRequest<UploadBody>,
    address: SocketAddr,
    active: Arc<AtomicUsize>,
    stream_limit: Arc<AtomicUsize>,
    /// The TLS configuration it was made with: after a certificate rotation new requests go over new connections, since
    /// kube-apiserver checks a certificate's validity on every request.
    tls: Arc<rustls::ClientConfig>,
    idle_since: Option<Instant>,
    _open: OpenCount,
}

struct Http1 {
    sender: http1::SendRequest<UploadBody>,
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    since: Instant,
    _open: OpenCount,
}

/// A place on a connection, taken for one request until its answer has ended.
#[derive(Debug)]
pub struct Lease {
    pub address: SocketAddr,
    server: Arc<Server>,
    active: Option<Arc<AtomicUsize>>,
}

/// A connection taken for one request.
pub struct Checkout {
    pub lease: Lease,
    sender: Sender,
}

enum Sender {
    Http2(http2::SendRequest<UploadBody>),
    Http1 { connection: Http1, host: Arc<Host> },
}

impl Pool {
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
        }
    }

    pub fn settings(&self) -> &ConnectSettings {
        &self.settings
    }

    pub fn tls(&self) -> &ClientTls {
        &self.tls
    }

    /// A connection for one request: one that has room, else a new one.
    pub async fn checkout(
        self: &Arc<Self>,
        server: &Arc<Server>,
        class: IdentityClass,
    ) -> Result<Checkout, AttemptError> {
        let host = self.host(server, class);
        let tls = self.tls.config(class, Alpn::H2OrHttp1);
        if let Some(found) = self.find(&host, &tls) {
            return Ok(found);
        }
        if lock(&host.state).speaks_http1 {
            return self
                .dial(&host, tls)
                .await
                .map(|fresh| self.keep(&host, fresh));
        }
        let seen = host.dialled.load(Ordering::Acquire);
        let mut last_error = host.dialing.lock().await;
        if let Some(found) = self.find(&host, &tls) {
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
        outcome.map(|fresh| self.keep(&host, fresh))
    }

    /// Closes connections that nobody needs: surplus ones without streams, those of servers that left, outdated ones.
    pub fn tidy(&self, is_member: impl Fn(&Arc<Server>) -> bool, now: Instant) {
        lock(&self.hosts).retain(|_, host| is_member(&host.server));
        let hosts: Vec<_> = lock(&self.hosts).values().cloned().collect();
        for host in hosts {
            let tls = self.tls.config(host.class, Alpn::H2OrHttp1);
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

    fn host(&self, server: &Arc<Server>, class: IdentityClass) -> Arc<Host> {
        let key = (Arc::as_ptr(server) as usize, class);
        let mut hosts = lock(&self.hosts);
        Arc::clone(hosts.entry(key).or_insert_with(|| {
            Arc::new(Host::new(
                server,
                class,
                self.counts.counter(&server.name, class),
            ))
        }))
    }

    /// The least busy connection with room. Starts one more in the background when even that one is busy.
    fn find(
        self: &Arc<Self>,
        host: &Arc<Host>,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Option<Checkout> {
        let mut state = lock(&host.state);
        if let Some(connection) = take_http1(&mut state, tls) {
            return Some(Checkout {
                lease: Lease::new(&host.server, connection.address, None),
                sender: Sender::Http1 {
                    connection,
                    host: Arc::clone(host),
                },
            });
        }
        state.http2.retain(|c| !c.sender.is_closed());
        let usable = state.http2.iter().filter(|c| Arc::ptr_eq(&c.tls, tls));
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
        let has_room = active < connection.stream_limit.load(Ordering::Relaxed);
        if !has_room && count < MOST {
            return None;
        }
        let found = Checkout {
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
                    drop(pool.keep(&host, fresh));
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
            false,
        )
        .await
        .map(|c| (c, tls))
    }

    /// Enters a new connection and takes its first place.
    fn keep(
        &self,
        host: &Arc<Host>,
        (fresh, tls): (Connected, Arc<rustls::ClientConfig>),
    ) -> Checkout {
        let open = OpenCount::new(&host.open);
        let mut state = lock(&host.state);
        match fresh {
            Connected::Http2 {
                sender,
                address,
                stream_limit,
            } => {
                let active = Arc::new(AtomicUsize::new(0));
                let lease = Lease::new(&host.server, address, Some(&active));
                state.speaks_http1 = false;
                state.http2.push(Http2 {
                    sender: sender.clone(),
                    address,
                    active,
                    stream_limit,
                    tls,
                    idle_since: None,
                    _open: open,
                });
                Checkout {
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
    fn new(server: &Arc<Server>, class: IdentityClass, open: Arc<AtomicUsize>) -> Self {
        Self {
            open,
            server: Arc::clone(server),
            class,
            state: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
            dialled: AtomicU64::new(0),
        }
    }
}

impl Lease {
    fn new(server: &Arc<Server>, address: SocketAddr, active: Option<&Arc<AtomicUsize>>) -> Self {
        server.outstanding.fetch_add(1, Ordering::Relaxed);
        if let Some(active) = active {
            active.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            address,
            server: Arc::clone(server),
            active: active.cloned(),
        }
    }

    /// For a connection outside the pool (an upgrade).
    pub fn of_own_connection(server: &Arc<Server>, address: SocketAddr) -> Self {
        Self::new(server, address, None)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.outstanding.fetch_sub(1, Ordering::Relaxed);
        if let Some(active) = &self.active {
            active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Checkout {
    pub fn version(&self) -> Version {
        match self.sender {
            Sender::Http2(_) => Version::HTTP_2,
            Sender::Http1 { .. } => Version::HTTP_11,
        }
    }

    /// Sends one request and waits for the head of its answer. Dropping the future cancels the request at the server.
    pub async fn send(
        self,
        request: Request<UploadBody>,
    ) -> Result<(Response<Incoming>, Lease), AttemptError> {
        match self.sender {
            Sender::Http2(mut sender) => match sender.try_send_request(request).await {
                Ok(response) => Ok((response, self.lease)),
                Err(error) => Err(attempt_error(error.into_error())),
            },
            Sender::Http1 {
                mut connection,
                host,
            } => match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    tokio::spawn(async move {
                        // Ready once the answer's body has been read to its end; an error means that it closed.
                        if connection.sender.ready().await.is_ok() {
                            connection.since = Instant::now();
                            lock(&host.state).http1.push(connection);
                        }
                    });
                    Ok((response, self.lease))
                }
                Err(error) => Err(attempt_error(error.into_error())),
            },
        }
    }
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock protects stays usable after a panic elsewhere: at worst a connection is counted wrongly.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
