//! Follows the EndpointSlice `default/kubernetes` and the identity Leases.

use std::fmt::Debug;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{LINGER, MembershipError, Roster};
use crate::config::Endpoint;
use crate::discovery::SyncCounters;

/// A watch is ended by the server after so many seconds and taken for dead by us a little later, so that a connection that
/// silently died is noticed.
const WATCH_SECONDS: u32 = 30;
/// For a list, or between two parts of any answer; longer than a quiet watch may last.
const READ_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A list that could not be read for so long is worth a warning; a kube-apiserver restarts within it.
const TROUBLE: Duration = Duration::from_secs(60);

/// A client from a kubeconfig file or, without one, from the pod's service account.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, MembershipError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let error = |e: kube::config::KubeconfigError| MembershipError::Kubeconfig {
                path: path.to_owned(),
                reason: e.to_string(),
            };
            let file = Kubeconfig::read_from(path).map_err(error)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(error)?
        }
        None => Config::incluster().map_err(|e| MembershipError::InCluster(e.to_string()))?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|e| MembershipError::Client(e.to_string()))
}

/// Keeps `members` up to date until nobody reads it any more. Needs `list` and `watch` on EndpointSlices in `default` and on
/// Leases in `kube-system`. While the API cannot be reached, what was last known stands.
pub async fn follow(
    client: Client,
    mut roster: Roster,
    members: watch::Sender<Arc<Vec<Endpoint>>>,
    restarts: mpsc::Sender<Option<Endpoint>>,
    counters: Arc<SyncCounters>,
) {
    let mut slices = pin!(events(
        Api::<EndpointSlice>::namespaced(client.clone(), "default"),
        "kubernetes.io/service-name=kubernetes",
    ));
    let mut leases = pin!(events(
        Api::<Lease>::namespaced(client, "kube-system"),
        "apiserver.kubernetes.io/identity=kube-apiserver",
    ));
    let mut told = false;
    let (mut listed_slices, mut listed_leases) = (Vec::new(), Vec::new());
    let mut failing: Option<Instant> = None;
    loop {
        let expiry = roster
            .next_expiry()
            .unwrap_or_else(|| Instant::now() + LINGER);
        let result = tokio::select! {
            () = members.closed() => return,
            () = sleep_until(expiry) => Ok(Vec::new()),
            Some(event) = slices.next() => event.map(|event| {
                take_slice(&mut roster, &mut listed_slices, event);
                Vec::new()
            }),
            Some(event) = leases.next() => event.map(|event| take_lease(&mut roster, &mut listed_leases, event)),
            else => return,
        };
        match result {
            Ok(restarted) => {
                failing = None;
                told = false;
                // The list first: a server that is new is polled at once anyway.
                publish(&members, &mut roster);
                for endpoint in restarted {
                    info!(server = ?endpoint, "a kube-apiserver was started, stopped or replaced");
                    // Full: as many are already being asked.
                    let _ = restarts.try_send(endpoint);
                }
            }
            Err(error) => {
                counters.lease_list.fetch_add(1, Ordering::Relaxed);
                // A server that restarts ends a watch and refuses some lists: that is no trouble yet.
                let since = *failing.get_or_insert_with(Instant::now);
                if since.elapsed() < TROUBLE || told {
                    debug!(%error, "the list of servers could not be read");
                } else {
                    told = true;
                    warn!(%error, "the list of servers cannot be read; what was last known stands");
                }
            }
        }
    }
}

fn events<K>(api: Api<K>, labels: &str) -> impl Stream<Item = Result<Event<K>, watcher::Error>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default()
        .labels(labels)
        .timeout(WATCH_SECONDS);
    watcher(api, config).backoff(Doubling::default())
}

/// 200 ms doubling to 10 s: sooner than kube's own 30 s, since the list is of most use right after the API was away.
#[derive(Default)]
struct Doubling(u32);

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(200 << self.0.min(6)).min(Duration::from_secs(10));
        self.0 = self.0.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

fn take_slice(roster: &mut Roster, listed: &mut Vec<EndpointSlice>, event: Event<EndpointSlice>) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(slice) => listed.push(slice),
        Event::InitDone => roster.slices_listed(&std::mem::take(listed)),
        Event::Apply(slice) => roster.slice_applied(&slice),
        Event::Delete(slice) => roster.slice_deleted(&slice),
    }
}

fn take_lease(
    roster: &mut Roster,
    listed: &mut Vec<Lease>,
    event: Event<Lease>,
) -> Vec<Option<Endpoint>> {
    match event {
        Event::Init => {
            listed.clear();
            Vec::new()
        }
        Event::InitApply(lease) => {
            listed.push(lease);
            Vec::new()
        }
        Event::InitDone => roster.leases_listed(&std::mem::take(listed)),
        Event::Apply(lease) => roster.lease_applied(&lease).into_iter().collect(),
        Event::Delete(lease) => roster.lease_deleted(&lease).into_iter().collect(),
    }
}

fn publish(members: &watch::Sender<Arc<Vec<Endpoint>>>, roster: &mut Roster) {
    let now = roster.members(Instant::now());
    members.send_if_modified(|before| {
        let changed = **before != now;
        if changed {
            info!(servers = ?now.iter().map(|e| &*e.name).collect::<Vec<_>>(), "the peers are");
            *before = Arc::new(now);
        }
        changed
    });
}
