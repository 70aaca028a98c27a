//! Follows the EndpointSlice `default/kubernetes`, the Nodes of the control plane and the identity Leases.

use std::fmt::Debug;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::storage_versions::StorageVersions;
use super::{
    LINGER, MembershipError, MembershipFacts, MembershipLine, MembershipSource, Roster, SLICE_NAME,
    SLICE_NAMESPACE,
};
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

/// The channels into which [`follow`] sends what it finds.
pub struct MembershipChannels {
    /// The members, sent only when they changed.
    pub members: watch::Sender<Arc<Vec<Endpoint>>>,
    /// The server whose process is another one now; `None` inside: which server it is, is not known.
    pub restarts: mpsc::Sender<Option<Endpoint>>,
    /// What `mvp status` says about the list.
    pub line: MembershipLine,
}

/// By which ways objects are read.
pub struct Clients {
    /// The EndpointSlice, Leases and Nodes.
    pub members: Client,
    /// For StorageVersions, on which nothing depends.
    pub storage_versions: Client,
}

/// Keeps the list up to date until nobody reads it any more. Needs `list` and `watch` on the EndpointSlice `kubernetes` in
/// `default`, on Leases in `kube-system` and on Nodes. While the API cannot be reached, what was last known stands; without Nodes
/// servers are named by their Leases or addresses.
/// StorageVersions are listed and watched only while a server says that it has that type.
pub async fn follow(
    clients: Clients,
    roster: Roster,
    channels: MembershipChannels,
    counters: Arc<SyncCounters>,
) {
    let client = clients.members;
    let mut offered = counters.published.offered();
    let mut published: Option<BoxStream<'static, _>> = None;
    let mut slices = pin!(events(
        Api::<EndpointSlice>::namespaced(client.clone(), SLICE_NAMESPACE),
        watcher::Config::default().fields(&format!("metadata.name={SLICE_NAME}")),
        RETRY,
    ));
    let mut leases = pin!(events(
        Api::<Lease>::namespaced(client.clone(), "kube-system"),
        watcher::Config::default().labels("apiserver.kubernetes.io/identity=kube-apiserver"),
        RETRY,
    ));
    let mut nodes = pin!(events(
        Api::<Node>::all(client),
        watcher::Config::default().labels(CONTROL_PLANE),
        NODES_RETRY,
    ));
    let mut follower = Follower {
        roster,
        channels,
        counters,
        slices: Listing::default(),
        leases: Listing::default(),
        nodes: Listing::default(),
        published: Listing::default(),
        storage_versions: StorageVersions::default(),
        names_by: Instant::now() + NAMES_WITHIN,
    };
    loop {
        let until = follower.wake();
        let restarted = tokio::select! {
            () = follower.channels.members.closed() => return,
            () = sleep_until(until) => Vec::new(),
            Some(event) = slices.next() => {
                follower.slice(event);
                Vec::new()
            }
            Some(event) = leases.next() => follower.lease(event),
            Some(event) = nodes.next() => {
                follower.node(event);
                Vec::new()
            }
            // The sender is in the counters, which the follower has: there is no end.
            Ok(()) = offered.changed() => {
                let wanted = *offered.borrow_and_update();
                published = wanted.then(|| published_objects(&clients.storage_versions));
                follower.offered(wanted);
                Vec::new()
            }
            Some(event) = next(&mut published) => {
                follower.published(event);
                Vec::new()
            }
            else => return,
        };
        // The list first: a server that is new is polled at once anyway.
        follower.publish();
        for endpoint in restarted {
            info!(server = ?endpoint, "a kube-apiserver was started, stopped or replaced");
            // Full: as many are already being asked.
            let _ = follower.channels.restarts.try_send(endpoint);
        }
    }
}

/// How many StorageVersions there are. An error, for people: they cannot be listed.
pub async fn storage_versions(client: Client) -> Result<usize, String> {
    let (api, all) = (Api::<StorageVersion>::all(client), ListParams::default());
    let listed = api.list(&all).await.map_err(|error| error.to_string())?;
    Ok(listed.items.len())
}

