//! A watch that is resumed from the last resourceVersion, as client-go's reflector does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::watch;

use super::operation::Kind;
use super::tally::Tally;
use super::traffic::describe;
use crate::load::{Answer, Call, Client, Failure, Reply};

/// Watches one collection until told to stop.
pub(super) struct Watcher {
    pub front: String,
    pub client: Client,
    pub collection: String,
    pub tally: Arc<Tally>,
    /// Becomes true with the first watch that is established.
    pub established: watch::Sender<bool>,
    /// Names of objects seen to be added.
    pub added: BTreeSet<String>,
}

/// Between attempts that fail. client-go's reflector begins with 800 ms.
const BACKOFF: Duration = Duration::from_millis(500);

/// An attempt failed, and the tally has it already.
struct Counted;

/// Why a watch is over.
enum End {
    /// The stream ended, cleanly or not: resume.
    Resume,
    /// The version is too old to resume from.
    Expired,
}

impl Watcher {
    pub(super) async fn run(&mut self, mut stop: watch::Receiver<bool>) {
        let mut version = None;
        while !*stop.borrow() {
            let attempt = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                attempt = self.follow(&mut version) => attempt,
            };
            if attempt.is_err() {
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }

    /// Lists if there is no version to resume from, then watches until the stream ends.
    async fn follow(&mut self, version: &mut Option<String>) -> Result<(), Counted> {
        let resumed = version.is_some();
        let from = match version {
            Some(from) => from.clone(),
            None => version.insert(self.list().await?).clone(),
        };
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={from}",
            self.collection
        );
        let response = match self.client.open(&Call::get(&path)).await {
            Ok(response) => response,
            Err(failure) => return Err(self.failed(failure)),
        };
        if response.status() != StatusCode::OK {
            let (head, body) = response.into_parts();
            let body = body
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            if head.status == StatusCode::GONE {
                *version = None;
            }
            return Err(self.refused(&Reply {
                status: head.status,
                headers: head.headers,
                body,
            }));
        }
        self.tally.count(Kind::Watch, Answer::Ok);
        self.tally
            .with(|seen| seen.watches_resumed += u64::from(resumed));
        self.established.send_replace(true);
        match self.read(response.into_body(), version).await {
            End::Resume => Ok(()),
            End::Expired => {
                *version = None;
                self.tally.fail(
                    Kind::Watch,
                    Answer::ClientError,
                    format!("{path} at {}: expired", self.front),
                );
                Err(Counted)
            }
        }
    }

    async fn list(&self) -> Result<String, Counted> {
        match self.client.send(&Call::get(&self.collection)).await {
            Ok(reply) if reply.status == StatusCode::OK => {
                self.tally.count(Kind::List, Answer::Ok);
                let list: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                Ok(list["metadata"]["resourceVersion"]
                    .as_str()
                    .unwrap_or("0")
                    .to_owned())
            }
            Ok(reply) => Err(self.refused(&reply)),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    async fn read(&mut self, mut body: hyper::body::Incoming, version: &mut Option<String>) -> End {
        let mut lines = Lines::default();
        while let Some(Ok(frame)) = body.frame().await {
            let Some(data) = frame.data_ref() else {
                continue;
            };
            for event in lines.push(data) {
                if event["type"] == "ERROR" {
                    return End::Expired;
                }
                let metadata = &event["object"]["metadata"];
                if let Some(newer) = metadata["resourceVersion"].as_str() {
                    *version = Some(newer.to_owned());
                }
                if event["type"] != "BOOKMARK" {
                    self.tally.with(|seen| seen.watch_events += 1);
                }
                if let ("ADDED", Some(name)) = (
                    event["type"].as_str().unwrap_or(""),
                    metadata["name"].as_str(),
                ) {
                    self.added.insert(name.to_owned());
                }
            }
        }
        End::Resume
    }

    fn refused(&self, reply: &Reply) -> Counted {
        let answer = Answer::classify(reply.status, &reply.body);
        self.tally.fail(
            Kind::Watch,
            answer,
            describe(&self.front, &self.collection, reply),
        );
        Counted
    }

    fn failed(&self, failure: Failure) -> Counted {
        let what = format!("{} at {}: {failure}", self.collection, self.front);
        self.tally.fail(Kind::Watch, Answer::Transport, what);
        Counted
    }
}

/// Events out of chunks that end anywhere.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8]) -> Vec<Value> {
        self.rest.extend_from_slice(data);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if let Ok(event) = serde_json::from_slice(&line) {
                events.push(event);
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_cut() {
        let text = b"{\"type\":\"ADDED\"}\n{\"type\":\"DELETED\"}\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut events = lines.push(&text[..cut]);
            events.extend(lines.push(&text[cut..]));
            let types: Vec<_> = events.iter().map(|event| event["type"].clone()).collect();
            assert_eq!(types, ["ADDED", "DELETED"], "cut at {cut}");
        }
    }
}
