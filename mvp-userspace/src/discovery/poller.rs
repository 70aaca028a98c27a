//! One poller a server: keeps a connection open, asks what the server serves, how it is, and which version it runs.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::connection::DiscoveryConnection;
use super::entry::ServerEntry;
use super::fetch_error::FetchError;
use super::hub::Hub;
use super::openapi::{MAX_INDEX, OPENAPI_V3, OpenApiIndex};
use super::prove::{self, prove, prove_in_time};
use super::readiness;
use super::roots::{Found, Roots};
use super::server_status::PollTrouble;
use crate::document::DecodeError;
use crate::route::{Failure, ReadyzOutcome};

/// First wait after a connection could not be had or was lost; it doubles up to the poll interval.
const BACKOFF: Duration = Duration::from_millis(50);
/// A slow readiness check holds the round of a skipped server up for no longer.
const PROBE_PATIENCE: Duration = Duration::from_millis(100);
const MAX_VERSION: usize = 128;
/// The time between two looks at a server that has just started.
const STARTING_PAUSE: Duration = Duration::from_millis(200);
const STARTING: &str = "starting: it answers 403 and does not yet let anybody read what it serves";

/// Polls until it is dropped.
pub(super) async fn run(entry: Arc<ServerEntry>, hub: Arc<Hub>) {
    let mut poller = Poller {
        entry,
        hub,
        connection: None,
        roots: Roots::default(),
        failures: 0,
        told_over: None,
        breaks: 0,
        proof: None,
        ready_before: None,
    };
    loop {
        let began = Instant::now();
        poller.entry.begin_round();
        poller.ready_before = poller.entry.ready();
        let result = poller.round().await;
        let next = poller.note(began, result);
        poller.hub.publish();
        poller.refresh_openapi();
        poller.prove_if_due();
        poller.entry.finish_round();
        poller.hub.round_done();
        poller.wait(next).await;
    }
}

struct Poller {
    entry: Arc<ServerEntry>,
    hub: Arc<Hub>,
    connection: Option<Open>,
    roots: Roots,
    /// Rounds failed on the network since the last success.
    failures: u32,
    /// When the connection was opened over which the server last reported what it serves.
    told_over: Option<Instant>,
    /// Connections that ended young since one that did not.
    breaks: u32,
    proof: Option<JoinHandle<()>>,
    /// What `/readyz` had said when the round began.
    ready_before: Option<bool>,
}

/// The server is a member no more.
impl Drop for Poller {
    fn drop(&mut self) {
        if let Some(proof) = &self.proof {
            proof.abort();
        }
        self.entry.set_connection(None);
    }
}

struct Open {
    connection: DiscoveryConnection,
    since: Instant,
    probe: Option<JoinHandle<()>>,
    version: Option<JoinHandle<bool>>,
    version_known: bool,
    openapi: Option<JoinHandle<()>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        for task in [&self.probe, &self.openapi].into_iter().flatten() {
            task.abort();
        }
        if let Some(version) = &self.version {
            version.abort();
        }
    }
}

impl Poller {
    /// One round, over the open connection or over a new one. A kept-open connection may have been closed by the server in
    /// the meantime without anything being wrong, so that a lost one is replaced once before the round fails.
    async fn round(&mut self) -> Result<Found, Vec<FetchError>> {
        if self
            .connection
            .as_ref()
            .is_some_and(|open| !open.connection.is_closed())
        {
            match self.ask().await {
                Err(errors) if errors.iter().any(worth_a_new_connection) => {}
                result => return result,
            }
        }
        self.hold(None);
        let opened =
            DiscoveryConnection::open(&self.hub.settings.dialer, &self.entry.endpoint).await;
        let reached = match &opened {
            Ok(_) => true,
            Err(error) => error.failure() == Some(Failure::Tls) && self.hub.proof_due(&self.entry),
        };
        if reached {
            // Before anything is known of the server that answers here now: it may be another one.
            prove(&self.entry, &self.hub).await;
        }
        let connection = opened.map_err(|e| vec![e])?;
        // What the previous server said does not count.
        self.ready_before = None;
        self.hold(Some(Open {
            connection,
            since: Instant::now(),
            probe: None,
            version: None,
            version_known: false,
            openapi: None,
        }));
        self.ask().await
    }

    async fn ask(&mut self) -> Result<Found, Vec<FetchError>> {
        let Some(open) = &mut self.connection else {
            return Err(Vec::new());
        };
        open.start_probe(&self.entry);
        open.start_version(&self.entry);
        let known = self.entry.set();
        let found = self
            .roots
            .round(
                &open.connection,
                known.as_ref(),
                self.hub.settings.max_bytes,
                // Clients get it as it is while servers agree.
                self.entry.server.local,
            )
            .await;
        if found.is_err() {
            // Whether the server is ready says what its refusal means.
            open.await_probe().await;
        }
        let found = found?;
        open.await_version().await;
        if !self.entry.server.available() {
            open.await_probe().await;
        }
        Ok(found)
    }

