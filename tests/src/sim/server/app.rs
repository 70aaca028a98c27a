//! One run of one server: everything that a request is answered from.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::{Faults, RequestLog};
use crate::sim::{
    api::{
        authn::{Authorities, HeaderNames},
        authz::Policy,
    },
    apiservices,
    discovery::Newest,
    store::{Scope, Store, StoreError},
    surface::Surface,
};

/// How far a run has come. Connections and long requests follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Serving; connections older than the latest of these GOAWAYs finish.
    Serving {
        goaways: u64,
    },
    /// SIGTERM was received: `/readyz` says 500, new connections are still accepted, and what is running goes on.
    Leaving,
    Stopping,
    Killed,
}

#[derive(Debug)]
pub struct App {
    pub name: String,
    pub minor: u8,
    /// By which options of lists and watches are judged.
    pub query_minor: u8,
    /// As others know it.
    pub address: SocketAddr,
    /// What the server serves without custom resources.
    pub base: Surface,
    pub surface: ArcSwap<Surface>,
    pub store: Store,
    pub policy: Arc<ArcSwap<Policy>>,
    pub authorities: Authorities,
    /// By which front proxies assert users.
    pub header_names: HeaderNames,
    pub faults: Arc<Faults>,
    pub log: Arc<RequestLog>,
    pub discovery: Newest,
    pub crd_delay: Duration,
    pub max_concurrent_streams: u32,
    pub ends_unauthenticated: bool,
    pub connection_window: u32,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) open_streams: Arc<AtomicUsize>,
    /// Those of the open streams on which agents ask on their own behalf.
    pub(super) own_streams: Arc<AtomicUsize>,
    pub(super) refreshing: Mutex<()>,
}

/// Tells long requests when the server goes.
#[derive(Clone, Debug)]
pub struct Ending(watch::Receiver<Phase>);

impl Ending {
    pub async fn wait(&mut self) {
        // An error means that the server object is gone, which ends it as well.
        let _ = self
            .0
            .wait_for(|phase| matches!(phase, Phase::Stopping | Phase::Killed))
            .await;
    }
}

impl App {
    pub fn ending(&self) -> Ending {
        Ending(self.phase.clone())
    }

    pub fn is_shutting_down(&self) -> bool {
        !matches!(*self.phase.borrow(), Phase::Serving { .. })
    }

    /// Requests being answered, watches included, but not those that agents make for themselves.
    pub fn streams(&self) -> usize {
        self.open_streams.load(Ordering::Relaxed)
    }

    /// Waits until nothing is being answered, agents' own watches included.
    pub(super) async fn idle(&self) {
        let open =
            || self.open_streams.load(Ordering::Relaxed) + self.own_streams.load(Ordering::Relaxed);
        while open() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The patch releases of 1.33 and 1.36 are the recorded ones.
    pub fn git_version(&self) -> String {
        let patch = match self.minor {
            31 => 14,
            32 => 11,
            33 => 13,
            34 => 8,
            35 => 6,
            36 => 3,
            _ => 0,
        };
        format!("v1.{}.{patch}", self.minor)
    }

    /// Serves what CustomResourceDefinitions say by now, unless this server is told to be late.
    pub async fn refresh_definitions_now(&self) {
        if self.crd_delay.is_zero() {
            // A store that cannot be reached fails the requests that need it.
            let _ = self.refresh_definitions().await;
        }
    }

    /// Reads all definitions and gives the revision they were read at. APIServices follow what is read.
    pub async fn refresh_definitions(&self) -> Result<u64, StoreError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let services = apiservices::list(&self.store).await?;
        let (objects, revision) = self.store.list(&definitions()).await?;
        let all: Vec<Value> = objects.iter().map(|object| (**object).clone()).collect();
        self.surface.store(Arc::new(if all.is_empty() {
            self.base.clone()
        } else {
            self.base.with_custom(&all)
        }));
        apiservices::keep(&self.store, &self.surface.load(), &services).await?;
        Ok(revision)
    }

    /// Follows CustomResourceDefinitions, with this server's delay, until cancelled.
    pub(super) async fn follow_definitions(self: Arc<Self>, mut from: u64) {
        loop {
            let watch = self.store.watch(definitions(), from).await;
            let Ok(mut watch) = watch else { return };
            while watch.next().await.is_ok() {
                tokio::time::sleep(self.crd_delay).await;
                if self.refresh_definitions().await.is_err() {
                    return;
                }
            }
            // Fallen behind the history: read again and go on from there.
            match self.refresh_definitions().await {
                Ok(revision) => from = revision,
                Err(_) => return,
            }
        }
    }
}

fn definitions() -> Scope {
    Scope::new("apiextensions.k8s.io", "customresourcedefinitions", "")
}
