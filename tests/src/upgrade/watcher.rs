//! Watches that are resumed from the last event whenever they end, as client-go's reflector does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Caller;
use crate::fixtures::revision;

/// One watch over the whole upgrade.
pub(super) struct Watcher {
    pub caller: Arc<Caller>,
    pub collection: String,
    /// From where on.
    pub from: u64,
    /// It is over when an object of this name comes.
    pub last: String,
    /// One more watch is open, or one fewer.
    pub open: watch::Sender<usize>,
}

/// After an attempt that failed. client-go's reflector begins with 800 ms.
const BACKOFF: Duration = Duration::from_millis(800);

impl Watcher {
    /// Runs until the last object comes, and returns the names of all.
    pub(super) async fn run(self) -> BTreeSet<String> {
        let (mut from, mut names) = (self.from.to_string(), BTreeSet::new());
        let (kind, tally) = (self.caller.kind(), self.caller.tally());
        loop {
            let target = format!("{}?watch=true&resourceVersion={from}", self.collection);
            let Some(mut events) = self.caller.watch(&target).await else {
                tokio::time::sleep(BACKOFF).await;
                continue;
            };
            self.open.send_modify(|open| *open += 1);
            loop {
                match events.next().await {
                    Ok(Some(event)) => {
                        from = revision(&event);
                        let name = event["object"]["metadata"]["name"].as_str();
                        let name = name.unwrap_or_default().to_owned();
                        if event["type"] != "ADDED" || !names.insert(name.clone()) {
                            let what = format!("{}: event {event}", self.caller.name());
                            tally.fail(kind, |seen| seen.events_wrong += 1, what);
                        }
                        if name == self.last {
                            return names;
                        }
                    }
                    Ok(None) => {
                        tally.with(kind, |seen| seen.watches_ended += 1);
                        break;
                    }
                    Err(_) => {
                        tally.with(kind, |seen| seen.watches_broken += 1);
                        break;
                    }
                }
            }
            self.open.send_modify(|open| *open -= 1);
        }
    }
}
