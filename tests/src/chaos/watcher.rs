//! Watches that are resumed from the last version seen, as client-go's reflector does; and whether they saw every object once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use arc_swap::ArcSwap;
use http::StatusCode;
use http_body_util::BodyExt;

use super::calls::{Front, NAMESPACE, client, id};
use super::ledger::{Kind, Ledger, Wrong};
use crate::fixtures::{Events, ONLY_36, revision};
use crate::load::{Answer, Call, Client, bearer};
use crate::sim::ControlPlane;
use crate::sim::pki::ClientAuth;
use crate::sim::store::{Scope, Store};

/// Between attempts that fail: client-go's reflector begins with 800 ms.
const BACKOFF: Duration = Duration::from_millis(800);

/// What is watched: the objects of one of the load's collections.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The collection's path.
    pub path: String,
    /// The same in the store.
    pub scope: Scope,
}

/// One watch at one front.
pub struct Watcher {
    front: usize,
    /// For people: what is watched, and where.
    pub name: String,
    client: Client,
    /// What is watched.
    pub watched: Watched,
    row: Arc<ArcSwap<Ledger>>,
    /// How often each mark was added.
    added: Mutex<BTreeMap<String, u32>>,
    open: AtomicBool,
}

/// Common objects, and those that only new servers serve.
pub fn collections() -> [Watched; 2] {
    [
        Watched {
            path: format!("/api/v1/namespaces/{NAMESPACE}/configmaps"),
            scope: Scope::new("", "configmaps", NAMESPACE),
        },
        Watched {
            path: ONLY_36.to_owned(),
            scope: Scope::new(
                "admissionregistration.k8s.io",
                "mutatingadmissionpolicies",
                "",
            ),
        },
    ]
}

impl Watcher {
    /// # Errors
    /// The control plane has no key material.
    pub fn new(
        plane: &ControlPlane,
        front: (usize, &Front),
        watched: Watched,
        row: &Arc<ArcSwap<Ledger>>,
    ) -> Result<Self> {
        let token = Some(bearer("admin-token")?);
        Ok(Self {
            front: front.0,
            name: format!("{} {}", front.1.name, watched.scope.resource),
            client: client(plane, front.1, ClientAuth::None, token, "h2")?,
            watched,
            row: Arc::clone(row),
            added: Mutex::default(),
            open: AtomicBool::new(false),
        })
    }

    /// Whether it is established.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// How many of these objects it has not seen.
    pub fn lacks(&self, there: &BTreeMap<String, u32>) -> usize {
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        there
            .keys()
            .filter(|mark| !added.contains_key(*mark))
            .count()
    }

    /// How many it received more than once.
    pub fn doubled(&self) -> usize {
        let added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        added.values().filter(|times| **times > 1).count()
    }

    /// Until the task is aborted. The first version is that of an empty collection.
    pub async fn run(&self, mut version: String) {
        loop {
            let well = self.follow(&mut version).await;
            self.open.store(false, Ordering::SeqCst);
            if !well {
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }

    /// Watches from a version on until the stream ends; `false` if it was never there.
    async fn follow(&self, version: &mut String) -> bool {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={version}",
            self.watched.path
        );
        let opened = self.row.load_full().open(Kind::Watch, self.front);
        let response = match self.client.open(&Call::get(&path)).await {
            Ok(response) => response,
            // A reflector tries again, whatever the reason, and nothing is lost.
            Err(_) => return false,
        };
        if response.status() != StatusCode::OK {
            let status = response.status();
            let body = response.into_body().collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let wrong = match Answer::classify(status, &body) {
                Answer::NoSuchType => Wrong::FalseNotFound,
                _ if status == StatusCode::GONE => Wrong::Expired,
                Answer::ServerError => return false,
                _ => Wrong::Other,
            };
            let text = String::from_utf8_lossy(&body).into_owned();
            opened.wrong(wrong, format!("watch {}: {status} {text}", self.name), 0);
            return false;
        }
        opened.right(0);
        self.open.store(true, Ordering::SeqCst);
        let Ok(mut events) = Events::of(response) else {
            return false;
        };
        // The end is an end, clean or not: all whole events before it count.
        while let Ok(Some(event)) = events.next().await {
            if event["type"] == "ERROR" {
                let opened = self.row.load_full().open(Kind::Watch, self.front);
                opened.wrong(Wrong::Expired, format!("watch {}: {event}", self.name), 0);
                return false;
            }
            *version = revision(&event);
            if let ("ADDED", Some(mark)) =
                (event["type"].as_str().unwrap_or(""), id(&event["object"]))
            {
                let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
                *added.entry(mark.to_owned()).or_default() += 1;
            }
        }
        true
    }
}

/// How many objects each write has made.
pub async fn marks(store: &Store, scope: &Scope) -> BTreeMap<String, u32> {
    let (objects, _) = store.list(scope).await.unwrap_or_default();
    let mut marks = BTreeMap::new();
    for object in &objects {
        if let Some(mark) = id(object) {
            *marks.entry(mark.to_owned()).or_default() += 1;
        }
    }
    marks
}

/// Writes that were done more than once, and confirmed ones that left no object.
pub async fn written(store: &Store, confirmed: &BTreeSet<String>) -> (usize, usize) {
    let mut all = BTreeMap::new();
    for watched in collections() {
        all.extend(marks(store, &watched.scope).await);
    }
    let twice = all.values().filter(|times| **times > 1).count();
    let lost = confirmed.iter().filter(|mark| !all.contains_key(*mark));
    (twice, lost.count())
}
