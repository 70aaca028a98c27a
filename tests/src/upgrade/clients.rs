//! What clients of each kind do from before an upgrade until after it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::watcher::Watcher;
use super::{Caller, Kind, Tally};
use crate::fixtures::{CONFIG_MAPS, ONLY_36, SOON, admin, config_map, policy, policy_key};
use crate::load::{Call, Endpoint};
use crate::nodes::{Cluster, Place};
use crate::sim::ControlPlane;
use crate::sim::store::{Key, Scope};

/// All clients, at work.
pub(super) struct Clients {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    /// The last object ends them.
    watchers: Vec<(Kind, &'static str, JoinHandle<BTreeSet<String>>)>,
    created: Arc<Created>,
    tally: Arc<Tally>,
    plane: Arc<ControlPlane>,
}

/// Names of the config maps whose creation was confirmed.
type Created = Mutex<BTreeSet<String>>;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// An object that is always there.
const OLD: &str = "/api/v1/namespaces/default";
/// The object of the new type that is looked up.
const KNOWN: &str = "known";
/// Ends watches.
const LAST: &str = "last";

const RENEW: Duration = Duration::from_secs(2);
const MANAGERS_WATCHES: usize = 20;
const THINKS: Duration = Duration::from_secs(5);
const SLOW_PAUSE: Duration = Duration::from_millis(500);
const POOL: usize = 10;
const POOL_RATE: f64 = 2.0;
/// 2,000 watches in all.
const WATCH_CONNECTIONS: usize = 40 / SCALE;
const WATCHES: usize = 50;
/// Code that is not optimised takes ten times the CPU: with all of it, deadlines of servers and agents would be what is seen. So in such
/// a build there is a part of the watches, and of the requests of those that send many.
const SCALE: usize = if cfg!(debug_assertions) { 8 } else { 1 };
/// Requests of one client at once: what is due beyond that is left out, since a machine that is too slow is not what this is about.
const UNDER_WAY: usize = 50;

impl Clients {
    /// Connects clients of every kind, those that are several spread over `fronts`, and waits until all are at work. The one with 200
    /// requests each second is at `busiest`.
    pub(super) fn start(
        cluster: &Cluster,
        fronts: &[SocketAddr],
        busiest: usize,
        tally: &Arc<Tally>,
    ) -> Result<Self> {
        let place = &cluster.clients;
        let plane = Arc::clone(&cluster.plane);
        let from = place.on(async move { prepare(&plane).await })?;
        let stop = watch::Sender::new(false);
        let open = watch::Sender::new(0);
        let mut clients = Self {
            tasks: Vec::new(),
            watchers: Vec::new(),
            created: Arc::default(),
            tally: Arc::clone(tally),
            plane: Arc::clone(&cluster.plane),
            stop,
        };
        let tls = |alpn: &str| -> Result<_> {
            let tls = cluster
                .plane
                .pki()
                .client_config(admin(&cluster.plane), &[alpn])?;
            Ok(Arc::new(tls))
        };
        let (http2, http1) = (tls("h2")?, tls("http/1.1")?);
        let caller = |kind: Kind, number: usize, at: usize| {
            let tls = match kind {
                Kind::Pool => &http1,
                _ => &http2,
            };
            let endpoint = Endpoint {
                address: fronts[at % fronts.len()],
                server_name: "kubernetes".try_into().context("server name")?,
                tls: Arc::clone(tls),
            };
            anyhow::Ok(Arc::new(Caller::new(
                kind,
                format!("{}-{number}", kind.prefix()),
                endpoint,
                tally,
            )))
        };
        let servers = cluster.nodes.len();
        for at in 0..servers {
            let manager = caller(Kind::Manager, at, at)?;
            clients.watch(place, &manager, CONFIG_MAPS, from, &open);
            for _ in 1..MANAGERS_WATCHES {
                clients.watch(place, &manager, SECRETS, from, &open);
            }
            clients.spawn(place, |stop| manage(manager, stop));
            let (twenty, created) = (caller(Kind::Twenty, at, at)?, Arc::clone(&clients.created));
            clients.spawn(place, |stop| steady(twenty, 20.0, created, stop));
            let slow = caller(Kind::Slow, at, at)?;
            clients.spawn(place, |stop| slowly(slow, stop));
        }
        let (busy, created) = (
            caller(Kind::TwoHundred, 0, busiest)?,
            Arc::clone(&clients.created),
        );
        clients.spawn(place, |stop| {
            steady(busy, 200.0 / SCALE as f64, created, stop)
        });
        for number in 0..POOL {
            let (pool, created) = (
                caller(Kind::Pool, number, number)?,
                Arc::clone(&clients.created),
            );
            clients.spawn(place, |stop| steady(pool, POOL_RATE, created, stop));
        }
        for number in 0..WATCH_CONNECTIONS {
            let idle = caller(Kind::Watches, number, number)?;
            for _ in 0..WATCHES {
                clients.watch(place, &idle, SECRETS, from, &open);
            }
        }
        let all = servers * MANAGERS_WATCHES + WATCH_CONNECTIONS * WATCHES;
        let mut opened = open.subscribe();
        place.on(async move {
            let open = timeout(SOON, opened.wait_for(|open| *open == all)).await;
            open.context("not all watches are open")?
                .context("no watch is left")?;
            anyhow::Ok(())
        })?;
        Ok(clients)
    }

