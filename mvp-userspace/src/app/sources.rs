//! Metrics whose values live elsewhere: gauges read at each scrape, and counts that other modules keep, mirrored once per second.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::time::MissedTickBehavior;

use super::manifest::ManifestLine;
use crate::discovery::{DiscoveryHandle, SyncCounters};
use crate::metrics::{
    CERTIFICATE_EXPIRY, DISCOVERY_AGE, Metrics, OUTSTANDING, POOL_CONNECTIONS, PROOF_AGE, READY,
    RESTART_NEEDED, SERVER_AVAILABLE, SERVER_PROVED,
};
use crate::proxy::Shared;
use crate::tls::ReloadStats;

const MIRROR_INTERVAL: Duration = Duration::from_secs(1);

/// Registers the gauges. `ready`: what `/readyz` says.
pub(super) fn register(
    metrics: &Metrics,
    ready: impl Fn() -> bool + Send + Sync + 'static,
    shared: &Arc<Shared>,
    reload: Arc<ReloadStats>,
    manifest: ManifestLine,
) {
    let shared = Arc::clone(shared);
    metrics.register_source(Box::new(move |sink| {
        sink.set(&READY, &[], f64::from(u8::from(ready())));
        for status in shared.discovery.status() {
            if let Some(age) = status.age {
                sink.set(&DISCOVERY_AGE, &[&status.name], age.as_secs_f64());
            }
            for (class, proved, proof) in [
                (
                    "asserted",
                    status.proofs.asserts(),
                    &status.proofs.front_proxy,
                ),
                ("token", status.proofs.passes_tokens(), &status.proofs.bare),
            ] {
                let labels = [status.name.as_str(), class];
                sink.set(&SERVER_PROVED, &labels, f64::from(u8::from(proved)));
                if let Some(at) = proof.at() {
                    sink.set(&PROOF_AGE, &labels, at.elapsed().as_secs_f64());
                }
            }
        }
        for member in shared.table.load().members() {
            let server = &member.server;
            sink.set(
                &SERVER_AVAILABLE,
                &[&server.name],
                f64::from(u8::from(server.available())),
            );
            sink.set(
                &OUTSTANDING,
                &[&server.name],
                server.outstanding.load(Ordering::Relaxed) as f64,
            );
        }
        let restart = f64::from(u8::from(manifest.restart_needed()));
        sink.set(&RESTART_NEEDED, &[], restart);
        for (server, class, count) in shared.load.pools.counts() {
            sink.set(&POOL_CONNECTIONS, &[&server, class], count as f64);
        }
        // Two keys often name one file (`clientCAFile` and `upstream.caFile`), and a sample may come only once.
        let mut expiries: BTreeMap<PathBuf, i64> = BTreeMap::new();
        for file in &reload.files() {
            if let Some(not_after) = file.not_after() {
                let first = expiries.entry(file.path.clone()).or_insert(not_after);
                *first = not_after.min(*first);
            }
        }
        for (path, not_after) in expiries {
            sink.set(
                &CERTIFICATE_EXPIRY,
                &[&path.display().to_string()],
                not_after as f64 - unix_now(),
            );
        }
    }));
}

/// Brings counts that only grow elsewhere into the metrics. Runs until dropped.
pub(super) async fn mirror(
    metrics: Arc<Metrics>,
    discovery: DiscoveryHandle,
    counters: Arc<SyncCounters>,
    reload: Arc<ReloadStats>,
) {
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut tick = tokio::time::interval(MIRROR_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut grown = |name: String, now: u64| {
            let before = seen.insert(name, now).unwrap_or(0);
            0..now.saturating_sub(before)
        };
        for (kind, counter) in [
            ("fetch_discovery", &counters.fetch_discovery),
            ("hostport_resolution", &counters.hostport_resolution),
            ("lease_list", &counters.lease_list),
        ] {
            grown(kind.to_owned(), counter.load(Ordering::Relaxed))
                .for_each(|_| metrics.peer_discovery_sync_error(kind));
        }
        grown("merges".to_owned(), discovery.merges())
            .for_each(|_| metrics.peer_aggregated_cache(false));
        for member in discovery.members() {
            let server = &member.server;
            metrics.server(&server.name);
            grown(
                format!("ejections of {}", server.name),
                server.health().ejections,
            )
            .for_each(|_| metrics.ejection(&server.name));
        }
        for file in &reload.files() {
            let path = file.path.display().to_string();
            metrics.file(&path);
            // By key: two keys may name one file and count for themselves.
            grown(
                format!("failures of {} at {path}", file.key),
                file.failures.load(Ordering::Relaxed),
            )
            .for_each(|_| metrics.reload_failure(&path));
        }
    }
}

fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs_f64()
}
