//! Puts together what the pollers know: the members, the route table, and refreshes on demand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Reached;
use super::connection::Dialer;
use super::entry::ServerEntry;
use super::events::{EventState, EventTimes, Events};
use super::fetch_error::FetchError;
use super::merged::Views;
use super::prove::Prover;
use super::published::PublishedTypes;
use super::server_status::ServerStatus;
use crate::api::ApiSet;
use crate::route::{Departures, Knowledge, Member, RouteTable};

/// How to poll.
#[derive(Clone)]
pub struct HubSettings {
    /// Opens the connections to servers, with their deadlines.
    pub dialer: Dialer,
    /// From the start of one round to the start of the next, for each server.
    pub interval: Duration,
    /// The same while nothing differs and events report changes; `/readyz` is queried every `interval` nevertheless.
    pub idle_interval: Duration,
    /// Longest time a refresh takes.
    pub refresh: Duration,
    /// Knowledge that was not confirmed for so long is stale.
    pub stale_after: Duration,
    /// Largest document accepted, bytes.
    pub max_bytes: usize,
    /// How long the merged view shows what only a server reported that cannot be queried any more.
    pub retain: Duration,
    /// How the types that announce changes are followed.
    pub events: EventTimes,
    /// How servers are proved; `None`: they are taken for proved.
    pub prover: Option<Arc<Prover>>,
}

/// What discovery and membership have in common: errors by type, as `apiserver_peer_discovery_sync_errors_total` has them,
/// refreshes, and which servers have answered.
#[derive(Debug, Default)]
pub struct SyncCounters {
    /// One for each path that failed.
    pub fetch_discovery: AtomicU64,
    /// A server's name could not be resolved.
    pub hostport_resolution: AtomicU64,
    /// Counted by membership: Leases or EndpointSlices could not be listed or watched.
    pub lease_list: AtomicU64,
    /// Refreshes that requests started; those that joined one under way are not counted.
    pub refreshes: AtomicU64,
    /// Which servers have answered, for membership.
    pub reached: Reached,
    /// Which are about to stop, for membership.
    pub departures: Departures,
    /// What membership read of what servers published about themselves.
    pub published: PublishedTypes,
}

/// What a refresh brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refreshed {
    /// The generation of the table afterwards.
    pub generation: u64,
    /// False if a server did not answer in time: what it serves now is not known.
    pub complete: bool,
}

pub(super) struct Hub {
    pub settings: HubSettings,
    pub counters: Arc<SyncCounters>,
    pub table: Arc<ArcSwap<RouteTable>>,
    pub views: Arc<Views>,
    entries: Mutex<Vec<Arc<ServerEntry>>>,
    published: Mutex<Published>,
    first_round: watch::Sender<bool>,
    unasked: watch::Sender<Vec<String>>,
    refresh: Mutex<Refresh>,
    runtime: tokio::runtime::Handle,
    pub events: Events,
    /// Changes with every outcome of a proof and of a round.
    pub judged: watch::Sender<u64>,
}

#[derive(Default)]
struct Published {
    generation: u64,
    members: Vec<Member>,
}

/// Clients that keep asking for what nobody serves cost no more than one refresh in so long.
const REFRESH_SPACING: Duration = Duration::from_millis(100);
/// The time in which the runtime that does the refresh can report its result.
const REFRESH_SLACK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Refresh {
    /// Announced and not begun: all that ask before it begins get its result.
    waiting: Option<watch::Receiver<Option<Refreshed>>>,
    last_begun: Option<Instant>,
}

impl Hub {
    pub(super) fn new(
        settings: HubSettings,
        counters: Arc<SyncCounters>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self {
            views: Arc::new(Views::new(settings.retain)),
            events: Events::new(settings.events),
            settings,
            counters,
            table: Arc::new(ArcSwap::from_pointee(RouteTable::build(0, Vec::new()))),
            entries: Mutex::default(),
            published: Mutex::default(),
            first_round: watch::Sender::new(false),
            unasked: watch::Sender::default(),
            refresh: Mutex::default(),
            judged: watch::Sender::new(0),
            runtime,
        }
    }

