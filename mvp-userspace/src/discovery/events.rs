//! Follows CustomResourceDefinitions and APIServices, so that a type made through any server is asked for at once and not
//! only at the next poll.
//!
//! One server is watched at a time, the local one first: all servers share etcd, so that one reports what happens through any.
//! An event does not say what is served now (a server begins to serve a new type only some time after it), so that it only
//! has every server polled, at once and then often for a while.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tracing::info;

use super::hub::Hub;
use crate::identity::proof::AUTHENTICATION_LIST;

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct EventTimes {
    /// Between two polls of every server after an event, for `fast_for` after the last one.
    pub fast_interval: Duration,
    /// For how long after the last event servers are polled at `fast_interval`: a definition is served some time after its
    /// event.
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
pub enum FollowedType {
    /// CustomResourceDefinitions: what each kube-apiserver serves by itself.
    Definitions,
    /// APIServices: what is served by an aggregated server, and the order of group versions.
    Services,
    /// The ConfigMap in which servers publish the header names that they believe.
    HeaderNames,
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
    /// The watch on CustomResourceDefinitions.
    pub definitions: EventState,
    /// The watch on APIServices.
    pub services: EventState,
    /// The watch on the ConfigMap with the names of identity headers.
    pub header_names: EventState,
}

/// The hub's part: what the followers leave behind.
pub(super) struct Events {
    pub times: EventTimes,
    status: Mutex<EventsStatus>,
    /// An event, or a list after which it is not known what was missed.
    pub happened: Notify,
    /// A server's connection was opened.
    pub opened: Notify,
    /// The published header names may have changed.
    pub renamed: Notify,
}

/// Objects a page. One is 2 to 4 KB, a bundle of certificates more.
const PAGE: usize = 500;

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

impl FollowedType {
    /// Everything that is followed, each by a task of its own.
    pub const ALL: [FollowedType; 3] = [
        FollowedType::Definitions,
        FollowedType::Services,
        FollowedType::HeaderNames,
    ];

    /// What it is called in logs and in `mvp status`.
    pub fn name(self) -> &'static str {
        match self {
            FollowedType::Definitions => "CustomResourceDefinitions",
            FollowedType::Services => "APIServices",
            FollowedType::HeaderNames => "ConfigMap kube-system/extension-apiserver-authentication",
        }
    }

    /// The path of the list, which is also the path of the watch.
    pub fn path(self) -> &'static str {
        match self {
            FollowedType::Definitions => "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            FollowedType::Services => "/apis/apiregistration.k8s.io/v1/apiservices",
            FollowedType::HeaderNames => AUTHENTICATION_LIST,
        }
    }

    /// For definitions only the list's revision is of interest, and so one object is requested: all of them are megabytes.
    pub(super) fn limit(self) -> usize {
        match self {
            FollowedType::Definitions | FollowedType::HeaderNames => 1,
            FollowedType::Services => PAGE,
        }
    }

    pub(super) fn accept(self, watch: bool) -> &'static str {
        match (self, watch) {
            (FollowedType::Services | FollowedType::HeaderNames, _) => "application/json",
            (FollowedType::Definitions, false) => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            }
            (FollowedType::Definitions, true) => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
        }
    }

    pub(super) fn says(self) -> bool {
        matches!(self, FollowedType::Services)
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

impl FollowedType {
    /// The path with a first parameter.
    pub(super) fn query(self, parameter: &str) -> String {
        let path = self.path();
        let joint = if path.contains('?') { '&' } else { '?' };
        format!("{path}{joint}{parameter}")
    }
}

impl Events {
    /// Wakes those that follow this type.
    pub(super) fn note(&self, followed: FollowedType) {
        match followed {
            FollowedType::Definitions | FollowedType::Services => self.happened.notify_one(),
            FollowedType::HeaderNames => self.renamed.notify_one(),
        }
    }

    pub(super) fn new(times: EventTimes) -> Self {
        Self {
            times,
            status: Mutex::default(),
            happened: Notify::new(),
            opened: Notify::new(),
            renamed: Notify::new(),
        }
    }

    pub(super) fn status(&self) -> EventsStatus {
        let status = self.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, followed: FollowedType, state: EventState) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match followed {
            FollowedType::Definitions => &mut status.definitions,
            FollowedType::Services => &mut status.services,
            FollowedType::HeaderNames => &mut status.header_names,
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
                entry.disturb();
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

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::config::Endpoint;
    use crate::discovery::entry::ServerEntry;
    use crate::discovery::{Dialer, HubSettings};
    use crate::route::Server;

    #[test]
    fn the_status_is_one_line() {
        let watching = EventState::Watching("cp-a".into());
        let polling = |reason: &str| EventState::PollingOnly(reason.to_owned());
        let line = |definitions: &EventState, services: &EventState| {
            let (definitions, services) = (definitions.clone(), services.clone());
            EventsStatus {
                definitions,
                services,
                ..EventsStatus::default()
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

    /// However many events there are, some time after the last one the servers are polled at their usual pace again.
    #[tokio::test]
    async fn the_haste_has_an_end() {
        let endpoint = Endpoint {
            name: "a".into(),
            host: "127.0.0.1".into(),
            port: 6443,
        };
        let times = EventTimes {
            fast_interval: Duration::from_millis(1),
            fast_for: Duration::from_millis(5),
            ..EventTimes::default()
        };
        let settings = HubSettings {
            dialer: Dialer {
                tls: Arc::new(|| unreachable!("nothing is dialled")),
                own: crate::identity::proof::OwnUser::default(),
                from: crate::net::DialFrom::anywhere(),
                server_name: "kubernetes".try_into().unwrap(),
                connect_timeout: Duration::ZERO,
                timeout: Duration::ZERO,
                ping_interval: Duration::ZERO,
                ping_timeout: Duration::ZERO,
            },
            interval: Duration::ZERO,
            idle_interval: Duration::ZERO,
            refresh: Duration::ZERO,
            stale_after: Duration::from_secs(1),
            retain: Duration::ZERO,
            max_bytes: 0,
            events: times,
            prover: None,
        };
        let hub = Hub::new(settings, Arc::default(), tokio::runtime::Handle::current());
        let server = Arc::new(Server::new(endpoint.clone(), true));
        let entry = Arc::new(ServerEntry::new(server, endpoint));
        hub.set_entries(vec![entry.clone()]);
        let hub = Arc::new(hub);
        let quicken = tokio::spawn(quicken(hub.clone()));
        for _ in 0..2 {
            assert!(entry.want_openapi(), "forgotten below");
            entry.openapi_due(false);
            for _ in 0..100 {
                hub.events.happened.notify_one();
            }
            entry.poked().await;
            // The last thing that the haste does.
            let end = Instant::now() + Duration::from_secs(30);
            while entry.want_openapi() {
                entry.openapi_due(false);
                assert!(Instant::now() < end, "it has none");
                sleep(Duration::from_millis(1)).await;
            }
            entry.openapi_due(false);
        }
        quicken.abort();
    }
}