    /// Stops all work, ends the watches by a last object, and counts what these have missed.
    ///
    /// # Errors
    /// A client does not end: a request or a watch that waits for ever.
    pub(super) fn finish(self, place: &Place) -> Result<()> {
        self.stop.send_replace(true);
        for task in self.tasks {
            let ended = place.on(async move { timeout(SOON, task).await });
            ended
                .context("a client does not end")?
                .context("a client")?;
        }
        let plane = self.plane;
        place
            .on(async move {
                let secret = json!({"metadata": {"name": LAST, "namespace": "default"}});
                let store = plane.store();
                store
                    .create(&Key::new("", "secrets", "default", LAST), secret)
                    .await?;
                let mut last = config_map(LAST);
                last["metadata"]["namespace"] = "default".into();
                store
                    .create(&Key::new("", "configmaps", "default", LAST), last)
                    .await
            })
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let created = self
            .created
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (kind, collection, watcher) in self.watchers {
            let names = place.on(async move {
                timeout(SOON, watcher)
                    .await
                    .context("a watch has not seen the last object")?
                    .context("a watch")
            })?;
            let missed = match collection {
                CONFIG_MAPS => created.difference(&names).count() as u64,
                _ => 0,
            };
            if missed > 0 {
                let what = format!("a watch has missed {missed} of {} events", created.len());
                self.tally
                    .fail(kind, |seen| seen.events_wrong += missed, what);
            }
        }
        ensure!(!created.is_empty(), "nothing was created");
        Ok(())
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        place: &Place,
        work: impl FnOnce(watch::Receiver<bool>) -> F,
    ) {
        self.tasks.push(place.spawn(work(self.stop.subscribe())));
    }

    fn watch(
        &mut self,
        place: &Place,
        caller: &Arc<Caller>,
        collection: &'static str,
        from: u64,
        open: &watch::Sender<usize>,
    ) {
        let watcher = Watcher {
            caller: Arc::clone(caller),
            collection: collection.into(),
            from,
            last: LAST.into(),
            open: open.clone(),
        };
        self.watchers
            .push((caller.kind(), collection, place.spawn(watcher.run())));
    }
}

/// Makes what clients look for, and returns the revision from which on they watch.
async fn prepare(plane: &ControlPlane) -> Result<u64> {
    let failed = |error| anyhow::anyhow!("store: {error:?}");
    let store = plane.store();
    store
        .create(&policy_key(KNOWN), policy(KNOWN))
        .await
        .map_err(failed)?;
    let scope = Scope::new("", "secrets", "default");
    let (_, revision) = store.list(&scope).await.map_err(failed)?;
    Ok(revision)
}

async fn manage(caller: Arc<Caller>, stop: watch::Receiver<bool>) {
    let name = caller.name().to_owned();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 15, "leaseTransitions": 0},
    });
    let json = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap_or_default();
    let made = caller.call(Call::create(LEASES, &lease)).await;
    let mut held = made.map(|reply| json(&reply.body)).unwrap_or(lease);
    let path = format!("{LEASES}/{name}");
    let mut tick = ticks(RENEW);
    while !*stop.borrow() {
        tick.tick().await;
        held["spec"]["leaseTransitions"] =
            (held["spec"]["leaseTransitions"].as_u64().unwrap_or(0) + 1).into();
        let renewed = Call {
            method: Method::PUT,
            ..Call::create(&path, &held)
        };
        // As leader election does: what it holds comes with the answer, and is read again if that fails.
        let answer = match caller.call(renewed).await {
            Some(answer) => Some(answer),
            None => caller.get(&path).await,
        };
        if let Some(answer) = answer {
            held = json(&answer.body);
        }
        caller.discover().await;
        caller.get(&looked_up(&caller)).await;
    }
}

/// So many requests each second, whether or not earlier ones are answered.
async fn steady(
    caller: Arc<Caller>,
    rate: f64,
    created: Arc<Created>,
    stop: watch::Receiver<bool>,
) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let mut asked = JoinSet::new();
    let mut tick = ticks(Duration::from_secs_f64(1.0 / rate));
    // Discovery once in about two seconds.
    let discovers = (2.0 * rate) as u64;
    for number in 0u64.. {
        tick.tick().await;
        if *stop.borrow() {
            break;
        }
        while asked.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&under_way).try_acquire_owned() else {
            continue;
        };
        let (caller, created) = (Arc::clone(&caller), Arc::clone(&created));
        asked.spawn(async move {
            match number {
                _ if number % discovers == 0 => caller.discover().await,
                _ => step(&caller, number, &created).await,
            }
            drop(place);
        });
    }
    while asked.join_next().await.is_some() {}
}

/// A tenth are writes, three tenths are about the new type once it is there.
async fn step(caller: &Caller, number: u64, created: &Created) {
    let name = format!("{}-{number}", caller.name());
    match number % 20 {
        1 => {
            if caller
                .call(Call::create(CONFIG_MAPS, &config_map(&name)))
                .await
                .is_some()
            {
                created
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name);
            }
        }
        11 if caller.has_news() => {
            caller.call(Call::create(ONLY_36, &policy(&name))).await;
        }
        3 | 7 | 9 | 13 | 17 => {
            caller.get(&looked_up(caller)).await;
        }
        _ => {
            caller.get(OLD).await;
        }
    }
}

async fn slowly(caller: Arc<Caller>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        caller.get_slowly(&looked_up(&caller), THINKS).await;
        sleep(SLOW_PAUSE).await;
    }
}

/// The object of the new type once it is there, and another before.
fn looked_up(caller: &Caller) -> String {
    match caller.has_news() {
        true => format!("{ONLY_36}/{KNOWN}"),
        false => OLD.to_owned(),
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tick
}