    /// Nothing is mixed, every server is well, and changes of types come as events: then what a server serves can change only with
    /// an event or with its process, whose end breaks its connection.
    pub(super) fn is_quiet(&self) -> bool {
        let status = self.events.status();
        let watching = [&status.definitions, &status.services]
            .into_iter()
            .all(|state| matches!(state, EventState::Watching(_)));
        if !watching || self.table.load().differs() {
            return false;
        }
        let now = Instant::now();
        let statuses = self.entries();
        let statuses = statuses
            .iter()
            .map(|entry| entry.status(now, self.settings.stale_after));
        all_well(statuses)
    }

    pub(super) fn entries(&self) -> Vec<Arc<ServerEntry>> {
        lock(&self.entries).clone()
    }

    pub(super) fn set_entries(&self, entries: Vec<Arc<ServerEntry>>) {
        let endpoints = entries.iter().map(|entry| &entry.endpoint);
        self.counters.reached.retain(endpoints.clone());
        self.counters.departures.retain(endpoints);
        *lock(&self.entries) = entries;
        self.publish();
        self.round_done();
    }

    pub(super) fn members(&self) -> Vec<Member> {
        let now = Instant::now();
        let entries = self.entries();
        let members = entries.iter().map(|entry| {
            let mut member = entry.member(now, self.settings.stale_after);
            if member.knowledge != Knowledge::Confirmed
                && let (Some(apis), Some(confirmed)) = (&member.apis, entry.confirmed())
                && let Some(left) = self.views.without_dropped(apis, confirmed)
            {
                member.apis = Some(Arc::new(left));
            }
            member.published = self.published_of(entry, now);
            member
        });
        members.collect()
    }

    /// What the server published, if it is to be used: only while its own word is missing, or older than `discovery.staleAfter`.
    pub(super) fn published_of(&self, entry: &ServerEntry, now: Instant) -> Option<Arc<ApiSet>> {
        let own = entry.confirmed();
        let own =
            own.is_some_and(|at| now.saturating_duration_since(at) < self.settings.stale_after);
        if own || entry.server.local {
            return None;
        }
        self.counters.published.of(&entry.endpoint)
    }

    /// Puts a new table in place if anything that routing looks at differs from the present one's, and then has a view built
    /// if anything it is made from does: what can be seen can be routed.
    pub(super) fn publish(&self) {
        let mut published = lock(&self.published);
        let members = self.members();
        if !same(&published.members, &members) {
            published.generation += 1;
            published.members = members.clone();
            let table = RouteTable::build(published.generation, members);
            self.counters.published.look_for_the_type(&table);
            self.table.store(Arc::new(table));
        }
        let (now, entries) = (Instant::now(), self.entries());
        let told = entries
            .iter()
            .filter_map(|entry| entry.report(now, self.settings.stale_after));
        self.views.want(told, now);
    }

