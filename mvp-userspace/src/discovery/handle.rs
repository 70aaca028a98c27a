//! Starting discovery, and what the rest of the agent holds of it.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::join_all;
use rustls_pki_types::InvalidDnsNameError;
use rustls_pki_types::ServerName;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::Dialer;
use super::entry::ServerEntry;
use super::events::{EventTimes, EventsStatus, FollowedType, quicken};
use super::follow::follow;
use super::hub::{Hub, HubSettings, Refreshed, SyncCounters};
use super::merged::View;
use super::openapi::{Describes, OtherIndex, ServerOpenApi, describing, merge_indexes};
use super::server_status::ServerStatus;
use super::{poller, prove};
use crate::api::{ApiSet, GitVersion};
use crate::config::{self, Endpoint};
use crate::document::Priorities;
use crate::identity::proof::OwnUser;
use crate::net::{AbortOnDrop, DialFrom};
use crate::route::{Member, RouteTable, Server};
use crate::tls::IdentityClass;

/// The pollers' start.
pub struct Discovery;

/// Cheap to clone; when the last clone is dropped, polling stops.
#[derive(Clone)]
pub struct DiscoveryHandle {
    hub: Arc<Hub>,
    _tasks: Arc<[AbortOnDrop; 2]>,
}

impl HubSettings {
    /// From the configuration's sections; `tls` is asked before every connection. An error: `upstream.serverName` is no name.
    pub fn new(
        discovery: &config::Discovery,
        upstream: &config::Upstream,
        from: DialFrom,
        tls: Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>,
        own: OwnUser,
    ) -> Result<Self, InvalidDnsNameError> {
        Ok(Self {
            dialer: Dialer {
                tls,
                own,
                from,
                server_name: ServerName::try_from(upstream.server_name.clone())?,
                connect_timeout: upstream.connect_timeout.min(discovery.timeout),
                timeout: discovery.timeout,
                ping_interval: upstream.ping_interval,
                ping_timeout: upstream.ping_timeout,
            },
            interval: discovery.interval,
            idle_interval: discovery.idle_interval,
            refresh: discovery.refresh,
            stale_after: discovery.stale_after,
            max_bytes: discovery.max_bytes,
            retain: discovery.retain,
            events: EventTimes::default(),
            prover: None,
        })
    }
}

impl Discovery {
    /// Polls `local` and every member from now on, on `runtime`. `members` may or may not name the local server. `restarts`
    /// names servers that are to be asked at once (`None`: all).
    pub fn start(
        settings: HubSettings,
        local: Endpoint,
        members: watch::Receiver<Arc<Vec<Endpoint>>>,
        restarts: mpsc::Receiver<Option<Endpoint>>,
        counters: Arc<SyncCounters>,
        runtime: &tokio::runtime::Handle,
    ) -> DiscoveryHandle {
        let hub = Arc::new(Hub::new(settings, counters, runtime.clone()));
        let mut pollers = Pollers {
            hub: hub.clone(),
            runtime: runtime.clone(),
            local,
            running: Vec::new(),
            _events: following(&hub, runtime),
        };
        // Before the first turn of the runtime, so that a table with all members is there from the start.
        pollers.follow(&members.borrow());
        let views = runtime.spawn(Arc::clone(&hub.views).run());
        let pollers = runtime.spawn(pollers.supervise(members, restarts));
        DiscoveryHandle {
            hub,
            _tasks: Arc::new([views, pollers].map(|task| AbortOnDrop(task.abort_handle()))),
        }
    }
}

impl DiscoveryHandle {
    /// The present table.
    pub fn table(&self) -> Arc<RouteTable> {
        self.hub.table.load_full()
    }

    /// The table for readers that look at it for every request.
    pub fn table_cell(&self) -> Arc<ArcSwap<RouteTable>> {
        self.hub.table.clone()
    }

    /// The merged view of what all servers serve, for readers that look at every discovery request.
    pub fn view_cell(&self) -> Arc<ArcSwap<View>> {
        Arc::clone(&self.hub.views.cell)
    }

