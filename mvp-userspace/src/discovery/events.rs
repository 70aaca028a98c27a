//! Follows CustomResourceDefinitions and APIServices, so that a type made through any server is asked for at once and not
//! only at the next poll.
//!
//! One server is watched at a time, the local one first: all servers share etcd, and so one tells what happens through any.
//! An event does not say what is served now (a server begins to serve a new type only some time after it), so that it only
//! has every server polled, at once and then often for a while.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::info;

use super::changes::{Change, ChangeError, Lines, Page};
use super::connection::{Connection, FetchError};
use super::entry::Entry;
use super::hub::Hub;
use super::limits::MAX_VERSIONS;
use super::priorities::ApiServices;

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct EventTimes {
    /// Between two polls of every server after an event, for `fast_for` after the last one.
    pub fast_interval: Duration,
    pub fast_for: Duration,
    /// A watch is ended by the server after so long, and taken for dead by us a little later.
    pub watch: Duration,
    /// A watch on which nothing arrives for so long is given up. kube-apiserver sends a bookmark a minute.
    pub idle: Duration,
    /// Until a server that does not let us watch is asked again.
    pub denied: Duration,
    /// Longest wait between two attempts that failed otherwise.
    pub backoff: Duration,
}

/// What is followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Followed {
    Definitions,
    Services,
}

/// How one type is followed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum EventState {
    /// No server answered yet.
    #[default]
    Starting,
    /// Through the server of this name.
    Watching(Arc<str>),
    /// Changes are known at the next poll only, and why.
    PollingOnly(String),
}

/// How both types are followed; its text is for people: `watching`, `polling only: <reason>`, `starting`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EventsStatus {
    pub definitions: EventState,
    pub services: EventState,
}

/// The hub's part: what the followers leave behind.
pub(super) struct Events {
    times: EventTimes,
    status: Mutex<EventsStatus>,
    happened: Notify,
    /// A server's connection was opened.
    opened: Notify,
}

/// Why following ended. All but the last are the server's fault or the way's.
#[derive(Debug, thiserror::Error)]
enum EventError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("the watch was silent for too long")]
    Silent,
    #[error("the server does not have the changes since the last one seen any more")]
    Expired,
    #[error("the server ended the watch: {code} {message}")]
    Refused { code: u16, message: String },
    #[error("the poller gave this connection up")]
    Moved,
    /// The operator's: no permission, or a server without this API.
    #[error(
        "{} answered {status} (may User system:mvp list and watch them? see deploy/rbac.yaml)", .followed.path()
    )]
    Denied { followed: Followed, status: u16 },
}

/// First wait after a failure; it doubles.
const BACKOFF: Duration = Duration::from_millis(50);
/// A watch that lasted so long worked: what ends it is no failure.
const LIVED: Duration = Duration::from_secs(1);
/// For the server to end a watch before we do.
const GRACE: Duration = Duration::from_secs(10);
/// Objects a page. One is 2 to 4 KB, a bundle of certificates more.
const PAGE: usize = 500;
const MAX_PAGE: usize = 8 << 20;

impl Default for EventTimes {
    fn default() -> Self {
        Self {
            fast_interval: Duration::from_millis(100),
            fast_for: Duration::from_secs(2),
            watch: Duration::from_secs(240),
            idle: Duration::from_secs(90),
            denied: Duration::from_secs(60),
            backoff: Duration::from_secs(10),
        }
    }
}

impl Followed {
    pub const ALL: [Followed; 2] = [Followed::Definitions, Followed::Services];

    pub fn name(self) -> &'static str {
        match self {
            Followed::Definitions => "CustomResourceDefinitions",
            Followed::Services => "APIServices",
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Followed::Definitions => "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            Followed::Services => "/apis/apiregistration.k8s.io/v1/apiservices",
        }
    }

    /// Of definitions only the list's revision is of interest, and so one object is asked for: all of them are megabytes.
    fn limit(self) -> usize {
        match self {
            Followed::Definitions => 1,
            Followed::Services => PAGE,
        }
    }

    fn accept(self, watch: bool) -> &'static str {
        match (self, watch) {
            (Followed::Services, _) => "application/json",
            (Followed::Definitions, false) => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            }
            (Followed::Definitions, true) => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
        }
    }

    fn says(self) -> bool {
        self == Followed::Services
    }
}

impl fmt::Display for EventsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = [&self.definitions, &self.services];
        let reasons: Vec<_> = both
            .iter()
            .filter_map(|state| match state {
                EventState::PollingOnly(reason) => Some(reason.as_str()),
                _ => None,
            })
            .collect();
        if !reasons.is_empty() {
            let only = if reasons.len() == 2 {
                ""
            } else {
                " for one type"
            };
            return write!(f, "polling only{only}: {}", reasons.join("; "));
        }
        if both.contains(&&EventState::Starting) {
            return f.write_str("starting");
        }
        f.write_str("watching")
    }
}