/// Only Nodes with this label give names. A kubelet can write the addresses of its own Node, but not this label
/// (admission plugin NodeRestriction), so that no worker can name a server; and of thousands of Nodes only these are read.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Longest wait before a failed list or watch is tried again: sooner than kube's own 30 s, since the list is of most use right
/// after the API was away.
const RETRY: Duration = Duration::from_secs(10);
/// The same for Nodes and StorageVersions, without which the agent works too.
const NODES_RETRY: Duration = Duration::from_secs(300);
/// So long the first list waits for names, so that a server does not begin under its address and change its name at once.
const NAMES_WITHIN: Duration = Duration::from_secs(2);

/// Never resolves without a stream.
async fn next<T>(stream: &mut Option<BoxStream<'static, T>>) -> Option<T> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

fn published_objects(
    client: &Client,
) -> BoxStream<'static, Result<Event<StorageVersion>, watcher::Error>> {
    let api = Api::<StorageVersion>::all(client.clone());
    events(api, watcher::Config::default(), NODES_RETRY).boxed()
}

struct Follower {
    roster: Roster,
    channels: MembershipChannels,
    counters: Arc<SyncCounters>,
    slices: Listing<EndpointSlice>,
    leases: Listing<Lease>,
    nodes: Listing<Node>,
    published: Listing<StorageVersion>,
    storage_versions: StorageVersions,
    names_by: Instant,
}

/// How one of the lists is doing.
struct Listing<K> {
    /// The objects of the list that is being read.
    listed: Vec<K>,
    /// It was read, or could not be, at least once.
    asked: bool,
    /// It was read at least once.
    read: bool,
    error: Option<String>,
    /// When it began to fail, and whether that was logged.
    failing: Option<(Instant, bool)>,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self {
            listed: Vec::new(),
            asked: false,
            read: false,
            error: None,
            failing: None,
        }
    }
}

/// What one event of a watch comes to.
enum Step<K> {
    Nothing,
    Listed(Vec<K>),
    Applied(K),
    Deleted(K),
}

impl<K> Listing<K> {
    /// `Err`: it fails for so long that it is worth a warning. A server that restarts ends a watch and refuses some lists.
    fn take(&mut self, event: Result<Event<K>, watcher::Error>) -> Result<Step<K>, ()> {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                self.asked = true;
                debug!(%error, "a list or watch failed");
                self.error = Some(error.to_string());
                let (since, said) = self.failing.unwrap_or_else(|| (Instant::now(), false));
                let says = !said && since.elapsed() >= TROUBLE;
                self.failing = Some((since, said || says));
                return if says { Err(()) } else { Ok(Step::Nothing) };
            }
        };
        self.failing = None;
        Ok(match event {
            Event::Init => {
                self.listed.clear();
                Step::Nothing
            }
            Event::InitApply(object) => {
                self.listed.push(object);
                Step::Nothing
            }
            Event::InitDone => {
                (self.asked, self.read) = (true, true);
                self.error = None;
                Step::Listed(std::mem::take(&mut self.listed))
            }
            Event::Apply(object) => {
                self.error = None;
                Step::Applied(object)
            }
            Event::Delete(object) => {
                self.error = None;
                Step::Deleted(object)
            }
        })
    }
}

impl Follower {
    fn slice(&mut self, event: Result<Event<EndpointSlice>, watcher::Error>) {
        self.count(event.is_err());
        match self.slices.take(event) {
            Ok(Step::Nothing) => {}
            Ok(Step::Listed(slices)) => self.roster.slices_listed(&slices),
            Ok(Step::Applied(slice)) => self.roster.slice_applied(&slice),
            Ok(Step::Deleted(slice)) => self.roster.slice_deleted(&slice),
            Err(()) => failing("the list of servers", &self.slices.error),
        }
    }

