//! Objects that fakes share as kube-apiservers share etcd: lists with pages, watches from a revision, and faults of watches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Body, Endless};

pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub(crate) const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// What a server does with a watch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum WatchFault {
    #[default]
    None,
    /// Sends the head and nothing else.
    Silent,
    /// Sends what there is and ends.
    Ends,
    Garbage,
    /// One line without end.
    EndlessLine,
}

#[derive(Default)]
pub(crate) struct Objects {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    /// Revisions up to here are compacted.
    compacted: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    events: Vec<(u64, &'static str, String)>,
}

impl Objects {
    pub(crate) fn new() -> Arc<Self> {
        let objects = Self::default();
        objects.inner.lock().unwrap().revision = 1;
        Arc::new(objects)
    }

    pub(crate) fn apply(&self, path: &'static str, name: &str, spec: Value) {
        let mut inner = self.inner.lock().unwrap();
        inner.revision += 1;
        let object = json!({"metadata": {"name": name, "resourceVersion": inner.revision.to_string()}, "spec": spec});
        let key = (path, name.to_owned());
        let kind = match inner.objects.insert(key, object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.event(inner, path, kind, &object);
    }

    pub(crate) fn delete(&self, path: &'static str, name: &str) {
        let mut inner = self.inner.lock().unwrap();
        let mut object = inner.objects.remove(&(path, name.to_owned())).unwrap();
        inner.revision += 1;
        object["metadata"]["resourceVersion"] = json!(inner.revision.to_string());
        self.event(inner, path, "DELETED", &object);
    }

    /// Nothing happened: all watches of this path are told the revision.
    pub(crate) fn bookmark(&self, path: &'static str) {
        let mut inner = self.inner.lock().unwrap();
        inner.revision += 1;
        let object = json!({"metadata": {"resourceVersion": inner.revision.to_string()}});
        self.event(inner, path, "BOOKMARK", &object);
    }

    /// Forgets all events up to now.
    pub(crate) fn compact(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.revision += 1;
        inner.compacted = inner.revision;
        inner.events.clear();
    }

    pub(crate) fn revision(&self) -> u64 {
        self.inner.lock().unwrap().revision
    }

    fn event(
        &self,
        mut inner: std::sync::MutexGuard<'_, Inner>,
        path: &'static str,
        kind: &str,
        object: &Value,
    ) {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        let revision = inner.revision;
        inner.events.push((revision, path, line));
        drop(inner);
        self.changed.send_replace(revision);
    }

    pub(super) fn answer(
        self: &Arc<Self>,
        path: &str,
        query: &str,
        fault: WatchFault,
        sent: &Arc<AtomicU64>,
    ) -> Option<Response<Body>> {
        let path = [DEFINITIONS, SERVICES]
            .into_iter()
            .find(|known| *known == path)?;
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let Some("true") = parameter("watch") else {
            let limit = parameter("limit").unwrap().parse().unwrap();
            return Some(self.list(path, limit, parameter("continue")));
        };
        let from: u64 = parameter("resourceVersion").unwrap().parse().unwrap();
        let body = match fault {
            WatchFault::EndlessLine => Endless(sent.clone()).boxed_unsync(),
            WatchFault::Garbage => whole(Bytes::from_static(b"{\"type\":\"ADDED\"\n")),
            WatchFault::Ends => {
                let (lines, _) = self.after(path, from);
                whole(Bytes::from(lines))
            }
            WatchFault::Silent => StreamBody::new(futures_util::stream::pending::<
                Result<Frame<Bytes>, Infallible>,
            >())
            .boxed_unsync(),
            WatchFault::None => self.clone().watch(path, from),
        };
        Some(Response::new(body))
    }

    fn list(&self, path: &'static str, limit: usize, after: Option<&str>) -> Response<Body> {
        let inner = self.inner.lock().unwrap();
        let after = after.map_or(0, |token| token.parse().unwrap());
        let all = inner.objects.iter().filter(|((of, _), _)| *of == path);
        let mut rest = all.skip(after).map(|(_, object)| object);
        let items: Vec<_> = rest.by_ref().take(limit).collect();
        let next = match rest.next() {
            Some(_) => (after + items.len()).to_string(),
            None => String::new(),
        };
        let list = json!({"metadata": {"resourceVersion": inner.revision.to_string(), "continue": next}, "items": items});
        Response::new(whole(Bytes::from(list.to_string())))
    }

    /// The lines after a revision, and the revision they lead to.
    fn after(&self, path: &str, from: u64) -> (String, u64) {
        let inner = self.inner.lock().unwrap();
        if from < inner.compacted {
            let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}});
            return (format!("{gone}\n"), u64::MAX);
        }
        let events = inner.events.iter();
        let lines = events
            .filter(|(revision, of, _)| *revision > from && *of == path)
            .map(|(_, _, line)| line.as_str());
        (lines.collect(), inner.revision)
    }

    fn watch(self: Arc<Self>, path: &'static str, from: u64) -> Body {
        let changes = self.changed.subscribe();
        let stream = futures_util::stream::unfold(
            (self, changes, from),
            move |(objects, mut changes, from)| async move {
                loop {
                    changes.borrow_and_update();
                    let (lines, at) = objects.after(path, from);
                    if from == u64::MAX {
                        return None;
                    }
                    if !lines.is_empty() {
                        let frame = Ok(Frame::data(Bytes::from(lines)));
                        return Some((frame, (objects, changes, at)));
                    }
                    changes.changed().await.ok()?;
                }
            },
        );
        StreamBody::new(stream).boxed_unsync()
    }
}

fn whole(body: Bytes) -> Body {
    Full::new(body).boxed_unsync()
}

/// Bytes of an endless line that the network took.
pub(crate) fn taken(sent: &AtomicU64) -> u64 {
    sent.load(Ordering::SeqCst)
}
