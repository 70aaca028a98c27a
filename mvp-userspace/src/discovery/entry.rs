//! What is known of one server, shared by its poller, the builder of the table and all readers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::{DiscoveryConnection, authority};
use super::hub::lock;
use super::kept_openapi::KeptOpenApi;
use super::merged::ServerReport;
use super::openapi::OpenApiIndex;
use super::prove::{Due, classes};
use super::roots::{Documents, Found};
use super::server_status::{PollTrouble, Polls, ServerStatus};
use crate::api::{ApiSet, GitVersion, GroupVersion};
use crate::config::Endpoint;
use crate::document::DiscoveryForm;
use crate::identity::proof::{BelievedNames, Judgement, Proofs};
use crate::route::{Failure, Knowledge, Member, ReadyzOutcome, Release, Server};

pub(super) struct ServerEntry {
    pub server: Arc<Server>,
    pub endpoint: Endpoint,
    state: Mutex<State>,
    poke: Notify,
    /// How often something happened after which the server may serve other things than it last said.
    disturbed: AtomicU64,
    begun: AtomicU64,
    finished: watch::Sender<u64>,
    /// The poller's, while it is open.
    connection: watch::Sender<Option<DiscoveryConnection>>,
    openapi: Mutex<KeptOpenApi>,
    /// The server answered when it was asked for its OpenAPI index.
    openapi_answered: watch::Sender<()>,
    proofs: Mutex<Proofs>,
    due: Mutex<Due>,
    /// Held while a proof is under way.
    pub proving: tokio::sync::Mutex<()>,
}

/// A server that cannot be asked for less than this may only be restarting: what it alone serves stays listed as current, and a
/// request for it gets 503 with Retry-After, which client-go repeats by itself. `docs/one-view.md` gives the reasons.
const OUTAGE: Duration = Duration::from_secs(60);

fn outage(stale_after: Duration) -> Duration {
    OUTAGE.max(stale_after)
}

#[derive(Clone, Default)]
struct State {
    /// When the server became a member.
    since: Option<Instant>,
    set: Option<Arc<ApiSet>>,
    documents: Documents,
    confirmed: Option<Instant>,
    last: Last,
    error: Option<String>,
    trouble: PollTrouble,
    source: Option<DiscoveryForm>,
    stale: Vec<GroupVersion>,
    refused: usize,
    version: Option<String>,
    ready: Option<bool>,
    polls: Polls,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Last {
    #[default]
    None,
    Succeeded,
    /// Nobody listens.
    Refused,
    /// The server, or the way to it, does not answer.
    Silent,
    Failed,
}

impl ServerEntry {
    pub(super) fn new(server: Arc<Server>, endpoint: Endpoint) -> Self {
        let state = State {
            since: Some(Instant::now()),
            ..State::default()
        };
        Self {
            server,
            endpoint,
            state: Mutex::new(state),
            poke: Notify::new(),
            disturbed: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            finished: watch::Sender::new(0),
            connection: watch::Sender::new(None),
            openapi: Mutex::default(),
            openapi_answered: watch::Sender::new(()),
            proofs: Mutex::default(),
            due: Mutex::default(),
            proving: tokio::sync::Mutex::default(),
        }
    }

    /// What an earlier agent knew, for as long as the server has not answered this one.
    pub(super) fn seed(&self, set: ApiSet) {
        let mut state = self.state();
        if state.set.is_none() {
            state.set = Some(Arc::new(set));
        }
    }

    /// Takes over what is known of the same address under another name.
    pub(super) fn inherit(&self, other: &ServerEntry) {
        let known = other.state().clone();
        if let Some(version) = &known.version {
            self.show_release(version);
        }
        *self.state() = known;
        let proofs = other.proofs();
        *lock(&self.proofs) = proofs;
    }

    /// When this server will be taken for none if it still has not answered; `None`: it has, or it is the local one.
    pub(super) fn becomes_absent(&self, stale_after: Duration) -> Option<Instant> {
        let state = self.state();
        let never = state.set.is_none() && state.confirmed.is_none() && !self.server.local;
        never.then_some(state.since? + stale_after)
    }