    fn lease(&mut self, event: Result<Event<Lease>, watcher::Error>) -> Vec<Option<Endpoint>> {
        self.count(event.is_err());
        match self.leases.take(event) {
            Ok(Step::Nothing) => Vec::new(),
            Ok(Step::Listed(leases)) => self.roster.leases_listed(&leases),
            Ok(Step::Applied(lease)) => self.roster.lease_applied(&lease).into_iter().collect(),
            Ok(Step::Deleted(lease)) => self.roster.lease_deleted(&lease).into_iter().collect(),
            Err(()) => {
                failing("the identity Leases", &self.leases.error);
                Vec::new()
            }
        }
    }

    fn node(&mut self, event: Result<Event<Node>, watcher::Error>) {
        match self.nodes.take(event) {
            Ok(Step::Nothing) => {}
            Ok(Step::Listed(nodes)) => self.roster.nodes_listed(&nodes),
            Ok(Step::Applied(node)) => self.roster.node_applied(&node),
            Ok(Step::Deleted(node)) => self.roster.node_deleted(&node),
            Err(()) => failing("the names of Nodes", &self.nodes.error),
        }
    }

    fn published(&mut self, event: Result<Event<StorageVersion>, watcher::Error>) {
        match self.published.take(event) {
            Ok(Step::Nothing) => {}
            Ok(Step::Listed(objects)) => self.storage_versions.listed(&objects),
            Ok(Step::Applied(object)) => self.storage_versions.applied(&object),
            Ok(Step::Deleted(object)) => self.storage_versions.deleted(&object),
            Err(()) => failing("StorageVersions", &self.published.error),
        }
    }

    /// No server has the type any more, or one has it for the first time.
    fn offered(&mut self, offered: bool) {
        if !offered {
            self.published = Listing::default();
            self.storage_versions = StorageVersions::default();
        }
    }

    fn count(&self, failed: bool) {
        if failed {
            self.counters.lease_list.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// False while the servers' names may still come.
    fn named(&self) -> bool {
        (self.leases.asked && self.nodes.asked) || Instant::now() >= self.names_by
    }

    /// When to look again if nothing happens.
    fn wake(&self) -> Instant {
        let expiry = self.roster.next_expiry();
        let expiry = expiry.unwrap_or_else(|| Instant::now() + LINGER);
        match self.named() {
            true => expiry,
            false => expiry.min(self.names_by),
        }
    }

    fn publish(&mut self) {
        let (read, named) = (self.slices.read, self.named());
        let now = match read && named {
            true => Some(self.roster.members(Instant::now())),
            false => None,
        };
        let facts = MembershipFacts {
            peers: now
                .as_ref()
                .map_or_else(|| self.channels.members.borrow().len(), Vec::len),
            ignored: self.roster.ignored(),
            source: if now.is_some() {
                MembershipSource::Kubernetes
            } else {
                MembershipSource::Awaited
            },
            misnamed: self.roster.misnamed().map(str::to_owned),
            nodes_error: self.nodes.error.clone(),
            published_error: self.published.error.clone(),
            error: self.slices.error.clone(),
        };
        let mut changed = false;
        if let Some(now) = now {
            changed = self.channels.members.send_if_modified(|before| {
                let changed = **before != now;
                if changed {
                    info!(servers = ?now.iter().map(|e| &*e.name).collect::<Vec<_>>(), "the peers are");
                    *before = Arc::new(now);
                }
                changed
            });
        }
        let published = self.storage_versions.by_server(&self.roster.identities());
        self.counters.published.set(published);
        let (warns, line) = (facts.warns(), facts.line());
        let news = self.channels.line.set(facts);
        if warns && (news || changed) {
            warn!("{line}");
        }
    }
}

/// Once, when it begins: what follows is in the status.
fn failing(what: &str, error: &Option<String>) {
    let error = error.as_deref().unwrap_or_default();
    warn!(error, "{what} cannot be read; what was last known stands");
}

/// A watch of these objects that is begun again whenever it ends, after at most `longest` if it failed.
pub fn events<K>(
    api: Api<K>,
    config: watcher::Config,
    longest: Duration,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config.timeout(WATCH_SECONDS)).backoff(Doubling {
        failures: 0,
        longest,
    })
}

/// 200 ms, doubling.
struct Doubling {
    failures: u32,
    longest: Duration,
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(200 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Doubling {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
