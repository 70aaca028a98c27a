//! A simulated kube-apiserver: it can be started, stopped, killed, restarted with another minor at the same address, and
//! made to fail in chosen ways.

mod app;
mod connection;
mod farewell;
mod faults;
mod gate;
mod host;
mod listener;
mod log;
mod net_http;
mod spec;
mod tls;
mod upload;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::{
    net::TcpListener,
    sync::{Mutex, watch},
    task::JoinHandle,
};

use crate::sim::{api::authz::Policy, identity, pki::Pki, storage_versions, store::Store, surface};

pub(super) use app::{App, Ending, Phase};
pub(super) use connection::Connection;
pub(crate) use connection::THINKS;
pub use faults::Fault;
pub(super) use faults::Faults;
pub use log::Recorded;
pub(super) use log::RequestLog;
pub(crate) use log::{NUMBER, Numbered};
pub use spec::ServerSpec;
pub use tls::AnyCertificate;
pub(super) use upload::Upload;

/// Requests that are still running this long after `stop` are cut off.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// One server of a control plane. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    spec: ServerSpec,
    pki: Pki,
    store: Store,
    policy: Arc<ArcSwap<Policy>>,
    address: SocketAddr,
    faults: Arc<Faults>,
    log: Arc<RequestLog>,
    connections: Arc<AtomicUsize>,
    open_streams: Arc<AtomicUsize>,
    next_connection: Arc<AtomicU64>,
    minor: AtomicU64,
    run: Mutex<Option<Run>>,
}

/// One start of a server.
#[derive(Debug)]
struct Run {
    app: Arc<App>,
    phase: watch::Sender<Phase>,
    accept: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds, starts and registers the server.
    pub async fn start_new(
        spec: ServerSpec,
        pki: &Pki,
        store: &Store,
        policy: &Arc<ArcSwap<Policy>>,
    ) -> Result<Self> {
        let listener = listener::bind_new(spec.listen)?;
        let server = Self {
            pki: pki.clone(),
            store: store.clone(),
            policy: policy.clone(),
            address: listener.local_addr()?,
            faults: Arc::default(),
            log: Arc::new(RequestLog::new(spec.log_capacity)),
            connections: Arc::default(),
            open_streams: Arc::default(),
            next_connection: Arc::new(AtomicU64::new(1)),
            minor: AtomicU64::new(spec.minor.into()),
            run: Mutex::new(None),
            spec,
        };
        let run = server.launch(listener).await?;
        *server.run.lock().await = Some(run);
        Ok(server)
    }

    /// As in its Lease's label, and in the agents' configurations.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The minor of the current or last run.
    pub fn minor(&self) -> u8 {
        self.minor.load(Ordering::SeqCst) as u8
    }

    /// Where it listens; the same over restarts.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// `https://` and the address.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Requests received, oldest first.
    pub fn requests(&self) -> Vec<Arc<Recorded>> {
        self.log.entries()
    }

    /// Requests since the start, those included that the log no longer holds.
    pub fn request_count(&self) -> u64 {
        self.log.total()
    }

    /// Empties the log; the count goes on.
    pub fn clear_requests(&self) {
        self.log.clear();
    }

    /// The requests that had a number of their own (`NUMBER`).
    pub fn numbered(&self) -> HashMap<String, Numbered> {
        self.log.numbered()
    }

    /// Open connections, upgraded ones included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests being answered, watches included, but not those that agents make for themselves.
    pub fn streams(&self) -> usize {
        self.open_streams.load(Ordering::SeqCst)
    }

    /// Replaces tokens and rules, for this server and those that share its policy.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Accepts, reads and writes nothing, as a stopped process would, until switched off.
    pub fn hang(&self, on: bool) {
        self.faults.hang(on);
    }

    /// Waits before each answer.
    pub fn slow(&self, delay: Duration) {
        self.faults.slow(delay);
    }

    /// Resets the next `requests` streams (HTTP/1.1: connections) instead of answering.
    pub fn reset_next(&self, requests: usize) {
        self.faults.reset_next(requests);
    }

    /// Answers the next `requests` with REFUSED_STREAM (HTTP/1.1: as [`Server::reset_next`]).
    pub fn refuse_streams(&self, requests: usize) {
        self.faults.refuse_streams(requests);
    }

    /// Resets the next `requests` streams with PROTOCOL_ERROR, as Go's server does with what it holds to be malformed.
    pub fn reject_next(&self, requests: usize) {
        self.faults.reject_next(requests);
    }

    /// Breaks off the bodies of the next `requests` answers after `bytes` (HTTP/2: RST_STREAM, HTTP/1.1: the connection ends).
    pub fn cut_next(&self, requests: usize, bytes: usize) {
        self.faults.cut_next(requests, bytes);
    }

    /// Only requests whose path begins with `prefix` are slow, reset, refused or cut from now on: an agent's polls and probes
    /// must not take the faults that a test meant for something else.
    pub fn faults_only_on(&self, prefix: &str) {
        self.faults.only_on(prefix);
    }

    /// `/readyz` fails.
    pub fn not_ready(&self, on: bool) {
        self.faults.not_ready(on);
    }

    /// Unknown paths get 503 with Retry-After, as before all paths are installed.
    pub fn starting(&self, on: bool) {
        self.faults.starting(on);
    }

    /// As in the first second after a start: 403 on discovery for everybody, since RBAC is not there yet, and `/readyz` says 500.
    pub fn warm_up(&self, on: bool) {
        self.faults.warm_up(on);
    }