    /// True if [`Knowledge::Absent`] is what is known of it.
    pub(super) fn absent(&self, now: Instant, stale_after: Duration) -> bool {
        self.becomes_absent(stale_after).is_some_and(|at| at <= now)
    }

    pub(super) fn set(&self) -> Option<Arc<ApiSet>> {
        self.state().set.clone()
    }

    pub(super) fn member(&self, now: Instant, stale_after: Duration) -> Member {
        let state = self.state();
        Member {
            server: self.server.clone(),
            apis: state.set.clone(),
            knowledge: state.knowledge(now, stale_after, self.server.local),
            published: None,
        }
    }

    /// When the server last said what it serves.
    pub(super) fn confirmed(&self) -> Option<Instant> {
        self.state().confirmed
    }

    /// `gitVersion`.
    pub(super) fn version(&self) -> Option<String> {
        self.state().version.clone()
    }

    pub(super) fn documents(&self) -> Documents {
        self.state().documents.clone()
    }

    /// What the merged view is made from; `None` while the server has reported nothing.
    pub(super) fn report(&self, now: Instant, stale_after: Duration) -> Option<ServerReport> {
        let state = self.state();
        let confirmed = state.confirmed?;
        let since = now.saturating_duration_since(confirmed);
        Some(ServerReport {
            server: Arc::clone(&self.server),
            documents: state.documents.clone(),
            alive: match state.knowledge(now, stale_after, self.server.local) {
                Knowledge::Confirmed => true,
                // One poll that fails says little of the server, and clients take what is stale for gone wrong.
                Knowledge::Unconfirmed => since < stale_after,
                Knowledge::Down | Knowledge::Never | Knowledge::Absent => false,
            },
            current: since < outage(stale_after),
            confirmed,
            version: state.version.clone(),
        })
    }

    /// When the present knowledge becomes stale, and when it is shown no more, unless it is confirmed.
    pub(super) fn expires(&self, stale_after: Duration, retain: Duration) -> [Option<Instant>; 3] {
        let state = self.state();
        [stale_after, outage(stale_after), retain].map(|after| Some(state.confirmed? + after))
    }

    pub(super) fn status(&self, now: Instant, stale_after: Duration) -> ServerStatus {
        let state = self.state().clone();
        ServerStatus {
            name: self.server.name.to_string(),
            url: format!("https://{}", authority(&self.endpoint)),
            local: self.server.local,
            knowledge: state.knowledge(now, stale_after, self.server.local),
            version: state.version,
            ready: state.ready,
            stopping: self.server.departure.is_leaving(),
            age: state.confirmed.map(|at| now.saturating_duration_since(at)),
            source: state.source,
            keys: state.set.map_or(0, |set| set.entries().len()),
            published: 0,
            stale: state.stale,
            refused: state.refused,
            etag: state
                .documents
                .groups
                .etag
                .and_then(|etag| etag.to_str().ok().map(str::to_owned)),
            last_error: state.error,
            trouble: state.trouble,
            proofs: self.proofs(),
            polls: state.polls,
        }
    }

    /// True if the round before did not succeed.
    pub(super) fn succeeded(&self, found: Found) -> bool {
        let mut state = self.state();
        match found.set {
            Some(set) => {
                state.set = Some(set);
                state.polls.changed += 1;
            }
            None => state.polls.not_modified += 1,
        }
        state.confirmed = Some(Instant::now());
        state.source = Some(found.source);
        state.documents = found.documents;
        state.stale = found.stale;
        state.refused = found.refused;
        state.error = None;
        state.trouble = PollTrouble::None;
        std::mem::replace(&mut state.last, Last::Succeeded) != Last::Succeeded
    }

