//! Whether the event loop of a data thread still turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time between two signs of life, without steering.
pub const TICK: Duration = Duration::from_secs(1);
/// The same with steering: every 100 ms the heartbeat needs to know whether all is well.
pub const STEERING_TICK: Duration = Duration::from_millis(100);

/// When a data thread's loop last turned, in milliseconds since `origin`.
#[derive(Clone, Debug)]
pub struct LoopHeartbeat {
    origin: Instant,
    beat: Arc<AtomicU64>,
}

impl Default for LoopHeartbeat {
    /// It has turned just now.
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            beat: Arc::default(),
        }
    }
}

impl LoopHeartbeat {
    /// The loop has turned.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(elapsed, Ordering::Relaxed);
    }

    /// Time since the loop last turned. A healthy one turns once per second, or every 100 ms with steering.
    pub fn age(&self) -> Duration {
        self.origin
            .elapsed()
            .saturating_sub(Duration::from_millis(self.beat.load(Ordering::Relaxed)))
    }
}