    /// Proves the server beside the rounds, at most one proof at a time.
    fn prove_if_due(&mut self) {
        self.hub.judge();
        let running = self
            .proof
            .as_ref()
            .is_some_and(|proof| !proof.is_finished());
        // Without a connection nobody is reached; the next one begins with a proof.
        if running || self.connection.is_none() || !self.hub.proof_due(&self.entry) {
            return;
        }
        self.proof = Some(prove::start(&self.entry, &self.hub));
    }

    /// A 401 or 403 alone may come from a server that has just started; a second one from a server that is ready is meant for us.
    fn trouble(&self, errors: &[FetchError], failure: Option<Failure>, text: &str) -> PollTrouble {
        let before = self.entry.trouble();
        let again = matches!(before, PollTrouble::Starting | PollTrouble::Refused(_));
        match failure {
            Some(Failure::Tls) => PollTrouble::Refused(text.to_owned()),
            Some(_) => PollTrouble::Unreachable,
            None if self.entry.proofs().refuses() => PollTrouble::Refused(text.to_owned()),
            None if !errors.iter().any(FetchError::refused) => PollTrouble::Other,
            None if again && self.ready_before == Some(true) => {
                PollTrouble::Refused(text.to_owned())
            }
            None => PollTrouble::Starting,
        }
    }

    /// Takes the round's result into the entry; returns when the next round is due.
    fn note(&mut self, began: Instant, result: Result<Found, Vec<FetchError>>) -> Instant {
        let interval = self.hub.settings.interval;
        let server = self.entry.server.clone();
        let name = &*server.name;
        match result {
            Ok(found) => {
                let over = self.connection.as_ref().map(|open| open.since);
                if over.is_some() && over == self.told_over {
                    let before = self.entry.documents();
                    self.hub.views.dropped(&before, &found.documents);
                }
                self.told_over = over;
                self.hub.counters.reached.mark(&self.entry.endpoint);
                if self.entry.succeeded(found) {
                    info!(server = name, "discovery works");
                }
                self.failures = 0;
                began
                    + match self.hub.is_quiet() {
                        true => self.hub.settings.idle_interval.max(interval),
                        false => interval,
                    }
            }
            Err(errors) => {
                let refuses = self.entry.proofs().refuses();
                let failures = errors.iter().filter(|error| !ended_by(refuses, error));
                let failure = failures.filter_map(FetchError::failure).next();
                self.hub.counters.count(&errors);
                if errors.iter().any(FetchError::lost) {
                    self.hold(None);
                }
                if let Some(failure) = failure {
                    self.entry.server.probed(ReadyzOutcome::Failed(failure));
                }
                let texts = errors.iter().map(FetchError::to_string);
                let text = texts.collect::<Vec<_>>().join("; ");
                let trouble = self.trouble(&errors, failure, &text);
                let starting = trouble == PollTrouble::Starting;
                if matches!(trouble, PollTrouble::Refused(_) | PollTrouble::Starting) {
                    self.entry.want_proof();
                }
                let text = match starting && self.entry.ready() == Some(false) {
                    true => STARTING.to_owned(),
                    false => text,
                };
                let refused = self.connection.is_none() && failure == Some(Failure::Refused);
                if refused {
                    readiness::stopping(&self.entry, "it takes no connection");
                }
                let changed = self.entry.failed(failure, refused, trouble, &text);
                if starting {
                    if changed {
                        info!(server = name, "the server is starting");
                    }
                    // It lasts about a second.
                    return began + STARTING_PAUSE.min(interval);
                }
                if changed {
                    warn!(server = name, error = text, "discovery fails");
                }
                if failure.is_none() {
                    // The server answers: asking it faster would not make its answer better.
                    return began + interval;
                }
                let pause = backoff(self.failures, interval);
                self.failures = self.failures.saturating_add(1);
                Instant::now() + pause
            }
        }
    }

    /// Keeps a connection, or none, and lends it to the follower of events.
    fn hold(&mut self, open: Option<Open>) {
        let connection = open.as_ref().map(|open| open.connection.clone());
        let opened = connection.is_some();
        self.entry.set_connection(connection);
        self.connection = open;
        if opened {
            self.hub.events.opened.notify_waiters();
        }
    }

    /// Asks for `/openapi/v3` beside the rounds, at most one at a time, while the servers differ: a steady cluster pays nothing.
    fn refresh_openapi(&mut self) {
        let Some(open) = &mut self.connection else {
            return;
        };
        let running = open
            .openapi
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        let differs = self.hub.table.load().differs();
        if running || !self.entry.openapi_due(differs) {
            return;
        }
        let (connection, entry) = (open.connection.clone(), self.entry.clone());
        open.openapi = Some(tokio::spawn(async move {
            // One that cannot be had or read leaves the last one, and is asked for again in its time.
            let index = openapi(&connection).await.inspect_err(
                |error| debug!(server = &*entry.server.name, %error, "no OpenAPI index"),
            );
            entry.answered_openapi(index.ok());
        }));
    }

