//! How often each client cancels requests that a server is working at.
//!
//! A cancelled request is a reset on a connection that the client shares with others. Go's server ends a connection whose streams
//! are reset faster than their handlers end (`too_many_early_resets`), so that one client could cut everybody's watches. A
//! client that cancels too fast is refused with 429 until its allowance has come back; nobody else is concerned.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::rate::{Allowance, Rate};
use crate::identity::ClientKey;

/// The most clients that are remembered. Above it those with a full allowance are forgotten, and then any others.
const MOST: usize = 16 * 1024;

/// The longest time until a client may send requests again: a debt is at most five bursts, and a tenth of a burst is added each
/// second.
const LONGEST_WAIT: Duration = Duration::from_secs(61);

/// Shared by all data threads; touched by cancellations, and by requests only while somebody's allowance is used up.
#[derive(Debug)]
pub struct Cancels {
    rate: Rate,
    start: Instant,
    /// Milliseconds from `start` until which some client may be without allowance.
    watched_until: AtomicU64,
    clients: Mutex<HashMap<ClientKey, Allowance>>,
}

impl Cancels {
    /// `burst` cancellations are allowed at once; a tenth of it is added each second.
    pub fn new(burst: u32) -> Self {
        Self {
            rate: Rate {
                burst: burst.into(),
                per_second: f64::from(burst) / 10.0,
            },
            start: Instant::now(),
            watched_until: AtomicU64::new(0),
            clients: Mutex::default(),
        }
    }

    /// A request of `client` was cancelled while a server worked at it.
    pub fn cancelled(&self, client: ClientKey, now: Instant) {
        let mut clients = lock(&self.clients);
        if clients.len() >= MOST && !clients.contains_key(&client) {
            clients.retain(|_, allowance| !allowance.is_full(self.rate, now));
            if clients.len() >= MOST {
                let any = clients.keys().next().copied();
                any.and_then(|any| clients.remove(&any));
            }
        }
        let allowance = clients
            .entry(client)
            .or_insert_with(|| Allowance::full(self.rate, now));
        allowance.owe(self.rate, now);
        if !allowance.has_any(self.rate, now) {
            let until = self.millis(now + LONGEST_WAIT);
            self.watched_until.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// Whether a request of `client` may be sent to a server.
    pub fn admits(&self, client: ClientKey, now: Instant) -> bool {
        if self.millis(now) > self.watched_until.load(Ordering::Relaxed) {
            return true;
        }
        lock(&self.clients)
            .get_mut(&client)
            .is_none_or(|allowance| allowance.has_any(self.rate, now))
    }

    fn millis(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

fn lock<T>(clients: &Mutex<T>) -> MutexGuard<'_, T> {
    // Allowances stay what they are after a panic elsewhere.
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::identity::{Caller, Credentials, Hasher};

    fn client(hasher: &Hasher, n: u32) -> ClientKey {
        let address = IpAddr::from(n.to_be_bytes());
        hasher.client(address, &Caller::Anonymous, Credentials::Anonymous)
    }

    #[test]
    fn who_cancels_too_fast_waits_and_nobody_else() {
        let (cancels, hasher) = (Cancels::new(10), Hasher::default());
        let start = Instant::now();
        let (hasty, other) = (client(&hasher, 1), client(&hasher, 2));
        for _ in 0..9 {
            cancels.cancelled(hasty, start);
            assert!(cancels.admits(hasty, start));
        }
        for _ in 0..21 {
            cancels.cancelled(hasty, start);
        }
        assert!(!cancels.admits(hasty, start + Duration::from_secs(20)));
        assert!(cancels.admits(other, start));
        cancels.cancelled(other, start);
        assert!(cancels.admits(other, start));
        assert!(cancels.admits(hasty, start + Duration::from_secs(22)));
        for _ in 0..1000 {
            cancels.cancelled(hasty, start + Duration::from_secs(22));
        }
        assert!(cancels.admits(hasty, start + Duration::from_secs(22 + 61)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (cancels, hasher) = (Cancels::new(10), Hasher::default());
        let now = Instant::now();
        for n in 0..MOST as u32 + 100 {
            cancels.cancelled(client(&hasher, n), now);
        }
        assert!(lock(&cancels.clients).len() <= MOST);
    }
}
