//! watch: one JSON line an event, over a body that lasts until the timeout, the client or the server ends it; or the same
//! lines as WebSocket text frames.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    body,
    encode::{self, Include},
    handler::{Answer, Request},
    negotiate::Output,
    resource::Target,
    selectors::Selectors,
    status::{self, Failure},
    upgrade,
};
use crate::sim::{
    server::Ending,
    store::{Change, Event, StoreError, Watch},
};

/// kube-apiserver's --min-request-timeout: watches without timeoutSeconds last this long, and up to twice as long.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// Bookmarks are sent about once per minute (storage/cacher `bookmarkFrequency`).
const BOOKMARK: Duration = Duration::from_secs(60);

/// The lines of one watch.
pub(super) struct Lines {
    target: Target,
    watch: Watch,
    selectors: Selectors,
    output: Output,
    include: Include,
    bookmarks: bool,
    deadline: Instant,
    next_bookmark: Instant,
    ending: Ending,
    ready: VecDeque<Bytes>,
    first: bool,
    over: bool,
}

pub(super) async fn answer(mut request: Request, target: Target, output: Output) -> Answer {
    let upgrade = if upgrade::is_websocket(&request) {
        request.upgrade.take()
    } else {
        None
    };
    let lines = Lines::start(&request, target, output).await?;
    if let Some(upgrade) = upgrade {
        return upgrade::websocket_watch(&request, upgrade, lines);
    }
    let body = body::stream(stream::unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok(Frame::data(line)), lines))
    }));
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(output.content_type()),
    );
    Ok(response)
}

/// The option `sendInitialEvents`, which came with 1.27.
fn initial_events(request: &Request) -> Result<Option<&str>, Failure> {
    let initial = request.query.get("sendInitialEvents");
    let matching = request
        .query
        .get("resourceVersionMatch")
        .unwrap_or_default();
    match request.app.query_minor {
        ..=26 if !matching.is_empty() => Err(status::forbidden_option(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch",
        )),
        // An option that a server does not know is ignored.
        ..=26 => Ok(None),
        // Gate WatchList: on by default in 1.32, off again in 1.33, on since 1.34.
        32 | 34.. => Ok(initial),
        _ if initial.is_none() => Ok(None),
        _ => Err(status::forbidden_option(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        )),
    }
}

impl Lines {
    async fn start(request: &Request, target: Target, output: Output) -> Result<Self, Failure> {
        let selectors = Selectors::parse(&request.query)?;
        selectors.check(&target, request.app.query_minor)?;
        let initial = initial_events(request)?;
        let store = &request.app.store;
        let failed = |error| status::store(error, &target.path, "");
        let asked = request.query.get("resourceVersion").unwrap_or_default();
        let from: u64 = match asked {
            "" => 0,
            text => text
                .parse()
                .map_err(|_| status::bad_request(format!("invalid resource version \"{text}\"")))?,
        };
        let sends = initial.is_some() && request.query.flag("sendInitialEvents");
        let wants_state = sends || initial.is_none() && from == 0;
        let (state, from) = if wants_state {
            let (state, revision) = store.list(&target.scope()).await.map_err(failed)?;
            (state, revision)
        } else {
            (Vec::new(), from)
        };
        let watch = store.watch(target.scope(), from).await.map_err(failed)?;
        let timeout = request
            .query
            .number("timeoutSeconds")
            .filter(|seconds| *seconds > 0);
        let now = Instant::now();
        let mut lines = Self {
            watch,
            selectors,
            output,
            include: Include::parse(request.query.get("includeObject")),
            bookmarks: request.query.flag("allowWatchBookmarks"),
            deadline: now + timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
            next_bookmark: now + BOOKMARK,
            ending: request.app.ending(),
            ready: VecDeque::new(),
            first: true,
            over: false,
            target,
        };
        for object in &state {
            if lines.selectors.matches(object) {
                lines.push("ADDED", object)?;
            }
        }
        if sends {
            lines.bookmark(from, json!({"k8s.io/initial-events-end": "true"}))?;
        }
        Ok(lines)
    }

    /// The next line; `None` when the watch is over.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            let wake = if self.bookmarks {
                self.deadline.min(self.next_bookmark)
            } else {
                self.deadline
            };
            let done = tokio::select! {
                batch = self.watch.next() => self.take(batch.map(|batch| batch.events)),
                () = sleep_until(wake) => self.tick(),
                () = self.ending.wait() => {
                    self.over = true;
                    Ok(())
                }
            };
            if done.is_err() {
                return None;
            }
        }
    }

    fn tick(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        self.over = now >= self.deadline;
        if !self.bookmarks {
            return Ok(());
        }
        self.next_bookmark = now + BOOKMARK;
        match self.watch.now() {
            Ok(batch) => {
                let revision = batch.revision;
                self.take(Ok(batch.events))?;
                self.bookmark(revision, Value::Null)
            }
            Err(error) => self.take(Err(error)),
        }
    }

    fn take(
        &mut self,
        events: Result<Vec<std::sync::Arc<Event>>, StoreError>,
    ) -> Result<(), Failure> {
        let events = match events {
            Ok(events) => events,
            Err(error) => {
                self.over = true;
                let message = match error {
                    StoreError::Compacted(oldest) => {
                        format!("too old resource version: requested one is older than {oldest}")
                    }
                    other => format!("the watch was lost: {other:?}"),
                };
                self.ready
                    .push_back(encode::error_event(&status::expired(message))?);
                return Ok(());
            }
        };
        for event in events {
            let is = self.selectors.matches(&event.object);
            let was = event
                .previous
                .as_ref()
                .is_some_and(|previous| self.selectors.matches(previous));
            let change = match (event.change, was, is) {
                (Change::Deleted, true, _) | (_, true, false) => "DELETED",
                (Change::Deleted, false, _) | (_, false, false) => continue,
                (_, true, true) => "MODIFIED",
                (_, false, true) => "ADDED",
            };
            self.push(change, &event.object)?;
        }
        Ok(())
    }

    fn push(&mut self, change: &str, object: &Value) -> Result<(), Failure> {
        let first = std::mem::take(&mut self.first);
        let line = encode::event(
            change,
            object,
            self.target.meta(),
            self.output.form,
            self.include,
            first,
        )?;
        self.ready.push_back(line);
        Ok(())
    }

    /// A bookmark is an object with nothing but its type and resourceVersion.
    fn bookmark(&mut self, revision: u64, annotations: Value) -> Result<(), Failure> {
        let mut object = json!({"metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null}});
        if !annotations.is_null() {
            object["metadata"]["annotations"] = annotations;
        }
        self.push("BOOKMARK", &object)
    }
}