    /// Waits until all that is known now is in the view.
    pub fn view_settled(&self) -> impl Future<Output = ()> + Send + 'static {
        let views = Arc::clone(&self.hub.views);
        async move { views.settled().await }
    }

    /// Largest document that a server may send, bytes.
    pub fn max_bytes(&self) -> usize {
        self.hub.settings.max_bytes
    }

    /// How many views of servers that differ were built.
    pub fn merges(&self) -> u64 {
        self.hub.views.merges()
    }

    /// The number of the present table. It grows with every change of what routing looks at: members, sets, knowledge.
    pub fn generation(&self) -> u64 {
        self.hub.generation()
    }

    /// What changes whenever a server may serve other things than the present table says: the table's generation, and how
    /// often an event, a sign of a restart or the end of a poller's connection has come. Equal answers mean that nothing
    /// came in between.
    pub fn state_of_knowledge(&self) -> (u64, u64) {
        let entries = self.hub.entries();
        let disturbances = entries.iter().map(|entry| entry.disturbances());
        (self.generation(), disturbances.fold(0, u64::wrapping_add))
    }

    /// Whether a poller's connection to every server is open now: a restarted server has closed its own.
    pub fn all_connected(&self) -> bool {
        self.hub.entries().iter().all(|entry| entry.is_connected())
    }

    /// What the present table is built from; the local server first.
    pub fn members(&self) -> Vec<Member> {
        self.hub.members()
    }

    /// Asks all servers and waits until they answered, but no longer than `discovery.refresh`. Callers on all threads share
    /// the next refresh to begin; it begins at least 100 ms after the last one ended.
    pub fn refresh(&self) -> impl Future<Output = Refreshed> + Send + 'static {
        self.hub.clone().refresh()
    }

    /// Routes by what an earlier agent knew of the server at this address, until the server answers. True if there is such a
    /// server and nothing was known of it.
    pub fn seed(&self, host: &str, port: u16, set: ApiSet) -> bool {
        let entries = self.hub.entries();
        let entry = entries
            .iter()
            .find(|entry| entry.endpoint.host == host && entry.endpoint.port == port);
        let Some(entry) = entry.filter(|entry| entry.set().is_none()) else {
            return false;
        };
        entry.seed(set);
        self.hub.counters.reached.mark(&entry.endpoint);
        self.hub.publish();
        true
    }

    /// Has the server at this address asked at once.
    pub fn poke(&self, endpoint: &Endpoint) {
        poke(&self.hub, Some(endpoint));
    }

    /// Has every server proved again at once, since what proves it was replaced.
    pub fn prove_all(&self) {
        self.hub.prove_all();
    }

    /// Has a server proved again soon, since it answered 401 to an asserted user.
    pub fn doubt(&self, server: &Arc<Server>) {
        let entries = self.hub.entries();
        let entry = entries
            .iter()
            .find(|entry| Arc::ptr_eq(&entry.server, server));
        // A backend's own 401 comes here too, and as often as a client likes: one that waits is enough.
        if let Some(entry) = entry
            && entry.doubted()
        {
            self.hub.prove_soon(Arc::clone(entry));
        }
    }

    /// Changes whenever something was found out that may decide whether this agent takes connections.
    pub fn judged(&self) -> watch::Receiver<u64> {
        self.hub.judged.subscribe()
    }

    /// Has every server polled at once, whatever its interval.
    pub fn poke_all(&self) {
        poke(&self.hub, None);
    }

    /// What is known of each member, in the order of the members.
    pub fn status(&self) -> Vec<ServerStatus> {
        let now = Instant::now();
        let stale_after = self.hub.settings.stale_after;
        self.hub
            .entries()
            .iter()
            .map(|entry| {
                let published = self.hub.published_of(entry, now);
                ServerStatus {
                    published: published.map_or(0, |set| set.entries().len()),
                    ..entry.status(now, stale_after)
                }
            })
            .collect()
    }

    /// What was counted since the start. The counters are shared: they go on after the handle is dropped.
    pub fn counters(&self) -> Arc<SyncCounters> {
        self.hub.counters.clone()
    }

    /// Names of the servers that were not asked once yet; empty from the end of the first round of all on.
    pub fn unasked(&self) -> watch::Receiver<Vec<String>> {
        self.hub.unasked()
    }

    /// Resolves when every server was asked once, whatever came of it, and what they said is in the view.
    pub fn first_round_done(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut first_round = self.hub.first_round();
        let settled = self.view_settled();
        async move {
            // An error means that discovery is gone, and nobody waits for it any more.
            let _ = first_round.wait_for(|done| *done).await;
            settled.await;
        }
    }

    /// How changes of CustomResourceDefinitions and APIServices come to be known.
    pub fn events(&self) -> EventsStatus {
        self.hub.events.status()
    }

    /// What APIServices say of the order of groups and versions; empty until they could be listed.
    pub fn priorities(&self) -> Arc<Priorities> {
        self.hub.views.priorities()
    }

    /// The `/openapi/v3` of every server whose index was read, the local server first. Only kept while servers differ.
    pub fn openapi(&self) -> Vec<ServerOpenApi> {
        let entries = self.hub.entries();
        let known = entries.iter().filter_map(|entry| {
            Some(ServerOpenApi {
                server: entry.server.clone(),
                index: entry.openapi()?,
            })
        });
        known.collect()
    }

    /// The index for a client whose request `server` answered with `body`.
    pub fn openapi_index(&self, server: &Arc<Server>, body: &Bytes) -> Bytes {
        let entries = self.hub.entries();
        let mut own = None;
        let mut others = Vec::new();
        for entry in &entries {
            let apis = entry.set().unwrap_or_default();
            let version = entry.version().as_deref().and_then(GitVersion::parse);
            if Arc::ptr_eq(&entry.server, server) {
                own = Some((apis, version));
            } else if let Some(index) = entry.openapi() {
                others.push((index, apis, version));
            }
        }
        let (apis, version) = own.unwrap_or_default();
        let others: Vec<_> = others
            .iter()
            .map(|(index, apis, version)| OtherIndex {
                index,
                apis,
                version: version.as_ref(),
            })
            .collect();
        merge_indexes(body, &apis, version.as_ref(), &others)
    }

    /// Waits until every server that can be asked has answered what it describes, but no longer than `discovery.refresh`. That takes time
    /// only when servers have just come to differ, or when this agent has just started: before, nobody needed to know.
    pub fn openapi_settled(&self) -> impl Future<Output = ()> + Send + 'static {
        let hub = Arc::clone(&self.hub);
        async move {
            if !hub.table.load().differs() {
                return;
            }
            let mut pending = hub.entries();
            pending.retain(|entry| entry.openapi_pending());
            if pending.is_empty() {
                return;
            }
            for entry in &pending {
                // Once is enough, however many clients wait.
                if entry.want_openapi() {
                    entry.poke();
                }
            }
            let answers = pending.iter().map(|entry| entry.openapi_answered());
            // Whoever does not answer in time describes nothing for now.
            let _ = timeout(hub.settings.refresh, join_all(answers)).await;
        }
    }

    /// The servers that a request for the description of `path` goes to if it names none by its hash: `describing`, of those that
    /// can be used.
    pub fn openapi_described(&self, path: &str) -> Vec<Arc<Server>> {
        let mut entries = self.hub.entries();
        entries.retain(|entry| entry.server.available());
        let known: Vec<_> = entries
            .iter()
            .map(|entry| {
                let version = entry.version().as_deref().and_then(GitVersion::parse);
                (entry.openapi(), entry.set().unwrap_or_default(), version)
            })
            .collect();
        let servers: Vec<_> = known
            .iter()
            .map(|(index, apis, version)| Describes {
                apis,
                version: version.as_ref(),
                url: index.as_ref().and_then(|index| index.url(path)),
            })
            .collect();
        let chosen = entries.iter().zip(describing(path, &servers));
        chosen
            .filter(|(_, chosen)| *chosen)
            .map(|(entry, _)| Arc::clone(&entry.server))
            .collect()
    }

    /// A client asked for a description that no index has, or a server did not have what its index said: has every index
    /// read again, at most once per second.
    pub fn openapi_mismatch(&self) {
        if !self.hub.table.load().differs() {
            return;
        }
        for entry in self.hub.entries() {
            if entry.want_openapi() {
                entry.poke();
            }
        }
    }
}

