//! One method an event.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::cache::{self, Instance};
use super::labels::{Counters, Labelled};
use super::source::{Sink, Sources};
use super::totals::Totals;
use super::*;

/// Label sets of metrics whose labels come from discovery; a server cannot make the agent remember more.
const MOST_RESOURCES: usize = 4096;

/// All counters of one agent. Shared by all threads behind an `Arc`.
pub struct Metrics {
    instance: Instance,
    registry: Registry,
    sources: Sources,
    rerouted: Counters<4>,
    peer_proxy_errors: Counters<4>,
    peer_discovery_sync_errors: Counters<1>,
    peer_aggregated_cache_hits: Counter,
    peer_aggregated_cache_misses: Counter,
    nopeer_requests: Counter,
    requests: Counters<3>,
    totals: Totals,
    added: Histogram,
    server_time: Labelled<1, Histogram>,
    retries: Counters<1>,
    let_go: Counters<1>,
    ejections: Counters<1>,
    client_connections_open: Gauge,
    client_connections: Counter,
    refused: Counters<1>,
    headers_stripped: Counters<1>,
    hop_markers_forged: Counter,
    handshake_failures: Counters<1>,
    reload_failures: Counters<1>,
    refreshes: Counters<1>,
    upgrades_open: Gauge,
    tunnel_to_server: Counter,
    tunnel_to_client: Counter,
    reset_floods: Counter,
    relay_decisions: Counters<1>,
    relay_asked: Counter,
    relay_retired: Counters<1>,
    resources: Mutex<HashSet<[Box<str>; 3]>>,
}

/// Something open; dropping it takes it off its gauge.
#[must_use]
pub struct Open(Gauge);

