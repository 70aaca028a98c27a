//! Open connections to servers, counted for the metrics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lane::Lane;

type Counters = HashMap<(Arc<str>, Lane), Arc<AtomicUsize>>;

/// Open connections by server and lane, over all data threads.
#[derive(Clone, Debug, Default)]
pub struct PoolCounts(Arc<Mutex<Counters>>);

impl PoolCounts {
    /// Server, lane and number of connections, for the metrics.
    pub fn counts(&self) -> Vec<(String, &'static str, usize)> {
        lock(&self.0)
            .iter()
            .map(|((server, lane), n)| {
                (server.to_string(), lane.as_str(), n.load(Ordering::Relaxed))
            })
            .collect()
    }

    /// The counter of one server and lane, made at its first use.
    pub fn counter(&self, server: &Arc<str>, lane: Lane) -> Arc<AtomicUsize> {
        Arc::clone(lock(&self.0).entry((Arc::clone(server), lane)).or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters stay what they are after a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
