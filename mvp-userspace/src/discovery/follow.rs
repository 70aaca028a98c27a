//! One watch: picks a server, lists, watches, and begins again after whatever ended it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::changes::{Change, ChangeError, Lines, Page};
use super::connection::DiscoveryConnection;
use super::entry::ServerEntry;
use super::events::{EventState, FollowedType};
use super::fetch_error::FetchError;
use super::hub::Hub;
use super::priorities::ApiServices;
use crate::document::MAX_VERSIONS;

/// Follows one type. Runs until dropped.
pub(super) async fn follow(followed: FollowedType, hub: Arc<Hub>) {
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
        let stops = open.entry.server.departure.next();
        let ended = tokio::select! {
            ended = follower.session(&open.entry, &open.connection) => ended,
            // Whatever the poller found wrong with the connection is wrong for the watch too.
            _ = open.held.changed() => Err(EventError::Moved),
            // It waits for its watches, and this one goes on elsewhere from the last revision.
            () = stops => Ok(()),
        };
        let pause = follower.note(&open.entry, began.elapsed() >= LIVED, ended);
        sleep(pause).await;
    }
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
    Denied { followed: FollowedType, status: u16 },
}

/// First wait after a failure; it doubles.
const BACKOFF: Duration = Duration::from_millis(50);
/// A watch that lasted so long worked: what ends it is no failure.
const LIVED: Duration = Duration::from_secs(1);
/// The time in which the server can end a watch before the agent does.
const GRACE: Duration = Duration::from_secs(10);
const MAX_PAGE: usize = 8 << 20;

struct Follower {
    followed: FollowedType,
    hub: Arc<Hub>,
    /// Everything up to here is known. Revisions are etcd's, so that a watch may go on at another server.
    revision: Option<String>,
    services: ApiServices,
    failures: u32,
    /// The server that failed last.
    avoid: Option<Arc<ServerEntry>>,
}

struct OpenServer {
    entry: Arc<ServerEntry>,
    connection: DiscoveryConnection,
    held: watch::Receiver<Option<DiscoveryConnection>>,
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

    async fn session(
        &mut self,
        entry: &ServerEntry,
        connection: &DiscoveryConnection,
    ) -> Result<(), EventError> {
        let revision = match self.revision.clone() {
            Some(revision) => revision,
            None => self.list(connection).await?,
        };
        // A watch would keep an HTTP/1.1 connection from the poller.
        let own;
        let connection = if connection.is_multiplexed() {
            connection
        } else {
            own = DiscoveryConnection::open(&self.hub.settings.dialer, &entry.endpoint).await?;
            &own
        };
        self.watch(entry, connection, &revision).await
    }

    async fn list(&mut self, connection: &DiscoveryConnection) -> Result<String, EventError> {
        let (followed, mut next) = (self.followed, None::<String>);
        let mut services = ApiServices::default();
        let mut seen = 0;
        let revision = loop {
            let mut path = followed.query(&format!("limit={}", followed.limit()));
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
        self.hub.events.note(followed);
        Ok(revision)
    }

    async fn watch(
        &mut self,
        entry: &ServerEntry,
        connection: &DiscoveryConnection,
        revision: &str,
    ) -> Result<(), EventError> {
        let (followed, times) = (self.followed, self.hub.events.times);
        let path = followed.query(&format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={revision}&timeoutSeconds={}",
            times.watch.as_secs().max(1),
        ));
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
        self.hub.events.note(self.followed);
        Ok(())
    }

    /// Takes the end of a session into account; returns how long to wait before the next.
    fn note(
        &mut self,
        entry: &Arc<ServerEntry>,
        lived: bool,
        ended: Result<(), EventError>,
    ) -> Duration {
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
fn accept(followed: FollowedType, status: StatusCode) -> Result<(), EventError> {
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
