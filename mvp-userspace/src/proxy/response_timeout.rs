//! For how long a request that is not long-running may wait for the head of its answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// `limits.responseTimeout`. Follows kube-apiserver's `--request-timeout` where its manifest is followed, so it may change while
/// requests are under way; those that have begun keep what they began with.
#[derive(Debug)]
pub struct ResponseTimeout(AtomicU64);

impl ResponseTimeout {
    /// Rounded down to milliseconds.
    pub fn new(timeout: Duration) -> Self {
        let this = Self(AtomicU64::new(0));
        this.set(timeout);
        this
    }

    /// What a request that begins now waits for the head of its answer.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// For requests that begin from now on.
    pub fn set(&self, timeout: Duration) {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }
}