    /// 401 for front proxies, as of a server that trusts another CA or whose clock says that the pair has expired.
    pub fn refuse_front_proxy(&self, on: bool) {
        self.faults.refuse_front_proxy(on);
    }

    /// SelfSubjectReview is not served, as before 1.28.
    pub fn lack_reviews(&self, on: bool) {
        self.faults.lack_reviews(on);
    }

    /// Answers `/api` and `/apis` with these bytes, whatever they are, as its aggregated discovery document.
    pub fn false_discovery(&self, document: Option<Bytes>) {
        self.faults.discovery(document);
    }

    /// Sends GOAWAY on all connections (HTTP/1.1: closes them after the current request) and goes on serving new ones.
    pub async fn goaway(&self) {
        if let Some(run) = &*self.run.lock().await {
            run.phase.send_modify(|phase| {
                if let Phase::Serving { goaways } = phase {
                    *goaways += 1;
                }
            });
        }
    }

    /// Whether it was started and neither stopped nor killed.
    pub async fn is_running(&self) -> bool {
        self.run.lock().await.is_some()
    }

    /// Ends as on SIGTERM: leaves the EndpointSlice, closes the listener, finishes what is running.
    pub async fn stop(&self) -> Result<()> {
        let Some(run) = self.run.lock().await.take() else {
            return Ok(());
        };
        run.background.iter().for_each(JoinHandle::abort);
        identity::unregister(&run.app).await?;
        if !self.spec.lingers.is_zero() {
            run.phase.send_replace(Phase::Leaving);
            // Whatever is open when the time is over is told so below.
            let _ = tokio::time::timeout(self.spec.lingers, run.app.idle()).await;
        }
        run.close_listener().await;
        run.phase.send_replace(Phase::Stopping);
        let done = tokio::time::timeout(STOP_DEADLINE, self.drained()).await;
        if done.is_err() {
            run.phase.send_replace(Phase::Killed);
            self.faults.hang(false);
            self.drained().await;
        }
        Ok(())
    }

    /// Ends as on SIGKILL: every connection gets RST, nothing is cleaned up.
    pub async fn kill(&self) {
        let Some(run) = self.run.lock().await.take() else {
            return;
        };
        run.close_listener().await;
        run.phase.send_replace(Phase::Killed);
        self.faults.hang(false);
        self.drained().await;
    }

    /// Starts again, without faults, at the same address.
    pub async fn start(&self) -> Result<()> {
        let mut running = self.run.lock().await;
        ensure!(
            running.is_none(),
            "server {} is running already",
            self.spec.name
        );
        self.faults.clear();
        *running = Some(
            self.launch(listener::bind_again(self.address).await?)
                .await?,
        );
        Ok(())
    }

    /// [`Server::stop`], then [`Server::start`] as another minor.
    pub async fn restart(&self, minor: u8) -> Result<()> {
        self.stop().await?;
        self.minor.store(minor.into(), Ordering::SeqCst);
        self.start().await
    }

    async fn launch(&self, listener: TcpListener) -> Result<Run> {
        let minor = self.minor();
        let tls = tls::load(&self.pki, minor, self.spec.http1_only)?;
        let (phase, receiver) = watch::channel(Phase::Serving { goaways: 0 });
        let base = surface::surface_of(minor, self.spec.apis());
        let app = Arc::new(App {
            name: self.spec.name.clone(),
            minor,
            query_minor: self.spec.query_minor.unwrap_or(minor),
            address: self.advertised(),
            surface: ArcSwap::from_pointee(base.clone()),
            base,
            store: self.store.clone(),
            policy: self.policy.clone(),
            authorities: tls.authorities,
            header_names: self.spec.header_names.clone(),
            faults: self.faults.clone(),
            log: self.log.clone(),
            discovery: self.spec.discovery,
            crd_delay: self.spec.crd_delay,
            max_concurrent_streams: self.spec.max_concurrent_streams,
            ends_unauthenticated: self.spec.ends_unauthenticated,
            connection_window: self.spec.connection_window,
            phase: receiver,
            connections: self.connections.clone(),
            open_streams: self.open_streams.clone(),
            own_streams: Arc::default(),
            refreshing: Mutex::new(()),
        });
        let revision = app
            .refresh_definitions()
            .await
            .map_err(|error| anyhow::anyhow!("store: {error:?}"))?;
        let holder = identity::register(&app).await?;
        storage_versions::publish(&app, self.spec.all_gates).await?;
        let accept = tokio::spawn(listener::accept(
            listener,
            app.clone(),
            tls.acceptor,
            self.next_connection.clone(),
        ));
        let background = vec![
            tokio::spawn(app.clone().follow_definitions(revision)),
            tokio::spawn(identity::renew(app.clone(), holder)),
        ];
        Ok(Run {
            app,
            phase,
            accept,
            background,
        })
    }

    /// What it writes into its Lease and into the EndpointSlice.
    fn advertised(&self) -> SocketAddr {
        let address = self.spec.advertise.unwrap_or(self.address.ip());
        SocketAddr::new(address, self.address.port())
    }

    async fn drained(&self) {
        while self.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Run {
    /// Returns when the socket is closed: the port can be bound again.
    async fn close_listener(&self) {
        self.accept.abort();
        while !self.accept.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.accept.abort();
        self.background.iter().for_each(JoinHandle::abort);
        self.phase.send_if_modified(|phase| {
            let running = matches!(phase, Phase::Serving { .. } | Phase::Leaving);
            if running {
                *phase = Phase::Killed;
            }
            running
        });
    }
}