impl Metrics {
    /// Every family, with zeros for the labels that are known beforehand.
    pub fn new() -> Self {
        static INSTANCES: AtomicU64 = AtomicU64::new(0);
        let mut registry = Registry::default();
        let r = &mut registry;
        let tunnel_bytes = Counters::register(r, &TUNNEL_BYTES);
        let server_time = Family::new_with_constructor(server_histogram as fn() -> Histogram);
        r.register(SERVER_TIME.base(), SERVER_TIME.help, server_time.clone());
        let added = added_histogram();
        r.register(ADDED.base(), ADDED.help, added.clone());
        let sources = Sources::default();
        r.register_collector(Box::new(sources.clone()));
        let metrics = Self {
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
            rerouted: Counters::register(r, &REROUTED),
            peer_proxy_errors: Counters::register(r, &PEER_PROXY_ERRORS),
            peer_discovery_sync_errors: Counters::register(r, &PEER_DISCOVERY_SYNC_ERRORS),
            peer_aggregated_cache_hits: counter(r, &PEER_AGGREGATED_CACHE_HITS),
            peer_aggregated_cache_misses: counter(r, &PEER_AGGREGATED_CACHE_MISSES),
            nopeer_requests: counter(r, &NOPEER_REQUESTS),
            requests: Counters::register(r, &REQUESTS),
            totals: Totals::default(),
            added,
            server_time: Labelled::new(&SERVER_TIME, server_time),
            retries: Counters::register(r, &RETRIES),
            let_go: Counters::register(r, &LET_GO),
            ejections: Counters::register(r, &EJECTIONS),
            client_connections_open: gauge(r, &CLIENT_CONNECTIONS_OPEN),
            client_connections: counter(r, &CLIENT_CONNECTIONS),
            refused: Counters::register(r, &REFUSED),
            headers_stripped: Counters::register(r, &HEADERS_STRIPPED),
            hop_markers_forged: counter(r, &HOP_MARKERS_FORGED),
            handshake_failures: Counters::register(r, &HANDSHAKE_FAILURES),
            reload_failures: Counters::register(r, &RELOAD_FAILURES),
            refreshes: Counters::register(r, &REFRESHES),
            upgrades_open: gauge(r, &UPGRADES_OPEN),
            tunnel_to_server: tunnel_bytes.get(["to_server"]),
            tunnel_to_client: tunnel_bytes.get(["to_client"]),
            reset_floods: counter(r, &RESET_FLOODS),
            relay_decisions: Counters::register(r, &RELAY_DECISIONS),
            relay_asked: counter(r, &RELAY_ASKED),
            relay_retired: Counters::register(r, &RELAY_RETIRED),
            resources: Mutex::default(),
            registry,
            sources,
        };
        for counters in [
            &metrics.peer_discovery_sync_errors,
            &metrics.retries,
            &metrics.refused,
            &metrics.headers_stripped,
            &metrics.handshake_failures,
            &metrics.refreshes,
            &metrics.relay_decisions,
            &metrics.relay_retired,
        ] {
            counters.start();
        }
        for (decision, codes) in zeros::OWN_ANSWERS {
            for code in *codes {
                metrics.requests.get([decision, "", &code.to_string()]);
            }
        }
        // A discovery request names no resource.
        metrics.rerouted.get(["200", "", "", ""]);
        for kind in zeros::PROXY_ERRORS {
            metrics.peer_proxy_errors.get([kind, "", "", ""]);
        }
        metrics.register_source(Box::new(|sink| {
            sink.set(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        }));
        metrics
    }

    /// A request was answered. `server` is empty if the agent answered itself.
    pub fn request(&self, decision: &'static str, server: &Arc<str>, code: u16) {
        let key = cache::Request {
            instance: self.instance,
            decision,
            server,
            code,
        };
        let make = || {
            let counter = self.requests.get([decision, server, &code.to_string()]);
            self.totals.add(decision, server, code, &counter);
            counter
        };
        cache::request(&key, make, |counter| {
            counter.inc();
        });
    }

    /// The requests so far, by what [`Metrics::request`] was told.
    pub fn requests(&self) -> Vec<(RequestKey, u64)> {
        self.totals.read()
    }

    /// The agent's own share of a request.
    pub fn added(&self, time: Duration) {
        self.added.observe(time.as_secs_f64());
    }

    /// The requests so far of which [`Metrics::added`] was told, and their sum. Read as a scrape is, so that no request pays for it.
    pub fn added_so_far(&self) -> (u64, Duration) {
        let mut registry = Registry::default();
        registry.register(ADDED.base(), ADDED.help, self.added.clone());
        let mut text = String::new();
        // As in `render`.
        if text::encode(&mut text, &registry).is_err() {
            return (0, Duration::ZERO);
        }
        let sample = |suffix: &str| -> f64 {
            let mut lines = text.lines();
            let value = lines.find_map(|line| {
                let rest = line.strip_prefix(ADDED.name)?.strip_prefix(suffix)?;
                rest.strip_prefix(' ')?.parse().ok()
            });
            value.unwrap_or_default()
        };
        let sum = Duration::try_from_secs_f64(sample("_sum")).unwrap_or_default();
        (sample("_count") as u64, sum)
    }

    /// The server's share of a request.
    pub fn server_time(&self, server: &Arc<str>, time: Duration) {
        let make = || {
            let labels = self.server_time.labels([server]);
            self.server_time.family.get_or_create_owned(&labels)
        };
        cache::server(self.instance, server, make, |histogram| {
            histogram.observe(time.as_secs_f64());
        });
    }

    /// A request was answered by a peer. All three names empty: a discovery request.
    pub fn rerouted(&self, code: u16, group: &str, version: &str, resource: &str) {
        let key = cache::Reroute {
            instance: self.instance,
            code,
            gvr: [group, version, resource],
        };
        let make = || {
            let [group, version, resource] = self.bounded([group, version, resource]);
            let code = code.to_string();
            self.rerouted.get([&code, group, version, resource])
        };
        cache::reroute(&key, make, |counter| {
            counter.inc();
        });
    }

    /// `kind`: `endpoint_resolution` or `proxy_transport`, as the native proxy.
    pub fn peer_proxy_error(&self, kind: &'static str, group: &str, version: &str, resource: &str) {
        let [group, version, resource] = self.bounded([group, version, resource]);
        self.peer_proxy_errors
            .get([kind, group, version, resource])
            .inc();
    }

    /// `kind`: `lease_list`, `hostport_resolution` or `fetch_discovery`, as the native proxy.
    pub fn peer_discovery_sync_error(&self, kind: &'static str) {
        self.peer_discovery_sync_errors.known([kind]).inc();
    }

    /// `hit`: a client was answered from the merged view; otherwise a new view was merged, because a server's answer changed.
    pub fn peer_aggregated_cache(&self, hit: bool) {
        if hit {
            self.peer_aggregated_cache_hits.inc();
        } else {
            self.peer_aggregated_cache_misses.inc();
        }
    }

    /// A client asked for `profile=nopeer`: what the local server alone serves.
    pub fn nopeer_request(&self) {
        self.nopeer_requests.inc();
    }

    /// Another attempt was made; `reason` is that of the ending in `proxy::blame`.
    pub fn retry(&self, reason: &'static str) {
        self.retries.known([reason]).inc();
    }

    /// Second attempts so far.
    pub fn retries(&self) -> u64 {
        let reasons = zeros::words(&RETRIES).into_iter();
        reasons
            .map(|reason| self.retries.known([reason]).get())
            .sum()
    }

    /// A watch was ended between two events because its server stops.
    pub fn let_go(&self, server: &str) {
        self.let_go.get([server]).inc();
    }

    /// A server is not chosen any more because attempts at it failed.
    pub fn ejection(&self, server: &str) {
        self.ejections.get([server]).inc();
    }

    /// A server that requests may be sent to: what is counted for it begins with its zero.
    pub fn server(&self, server: &str) {
        self.let_go.get([server]);
        self.ejections.get([server]);
        let labels = self.server_time.labels([server]);
        self.server_time.family.get_or_create_owned(&labels);
    }

    /// A file that is reloaded when it changes, likewise.
    pub fn file(&self, file: &str) {
        self.reload_failures.get([file]);
    }

    /// Counts an accepted connection; keep the answer as long as it is open.
    pub fn client_connection(&self) -> Open {
        self.client_connections.inc();
        Open::on(&self.client_connections_open)
    }

    /// Client connections that are open now.
    pub fn client_connections_open(&self) -> u64 {
        u64::try_from(self.client_connections_open.get()).unwrap_or(0)
    }

    /// Client connections since the start.
    pub fn client_connections_total(&self) -> u64 {
        self.client_connections.get()
    }

    /// `limit`: the last word of the limit's key, such as `connections`.
    pub fn refused(&self, limit: &'static str) {
        self.refused.known([limit]).inc();
    }

    /// Values of identity headers were removed from a request; `kind` as in [`crate::identity::Stripped`].
    pub fn headers_stripped(&self, kind: &'static str, count: u64) {
        if count > 0 {
            self.headers_stripped.known([kind]).inc_by(count);
        }
    }

    /// A caller that may not do so marked its request as forwarded; the mark was removed.
    pub fn hop_marker_forged(&self) {
        self.hop_markers_forged.inc();
    }

    /// A client's TLS handshake failed; `reason` is one of the table's words.
    pub fn handshake_failure(&self, reason: &'static str) {
        self.handshake_failures.known([reason]).inc();
    }

    /// A changed file could not be used, and its old content stays in use.
    pub fn reload_failure(&self, file: &str) {
        self.reload_failures.get([file]).inc();
    }

    /// A refresh that requests waited for has ended; `result` says how.
    pub fn refresh(&self, result: &'static str) {
        self.refreshes.known([result]).inc();
    }

    /// Keep the answer as long as the upgraded connection is open.
    pub fn upgrade(&self) -> Open {
        Open::on(&self.upgrades_open)
    }

    /// Upgraded connections that are open now.
    pub fn upgrades_open(&self) -> u64 {
        u64::try_from(self.upgrades_open.get()).unwrap_or(0)
    }

    /// Bytes of an upgraded connection that has ended, both ways.
    pub fn tunnel_bytes(&self, to_server: u64, to_client: u64) {
        self.tunnel_to_server.inc_by(to_server);
        self.tunnel_to_client.inc_by(to_client);
    }

    /// A connection was ended because its client reset too many streams.
    pub fn reset_flood(&self) {
        self.reset_floods.inc();
    }

    /// A new connection was looked at: `relayed`, `dial_failed`, or a reason of `route::relay::InspectReason`.
    pub fn relay_decision(&self, decision: &'static str) {
        self.relay_decisions.known([decision]).inc();
    }

    /// Connections that were forwarded whole so far.
    pub fn relayed(&self) -> u64 {
        self.relay_decisions.known(["relayed"]).get()
    }

    /// A hot client was asked to reconnect, so that its next connection can be relayed.
    pub fn relay_asked(&self) {
        self.relay_asked.inc();
    }

    /// A connection that was forwarded whole was ended by the agent.
    pub fn relay_retired(&self, reason: &'static str) {
        self.relay_retired.known([reason]).inc();
    }

    /// `source` is called on every scrape, by the thread that scrapes; it must not wait.
    pub fn register_source(&self, source: Box<dyn Fn(&mut Sink) + Send + Sync>) {
        self.sources.add(source);
    }

    /// Everything, in the OpenMetrics text format. Its media type: [`Metrics::CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        // Writing to a String does not fail, and nothing here has native histograms or exemplars, which may.
        if text::encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }

    /// The media type of [`Metrics::render`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The names, or "other" once too many have been seen.
    fn bounded<'a>(&self, gvr: [&'a str; 3]) -> [&'a str; 3] {
        let owned = gvr.map(Box::from);
        let mut seen = self
            .resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MOST_RESOURCES {
            seen.insert(owned);
            gvr
        } else if seen.contains(&owned) {
            gvr
        } else {
            ["other"; 3]
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Open {
    fn on(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn counter(registry: &mut Registry, spec: &'static Spec) -> Counter {
    let counter = Counter::default();
    registry.register(spec.base(), spec.help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, spec: &'static Spec) -> Gauge {
    let gauge = Gauge::default();
    registry.register(spec.base(), spec.help, gauge.clone());
    gauge
}

/// 10 us to 1 s: the range in which an added hop matters.
fn added_histogram() -> Histogram {
    Histogram::new([
        10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1,
        0.2, 0.5, 1.0,
    ])
}

/// 0.5 ms to a minute, kube-apiserver's own limit.
fn server_histogram() -> Histogram {
    Histogram::new([
        0.5e-3, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
        60.0,
    ])
}