impl Events {
    pub fn new(times: EventTimes) -> Self {
        Self {
            times,
            status: Mutex::default(),
            happened: Notify::new(),
            opened: Notify::new(),
        }
    }

    pub fn status(&self) -> EventsStatus {
        let status = self.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A poller's connection is open.
    pub fn opened(&self) {
        self.opened.notify_waiters();
    }

    fn set(&self, followed: Followed, state: EventState) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match followed {
            Followed::Definitions => &mut status.definitions,
            Followed::Services => &mut status.services,
        };
        if *place == state {
            return;
        }
        let was = std::mem::replace(place, state.clone());
        drop(status);
        let what = followed.name();
        match (was, state) {
            (EventState::Watching(_), EventState::Watching(_)) => {}
            (_, EventState::Watching(server)) => info!(what, server = &*server, "watching"),
            (EventState::PollingOnly(_), EventState::PollingOnly(_)) => {}
            (_, EventState::PollingOnly(reason)) => {
                info!(
                    what,
                    reason, "not watching; changes are known at the next poll"
                );
            }
            (_, EventState::Starting) => {}
        }
    }
}

/// Has every server polled after an event, at once and then often for a while. Runs until dropped.
pub(super) async fn quicken(hub: Arc<Hub>) {
    let events = &hub.events;
    loop {
        events.happened.notified().await;
        let mut until = Instant::now() + events.times.fast_for;
        while Instant::now() < until {
            for entry in hub.entries() {
                entry.poke();
            }
            // A storm of events makes this last longer, not go faster.
            let next = Instant::now() + events.times.fast_interval;
            while timeout_at(next, events.happened.notified()).await.is_ok() {
                until = Instant::now() + events.times.fast_for;
            }
        }
        // By now new types are described too.
        for entry in hub.entries() {
            entry.want_openapi();
        }
    }
}

/// Follows one type. Runs until dropped.
pub(super) async fn follow(followed: Followed, hub: Arc<Hub>) {
    let mut follower = Follower {
        followed,
        hub,
        revision: None,
        services: ApiServices::default(),
        failures: 0,
        avoid: None,
    };
    loop {
        let mut open = follower.server().await;
        let began = Instant::now();
        let ended = tokio::select! {
            ended = follower.session(&open.entry, &open.connection) => ended,
            // Whatever the poller found wrong with the connection is wrong for the watch too.
            _ = open.held.changed() => Err(EventError::Moved),
        };
        let pause = follower.note(&open.entry, began.elapsed() >= LIVED, ended);
        sleep(pause).await;
    }
}

struct Follower {
    followed: Followed,
    hub: Arc<Hub>,
    /// Everything up to here is known. Revisions are etcd's, so that a watch may go on at another server.
    revision: Option<String>,
    services: ApiServices,
    failures: u32,
    /// The server that failed last.
    avoid: Option<Arc<Entry>>,
}

struct OpenServer {
    entry: Arc<Entry>,
    connection: Connection,
    held: watch::Receiver<Option<Connection>>,
}

impl Follower {
    /// The first server that is connected and available, the local one before the others; waits until there is one.
    async fn server(&self) -> OpenServer {
        loop {
            let opened = self.hub.events.opened.notified();
            tokio::pin!(opened);
            // From here on nothing is missed.
            opened.as_mut().enable();
            let entries = self.hub.entries().into_iter();
            let open = entries.filter_map(|entry| {
                let mut held = entry.connection();
                let connection = held.borrow_and_update().clone()?;
                (!connection.is_closed()).then_some(OpenServer {
                    entry,
                    connection,
                    held,
                })
            });
            let best = open.min_by_key(|open| {
                let failed = self.avoid.as_ref();
                let failed = failed.is_some_and(|avoid| Arc::ptr_eq(avoid, &open.entry));
                (failed, !open.entry.server.available())
            });
            match best {
                Some(open) => return open,
                None => opened.await,
            }
        }
    }

    async fn session(&mut self, entry: &Entry, connection: &Connection) -> Result<(), EventError> {
        let revision = match self.revision.clone() {
            Some(revision) => revision,
            None => self.list(connection).await?,
        };
        // A watch would keep an HTTP/1.1 connection from the poller.
        let own;
        let connection = if connection.is_multiplexed() {
            connection
        } else {
            own = Connection::open(&self.hub.settings.dialer, &entry.endpoint).await?;
            &own
        };
        self.watch(entry, connection, &revision).await
    }