    /// True if the round before did not fail in the same way.
    pub(super) fn failed(
        &self,
        failure: Option<Failure>,
        refused: bool,
        trouble: PollTrouble,
        error: &str,
    ) -> bool {
        let mut state = self.state();
        state.polls.failed += 1;
        state.error = Some(error.to_owned());
        match failure {
            // Whether it is ready was not asked.
            Some(Failure::Tls) => state.ready = None,
            Some(failure) if failure.counts() => state.ready = Some(false),
            _ => {}
        }
        state.trouble = trouble;
        let now = match failure {
            _ if refused => Last::Refused,
            Some(Failure::TimedOut | Failure::Unreachable) => Last::Silent,
            _ => Last::Failed,
        };
        std::mem::replace(&mut state.last, now) != now
    }

    pub(super) fn probed(&self, probe: ReadyzOutcome) {
        if !matches!(probe, ReadyzOutcome::Failed(failure) if !failure.counts()) {
            self.state().ready = Some(matches!(probe, ReadyzOutcome::Ready));
        }
        self.server.probed(probe);
    }

    /// The server does not say whether it is ready. That the server which was there before was not ready must not count for ever.
    pub(super) fn not_told_whether_ready(&self) {
        self.state().ready.take_if(|ready| !*ready);
    }

    pub(super) fn set_version(&self, version: String) {
        self.show_release(&version);
        self.state().version = Some(version);
    }

    fn show_release(&self, version: &str) {
        if let Some(GitVersion { major, minor, .. }) = GitVersion::parse(version) {
            self.server.set_release(Release { major, minor });
        }
    }

    /// True if asking it again is likely to take all the time there is.
    pub(super) fn silent(&self) -> bool {
        self.state().last == Last::Silent
    }