    pub(super) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    /// Something was found out that may decide whether this agent takes connections.
    pub(super) fn judge(&self) {
        self.judged
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn generation(&self) -> u64 {
        lock(&self.published).generation
    }

    /// Notices when every present member was asked once.
    pub(super) fn round_done(&self) {
        if *self.first_round.borrow() {
            return;
        }
        let entries = self.entries();
        let unasked: Vec<String> = entries
            .iter()
            .filter(|entry| entry.rounds() == 0)
            .map(|entry| entry.endpoint.name.clone())
            .collect();
        let done = !entries.is_empty() && unasked.is_empty();
        self.unasked.send_if_modified(|before| {
            let changed = *before != unasked;
            *before = unasked;
            changed
        });
        if done {
            self.first_round.send_replace(true);
        }
    }

    /// Members whose first round has not ended, until that of all has.
    pub(super) fn unasked(&self) -> watch::Receiver<Vec<String>> {
        self.unasked.subscribe()
    }

    pub(super) fn first_round(&self) -> watch::Receiver<bool> {
        self.first_round.subscribe()
    }

    /// When the next knowledge becomes stale if nothing happens.
    pub(super) fn next_expiry(&self) -> Instant {
        let now = Instant::now();
        self.entries()
            .iter()
            .flat_map(|entry| {
                let absent = entry.becomes_absent(self.settings.stale_after);
                let expires = entry.expires(self.settings.stale_after, self.settings.retain);
                expires.into_iter().chain([absent])
            })
            .flatten()
            .filter(|at| *at > now)
            .fold(now + self.settings.stale_after, Instant::min)
    }

    /// Asks all servers at once, once for all callers. What it brings was asked for after the caller asked: an answer to
    /// somebody who came earlier may be from before the change that brought this caller here.
    pub(super) async fn refresh(self: Arc<Self>) -> Refreshed {
        let mut coming = self.join_refresh();
        let done = coming.wait_for(Option::is_some);
        let done = timeout(self.settings.refresh + REFRESH_SLACK, done).await;
        match done.ok().and_then(Result::ok).and_then(|result| *result) {
            Some(refreshed) => refreshed,
            None => Refreshed {
                generation: self.generation(),
                complete: false,
            },
        }
    }

    /// The refresh that begins next; announced now if nobody has.
    fn join_refresh(self: &Arc<Self>) -> watch::Receiver<Option<Refreshed>> {
        let mut refresh = lock(&self.refresh);
        if let Some(waiting) = &refresh.waiting {
            return waiting.clone();
        }
        self.counters.refreshes.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = watch::channel(None);
        refresh.waiting = Some(receiver.clone());
        let earliest = refresh.last_begun.map(|begun| begun + REFRESH_SPACING);
        drop(refresh);
        let hub = self.clone();
        self.runtime.spawn(async move {
            if let Some(earliest) = earliest {
                tokio::time::sleep_until(earliest).await;
            }
            *lock(&hub.refresh) = Refresh {
                waiting: None,
                last_begun: Some(Instant::now()),
            };
            let complete = hub.ask_all().await;
            sender.send_replace(Some(Refreshed {
                generation: hub.generation(),
                complete,
            }));
        });
        receiver
    }

    /// True if every server answered or failed in time. One that was silent when last asked is asked too, but not waited for;
    /// and one that has never answered for so long that it is taken for no server neither holds this up nor counts.
    async fn ask_all(&self) -> bool {
        let (now, stale_after) = (Instant::now(), self.settings.stale_after);
        let (absent, present): (Vec<_>, Vec<_>) = self
            .entries()
            .into_iter()
            .partition(|entry| entry.absent(now, stale_after));
        let (silent, answering): (Vec<_>, Vec<_>) = present.into_iter().partition(|e| e.silent());
        for entry in silent.iter().chain(&absent) {
            entry.poke();
        }
        let rounds = answering.iter().map(|entry| entry.fresh_round());
        let all = futures_util::future::join_all(rounds);
        let in_time = timeout(self.settings.refresh, all).await.is_ok();
        in_time && silent.is_empty()
    }
}

impl SyncCounters {
    pub(super) fn count(&self, errors: &[FetchError]) {
        for error in errors {
            let counter = match error {
                FetchError::Resolve { .. } => &self.hostport_resolution,
                _ => &self.fetch_discovery,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Every server was heard, is ready, and runs the same version.
fn all_well(statuses: impl Iterator<Item = ServerStatus>) -> bool {
    let mut version: Option<Option<String>> = None;
    for status in statuses {
        let well = status.knowledge == Knowledge::Confirmed
            && status.last_error.is_none()
            && status.ready == Some(true);
        let first = version.get_or_insert_with(|| status.version.clone());
        if !well || *first != status.version {
            return false;
        }
    }
    version.is_some()
}

fn same(a: &[Member], b: &[Member]) -> bool {
    let same_set = |a: &Option<Arc<ApiSet>>, b: &Option<Arc<ApiSet>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    };
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            Arc::ptr_eq(&a.server, &b.server)
                && a.knowledge == b.knowledge
                && same_set(&a.apis, &b.apis)
                && same_set(&a.published, &b.published)
        })
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