    /// Waits for `next`, a poke, or the end of the connection.
    async fn wait(&mut self, mut next: Instant) {
        let interval = self.hub.settings.interval;
        if let Some(open) = &mut self.connection {
            let (entry, connection) = (&self.entry, open.connection.clone());
            tokio::select! {
                () = sleep_until(next) => return,
                () = entry.poked() => return,
                // As early as if everything was asked each time.
                () = open.not_ready(entry, interval) => return,
                () = prove_in_time(&mut self.proof, entry, &self.hub), if self.hub.settings.prover.is_some() => return,
                () = connection.closed() => {}
            }
            if open.since.elapsed() >= interval {
                self.breaks = 0;
                return;
            }
            // A server that closes each connection after use comes to be polled at the usual pace.
            next = next.min(Instant::now() + backoff(self.breaks, interval));
            self.breaks = self.breaks.saturating_add(1);
        }
        tokio::select! {
            () = sleep_until(next) => {}
            () = self.entry.poked() => {}
        }
    }
}

impl Open {
    /// Asks for `/readyz` beside discovery: a server with a slow readiness check (etcd)
    /// must not hold up what else is known of it. At most one is under way.
    fn start_probe(&mut self, entry: &Arc<ServerEntry>) {
        if self
            .probe
            .as_ref()
            .is_some_and(|probe| !probe.is_finished())
        {
            return;
        }
        let (connection, entry) = (self.connection.clone(), entry.clone());
        let task = tokio::spawn(async move { readiness::ask(&connection, &entry).await });
        self.probe = Some(task);
    }

    /// Asks for `/readyz` at every interval, and resolves when the server does not say that it is ready.
    async fn not_ready(&mut self, entry: &Arc<ServerEntry>, interval: Duration) {
        loop {
            sleep(interval).await;
            self.start_probe(entry);
            if let Some(probe) = &mut self.probe {
                // One that hangs is found by its own deadline.
                let _ = probe.await;
                self.probe = None;
            }
            if entry.ready() != Some(true) {
                return;
            }
        }
    }

    /// Asks which version it runs, once for each connection.
    fn start_version(&mut self, entry: &Arc<ServerEntry>) {
        if self.version.is_some() {
            return;
        }
        let (connection, entry) = (self.connection.clone(), entry.clone());
        self.version = Some(tokio::spawn(async move {
            match version(&connection).await {
                Some(version) => {
                    entry.set_version(version);
                    true
                }
                None => false,
            }
        }));
    }

    /// Which server is the newest is a part of the view that this round leads to.
    async fn await_version(&mut self) {
        let Some(task) = &mut self.version else {
            return;
        };
        if self.version_known {
            return;
        }
        match timeout(PROBE_PATIENCE, task).await {
            Ok(known) => {
                self.version_known = known.unwrap_or(false);
                if !self.version_known {
                    self.version = None;
                }
            }
            Err(_slow) => {}
        }
    }

    /// The readers that wait for the round of a server that is skipped need to know whether it may be used again.
    async fn await_probe(&mut self) {
        if let Some(probe) = &mut self.probe
            && timeout(PROBE_PATIENCE, probe).await.is_ok()
        {
            self.probe = None;
        }
    }
}

async fn openapi(connection: &DiscoveryConnection) -> Result<OpenApiIndex, FetchError> {
    let answer = connection
        .get(OPENAPI_V3, "application/json", None, MAX_INDEX)
        .await?;
    if answer.status != StatusCode::OK {
        return Err(FetchError::Status {
            path: OPENAPI_V3.to_owned(),
            status: answer.status.as_u16(),
        });
    }
    // Large ones are rare, but everything else waits for this thread.
    let read = tokio::task::spawn_blocking(move || OpenApiIndex::read(&answer.body)).await;
    read.unwrap_or_else(|error| Err(DecodeError::Json(format!("reading was given up: {error}"))))
        .map_err(|error| FetchError::Decode {
            path: OPENAPI_V3.to_owned(),
            error,
        })
}

async fn version(connection: &DiscoveryConnection) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Info {
        git_version: String,
    }
    let answer = connection
        .get("/version", "application/json", None, 64 << 10)
        .await
        .ok()?;
    let info: Info = serde_json::from_slice(&answer.body).ok()?;
    let printable = info.git_version.chars().all(|c| c.is_ascii_graphic());
    (printable && info.git_version.len() <= MAX_VERSION).then_some(info.git_version)
}

fn backoff(before: u32, most: Duration) -> Duration {
    BACKOFF.saturating_mul(1 << before.min(16)).min(most)
}

/// Whether a connection was lost since the server `refuses` this agent: kube-apiserver ends a connection over which it answered 401, with
/// whatever else was asked on it. That says nothing of how it serves others. One that cannot be had at all is another matter.
fn ended_by(refuses: bool, error: &FetchError) -> bool {
    let ended = matches!(error.failure(), Some(Failure::Reset | Failure::Protocol));
    refuses && ended && error.lost()
}

/// Not after a timeout: a server that hangs on one connection hangs on the next, and the round would last twice as long.
fn worth_a_new_connection(error: &FetchError) -> bool {
    error.lost() && error.failure() != Some(Failure::TimedOut)
}