    pub(super) fn disturb(&self) {
        self.disturbed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn disturbances(&self) -> u64 {
        self.disturbed.load(Ordering::Relaxed)
    }

    pub(super) fn poke(&self) {
        self.poke.notify_one();
    }

    pub(super) async fn poked(&self) {
        self.poke.notified().await;
    }

    pub(super) fn begin_round(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn finish_round(&self) {
        self.finished
            .send_replace(self.begun.load(Ordering::Acquire));
    }

    pub(super) fn rounds(&self) -> u64 {
        *self.finished.borrow()
    }

    /// Starts a round, or has one started after the present one, and waits for its end. The present one does not count: it
    /// may have asked before that what the caller wants to know of.
    pub(super) async fn fresh_round(&self) {
        let mut finished = self.finished.subscribe();
        let wanted = self.begun.load(Ordering::Acquire) + 1;
        self.poke();
        // An error means that the poller is gone: nothing more to wait for.
        let _ = finished.wait_for(|round| *round >= wanted).await;
    }

    pub(super) fn trouble(&self) -> PollTrouble {
        self.state().trouble.clone()
    }

    /// What `/readyz` last said; `None`: nothing yet, or not to us.
    pub(super) fn ready(&self) -> Option<bool> {
        self.state().ready
    }

    pub(super) fn proofs(&self) -> Proofs {
        lock(&self.proofs).clone()
    }

    /// Takes over what a proof found out; says so where it differs.
    pub(super) fn judged(
        &self,
        front_proxy: Judgement,
        bare: Judgement,
        names: Option<BelievedNames>,
    ) {
        let (server, now) = (&*self.server.name, Instant::now());
        let mut proofs = lock(&self.proofs);
        let before = (proofs.why(), proofs.names.clone());
        proofs.front_proxy.note(front_proxy, now);
        proofs.bare.note(bare, now);
        if let Some(names) = names {
            proofs.names = names;
        }
        let after = (proofs.why(), proofs.names.clone());
        drop(proofs);
        if before.0 != after.0 {
            match &after.0 {
                None => info!(
                    server,
                    "proved: it takes asserted users for exactly those users"
                ),
                Some(why) => warn!(server, why, "not proved: no user is asserted to it"),
            }
        }
        if let BelievedNames::Unreadable(why) = &after.1
            && before.1 != after.1
        {
            warn!(
                server,
                why,
                "which header names it believes cannot be read: headers that are not known to be harmless are deleted from requests"
            );
        }
    }

    /// Lets requests go to the server by what is proved.
    pub(super) fn show_proofs(&self) {
        let proofs = self.proofs();
        // First, so that no user with a uid is asserted before.
        self.server.set_takes_uid(proofs.tells_uid());
        for (class, proved) in classes(&proofs) {
            self.server.set_proved(class, proved);
        }
    }

    pub(super) fn want_proof(&self) {
        lock(&self.due).want();
    }

    /// True if a proof may begin now and none was wanted before.
    pub(super) fn doubted(&self) -> bool {
        lock(&self.due).doubt(Instant::now())
    }

    /// When the next proof is due; `None`: at once. `every`: if everything is proved and known.
    pub(super) fn proof_at(&self, every: Duration) -> Option<Instant> {
        let sound = self.proofs().is_complete();
        lock(&self.due).at(sound.then_some(every))
    }

    pub(super) fn begin_proof(&self) {
        lock(&self.due).begin(Instant::now());
    }

    /// Lends the poller's connection to the follower of events, or takes it back.
    pub(super) fn set_connection(&self, connection: Option<DiscoveryConnection>) {
        self.connection.send_if_modified(|before| {
            let changed = before.is_some() || connection.is_some();
            if before.is_some() {
                self.disturb();
            }
            *before = connection;
            changed
        });
    }

    pub(super) fn connection(&self) -> watch::Receiver<Option<DiscoveryConnection>> {
        self.connection.subscribe()
    }

    /// Whether the poller's connection is open now.
    pub(super) fn is_connected(&self) -> bool {
        let connection = self.connection.borrow();
        connection.as_ref().is_some_and(|open| !open.is_closed())
    }

    pub(super) fn openapi(&self) -> Option<Arc<OpenApiIndex>> {
        lock(&self.openapi).index()
    }

    /// True if the index is to be asked for now; it then counts as asked for. With `needed` false it is forgotten: while all
    /// servers serve the same nobody looks at it.
    pub(super) fn openapi_due(&self, needed: bool) -> bool {
        let set = self.set();
        lock(&self.openapi).due(needed, set)
    }

    /// The server answered: with an index, or with none that could be read, so that the last one stands.
    pub(super) fn answered_openapi(&self, index: Option<OpenApiIndex>) {
        lock(&self.openapi).answered(index);
        self.openapi_answered.send_replace(());
    }

    /// True if the server can be asked for its index and has not answered yet.
    pub(super) fn openapi_pending(&self) -> bool {
        self.is_connected() && lock(&self.openapi).is_pending()
    }

    /// Resolves when the server has answered.
    pub(super) async fn openapi_answered(&self) {
        let mut answered = self.openapi_answered.subscribe();
        while lock(&self.openapi).is_pending() && answered.changed().await.is_ok() {}
    }

    /// Has the index read again soon. False if that was to happen anyway.
    pub(super) fn want_openapi(&self) -> bool {
        lock(&self.openapi).want()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn knowledge(&self, now: Instant, stale_after: Duration, local: bool) -> Knowledge {
        let Some(confirmed) = self.confirmed else {
            let waited = self.since.map(|since| now.saturating_duration_since(since));
            // A set without a confirmation is from an earlier agent.
            return match (&self.set, self.last) {
                // The local server is certain to be one: the node's own configuration names it.
                (None, _) if !local && waited.is_some_and(|waited| waited >= stale_after) => {
                    Knowledge::Absent
                }
                (None, _) => Knowledge::Never,
                (Some(_), Last::Refused) => Knowledge::Down,
                (Some(_), _) => Knowledge::Unconfirmed,
            };
        };
        match self.last {
            Last::Succeeded if now.saturating_duration_since(confirmed) < stale_after => {
                Knowledge::Confirmed
            }
            Last::Refused => Knowledge::Down,
            _ => Knowledge::Unconfirmed,
        }
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