struct Pollers {
    hub: Arc<Hub>,
    runtime: tokio::runtime::Handle,
    local: Endpoint,
    running: Vec<(Arc<ServerEntry>, AbortOnDrop)>,
    _events: Vec<AbortOnDrop>,
}

impl Pollers {
    async fn supervise(
        mut self,
        mut members: watch::Receiver<Arc<Vec<Endpoint>>>,
        mut restarts: mpsc::Receiver<Option<Endpoint>>,
    ) {
        let mut membership = true;
        let mut restarting = true;
        let mut published = self.hub.counters.published.changes();
        loop {
            tokio::select! {
                // The sender is the hub's own: there is no end.
                Ok(()) = published.changed() => self.hub.publish(),
                changed = members.changed(), if membership => match changed {
                    Ok(()) => {
                        let members = members.borrow_and_update().clone();
                        self.follow(&members);
                    }
                    // The list will not change any more (a static one): what it said stands.
                    Err(_) => membership = false,
                },
                restarted = restarts.recv(), if restarting => match restarted {
                    Some(endpoint) => poke(&self.hub, endpoint.as_ref()),
                    None => restarting = false,
                },
                () = sleep_until(self.hub.next_expiry()) => self.hub.publish(),
            }
        }
    }

    /// Starts and stops pollers so that there is one for each of `members` and the local server, and leaves alone those that stay.
    fn follow(&mut self, members: &[Endpoint]) {
        let mut wanted = vec![self.local.clone()];
        for member in members {
            if !wanted.iter().any(|w| w.same_address(member)) {
                wanted.push(member.clone());
            }
        }
        let mut before = std::mem::take(&mut self.running);
        for endpoint in wanted {
            if let Some(i) = before
                .iter()
                .position(|(entry, _)| entry.endpoint == endpoint)
            {
                self.running.push(before.swap_remove(i));
                continue;
            }
            let local = endpoint == self.local;
            let departure = self.hub.counters.departures.of(&endpoint);
            let server = Server::new(endpoint.clone(), local).with_departure(departure);
            let server = Arc::new(server);
            if self.hub.settings.prover.is_some() {
                for class in [IdentityClass::FrontProxy, IdentityClass::Bare] {
                    server.set_proved(class, false);
                }
            }
            let entry = Arc::new(ServerEntry::new(server, endpoint));
            if let Some((renamed, _)) = before
                .iter()
                .find(|(e, _)| e.endpoint.same_address(&entry.endpoint))
            {
                entry.inherit(renamed);
                entry.show_proofs();
            }
            let task = self
                .runtime
                .spawn(poller::run(entry.clone(), self.hub.clone()));
            self.running.push((entry, AbortOnDrop(task.abort_handle())));
        }
        drop(before);
        self.hub.set_entries(
            self.running
                .iter()
                .map(|(entry, _)| entry.clone())
                .collect(),
        );
    }
}

fn following(hub: &Arc<Hub>, runtime: &tokio::runtime::Handle) -> Vec<AbortOnDrop> {
    let proves = hub.settings.prover.is_some();
    let followed = FollowedType::ALL.into_iter();
    // Only the proof uses the names.
    let followed = followed.filter(|one| proves || *one != FollowedType::HeaderNames);
    let watches: Vec<_> = followed
        .map(|followed| runtime.spawn(follow(followed, hub.clone())))
        .collect();
    let renamed = runtime.spawn(prove::renamed(hub.clone()));
    let quicken = runtime.spawn(quicken(hub.clone()));
    let tasks = watches.iter().chain([&quicken, &renamed]);
    tasks.map(|task| AbortOnDrop(task.abort_handle())).collect()
}

fn poke(hub: &Hub, endpoint: Option<&Endpoint>) {
    for entry in hub.entries() {
        if endpoint.is_none_or(|endpoint| endpoint.same_address(&entry.endpoint)) {
            entry.disturb();
            entry.poke();
        }
    }
}
