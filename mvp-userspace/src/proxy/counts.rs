//! Open connections to servers, counted for the metrics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tls::IdentityClass;

type Counters = HashMap<(Arc<str>, IdentityClass), Arc<AtomicUsize>>;

/// Open connections by server and class, over all data threads.
#[derive(Clone, Debug, Default)]
pub struct PoolCounts(Arc<Mutex<Counters>>);

/// One open connection, counted until dropped.
pub struct OpenCount(Arc<AtomicUsize>);

impl PoolCounts {
    pub fn counts(&self) -> Vec<(String, &'static str, usize)> {
        let class = |class| match class {
            IdentityClass::FrontProxy => "front_proxy",
            IdentityClass::Bare => "bare",
        };
        lock(&self.0)
            .iter()
            .map(|((s, c), n)| (s.to_string(), class(*c), n.load(Ordering::Relaxed)))
            .collect()
    }

    pub fn counter(&self, server: &Arc<str>, class: IdentityClass) -> Arc<AtomicUsize> {
        Arc::clone(
            lock(&self.0)
                .entry((Arc::clone(server), class))
                .or_default(),
        )
    }
}

impl OpenCount {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counters stay what they are after a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