    async fn list(&mut self, connection: &Connection) -> Result<String, EventError> {
        let (followed, mut next) = (self.followed, None::<String>);
        let mut services = ApiServices::default();
        let mut seen = 0;
        let revision = loop {
            let mut path = format!("{}?limit={}", followed.path(), followed.limit());
            if let Some(token) = next {
                path = format!("{path}&continue={token}");
            }
            let answer = connection
                .get(&path, followed.accept(false), None, MAX_PAGE)
                .await?;
            accept(followed, answer.status)?;
            let page = Page::read(&answer.body, followed.says())?;
            seen += page.items.len();
            for (name, service) in page.items {
                if let Some(service) = service {
                    services.apply(&name, service);
                }
            }
            next = page.next.filter(|_| followed.says());
            // A server may not keep us here with pages of nothing either.
            seen += 1;
            if next.is_none() || seen > MAX_VERSIONS {
                break page.revision;
            }
        };
        if followed.says() {
            self.services = services;
            self.publish();
        }
        self.revision = Some(revision.clone());
        // Whatever happened before is in no event.
        self.hub.events.happened.notify_one();
        Ok(revision)
    }

    async fn watch(
        &mut self,
        entry: &Entry,
        connection: &Connection,
        revision: &str,
    ) -> Result<(), EventError> {
        let (followed, times) = (self.followed, self.hub.events.times);
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}&timeoutSeconds={}",
            followed.path(),
            times.watch.as_secs().max(1),
        );
        let response = connection.stream(&path, followed.accept(true)).await?;
        accept(followed, response.status())?;
        let name = entry.server.name.clone();
        self.hub.events.set(followed, EventState::Watching(name));
        let mut body = response.into_body();
        let mut lines = Lines::default();
        let end = Instant::now() + times.watch + GRACE;
        loop {
            let limit = end.min(Instant::now() + times.idle);
            let Ok(frame) = timeout_at(limit, body.frame()).await else {
                return Err(EventError::Silent);
            };
            let Some(frame) = frame else {
                return Ok(());
            };
            let frame = frame.map_err(FetchError::from)?;
            if let Some(data) = frame.data_ref() {
                lines.push(data);
            }
            while let Some(line) = lines.next()? {
                self.take(Change::read(&line, followed.says())?)?;
            }
        }
    }

    fn take(&mut self, change: Change) -> Result<(), EventError> {
        let (revision, changed) = match change {
            Change::Bookmark { revision } => {
                self.revision = Some(revision);
                return Ok(());
            }
            Change::Error { code: 410, .. } => return Err(EventError::Expired),
            Change::Error { code, message } => return Err(EventError::Refused { code, message }),
            Change::Applied {
                name,
                service,
                revision,
            } => {
                let changed = match service {
                    Some(service) => self.services.apply(&name, service),
                    None => self.services.delete(&name),
                };
                (revision, changed)
            }
            Change::Deleted { name, revision } => (revision, self.services.delete(&name)),
        };
        self.revision = Some(revision);
        if changed {
            self.publish();
        }
        self.hub.events.happened.notify_one();
        Ok(())
    }

    /// Takes the end of a session into account; returns how long to wait before the next.
    fn note(&mut self, entry: &Arc<Entry>, lived: bool, ended: Result<(), EventError>) -> Duration {
        let times = self.hub.events.times;
        if lived {
            self.failures = 0;
        }
        self.avoid = None;
        if let Err(error) = ended {
            // After these it is not known what was missed.
            if !matches!(
                error,
                EventError::Silent | EventError::Moved | EventError::Fetch(_)
            ) {
                self.revision = None;
            }
            match error {
                EventError::Expired => {}
                error => {
                    let reason = format!("{}: {error}", entry.server.name);
                    let state = EventState::PollingOnly(reason);
                    self.hub.events.set(self.followed, state);
                    if matches!(error, EventError::Denied { .. }) {
                        return times.denied;
                    }
                    self.avoid = Some(entry.clone());
                }
            }
        } else if lived {
            return Duration::ZERO;
        } else {
            self.avoid = Some(entry.clone());
        }
        let pause = BACKOFF.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        pause.min(times.backoff)
    }

    fn publish(&self) {
        if self.hub.views.set_priorities(self.services.priorities()) {
            self.hub.publish();
        }
    }
}

/// Anything but 200 is an error: what it means for following.
fn accept(followed: Followed, status: StatusCode) -> Result<(), EventError> {
    match status.as_u16() {
        200 => Ok(()),
        410 => Err(EventError::Expired),
        status @ 403..=406 => Err(EventError::Denied { followed, status }),
        status => Err(EventError::Fetch(FetchError::Status {
            path: followed.path().to_owned(),
            status,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_line() {
        let watching = EventState::Watching("cp-a".into());
        let polling = |reason: &str| EventState::PollingOnly(reason.to_owned());
        let line = |definitions: &EventState, services: &EventState| {
            let (definitions, services) = (definitions.clone(), services.clone());
            EventsStatus {
                definitions,
                services,
            }
            .to_string()
        };
        assert_eq!(line(&watching, &watching), "watching");
        assert_eq!(line(&watching, &EventState::Starting), "starting");
        assert_eq!(
            line(&watching, &polling("x")),
            "polling only for one type: x"
        );
        assert_eq!(line(&polling("x"), &polling("y")), "polling only: x; y");
        assert_eq!(EventsStatus::default().to_string(), "starting");
    }
}
