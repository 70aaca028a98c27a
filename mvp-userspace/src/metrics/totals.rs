//! The counters of requests, for those who read them other than by a scrape.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;

/// What tells one counter of `mvp_requests_total` from the others.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct RequestKey {
    /// Why the request went where it went, a word of [`crate::route::Reason`].
    pub decision: &'static str,
    /// Empty: the agent answered itself.
    pub server: Arc<str>,
    /// The HTTP status that the client got; 499 if it was gone.
    pub code: u16,
}

/// Every counter that was made; as many as the scrape shows.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<HashMap<RequestKey, Counter>>);

impl Totals {
    /// Remembers a counter; whoever makes one again has the same one.
    pub(super) fn add(
        &self,
        decision: &'static str,
        server: &Arc<str>,
        code: u16,
        counter: &Counter,
    ) {
        let key = RequestKey {
            decision,
            server: Arc::clone(server),
            code,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_insert_with(|| counter.clone());
    }

    /// All of them as they are now.
    pub(super) fn read(&self) -> Vec<(RequestKey, u64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|(key, counter)| (key.clone(), counter.get()))
            .collect()
    }
}
