//! Clients whose requests are forwarded often, in a bounded table that forgets.
//!
//! The table is asked once for each connection; a forwarded request touches only its connection's [`HotClient`]: one compare-and-swap and a
//! few plain loads and stores on one cache line, which only the threads that serve this very client share.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::{Equivalent, HashMap};

use crate::config::Relay;
use crate::route::Server;

/// Clients remembered. Sources are few (nodes, and controllers on them); names and IPv6 addresses are as many as a client
/// likes, so there is a bound.
pub const MAX_CLIENTS: usize = 4096;
/// How long a client stays hot after its last forwarded request in heat: time to reconnect, and to open further connections.
const HOLD: Duration = Duration::from_secs(60);
/// A client is asked to reconnect at most once in so long.
const ASK_INTERVAL: Duration = Duration::from_secs(60);
/// A full table loses this part of its entries at once, so that finding the coldest costs a new client little on average.
const EVICTED_PART: usize = 8;

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const EPOCH_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// The settings, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct HotSettings {
    /// `relay.after`: at most 1,000,000, which 20 bits hold.
    pub after: u32,
    /// `relay.window`, not zero.
    pub window: Duration,
}

/// All clients remembered. Shared by all data threads.
#[derive(Debug)]
pub struct HotTable {
    clock: Clock,
    clients: Mutex<Clients>,
}

type Clients = HashMap<Key, Arc<HotClient>>;

#[derive(Debug, Eq, Hash, PartialEq)]
struct Key {
    address: IpAddr,
    server_name: Option<Box<str>>,
}

/// A [`Key`] that borrows; it hashes alike.
#[derive(Debug, Hash)]
struct Lookup<'a> {
    address: IpAddr,
    server_name: Option<&'a str>,
}

/// One client: a source address and the TLS server name it asks for, or none. Held by each of its inspected connections that
/// forwarded a request. It counts on after the table has forgotten it; a later connection then begins anew.
#[derive(Debug)]
pub struct HotClient {
    clock: Clock,
    /// The number of the window (24 bits, wraps), then the requests of the window before it and of it (20 bits each).
    counts: AtomicU64,
    /// Hot until this millisecond of the clock.
    hot_until: AtomicU64,
    /// The millisecond before which the client is not asked again.
    ask_after: AtomicU64,
    /// Where its last request was forwarded, as [`tag`].
    server: AtomicUsize,
    /// Millisecond of the last sign of life.
    seen: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
    settings: HotSettings,
}

impl From<&Relay> for HotSettings {
    fn from(relay: &Relay) -> Self {
        Self {
            after: relay.after,
            window: relay.window,
        }
    }
}

impl HotTable {
    /// Remembers nobody yet. Times are counted from `now`.
    pub fn new(settings: HotSettings, now: Instant) -> Self {
        Self {
            clock: Clock {
                start: now,
                settings,
            },
            clients: Mutex::default(),
        }
    }

    /// The client if it is remembered: for the decision about a new connection. Takes the table's lock; no allocation if
    /// `server_name` is in lower case.
    pub fn find(&self, address: IpAddr, server_name: Option<&str>) -> Option<Arc<HotClient>> {
        let name = server_name.map(lower);
        let lookup = Lookup {
            address: address.to_canonical(),
            server_name: name.as_deref(),
        };
        self.lock().get(&lookup).cloned()
    }

    /// The client, remembered from now on: for a connection that forwards its first request. Takes the table's lock. The
    /// coldest are forgotten if there are more than [`MAX_CLIENTS`].
    pub fn client(
        &self,
        address: IpAddr,
        server_name: Option<&str>,
        now: Instant,
    ) -> Arc<HotClient> {
        let name = server_name.map(lower);
        let lookup = Lookup {
            address: address.to_canonical(),
            server_name: name.as_deref(),
        };
        let mut clients = self.lock();
        if let Some(client) = clients.get(&lookup) {
            client.touch(self.clock.millis(now));
            return Arc::clone(client);
        }
        if clients.len() >= MAX_CLIENTS {
            evict(&mut clients, self.clock.millis(now));
        }
        let client = Arc::new(HotClient::new(self.clock, now));
        let key = Key {
            address: lookup.address,
            server_name: lookup.server_name.map(Box::from),
        };
        clients.insert(key, Arc::clone(&client));
        client
    }

    /// Clients remembered, for a gauge.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Clients> {
        // Nothing in here panics half-way.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Equivalent<Key> for Lookup<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.address == key.address && self.server_name == key.server_name.as_deref()
    }
}

impl HotClient {
    fn new(clock: Clock, now: Instant) -> Self {
        Self {
            clock,
            counts: AtomicU64::new(0),
            hot_until: AtomicU64::new(0),
            ask_after: AtomicU64::new(0),
            server: AtomicUsize::new(0),
            seen: AtomicU64::new(clock.millis(now)),
        }
    }

    /// One of its requests was forwarded to `server`, a peer. Returns whether the client is hot now. No lock.
    pub fn forwarded(&self, server: &Arc<Server>, now: Instant) -> bool {
        self.server.store(tag(server), Ordering::Relaxed);
        let (epoch, into) = self.clock.window(now);
        let update = |counts| {
            let (before, here) = current(counts, epoch);
            Some(pack(epoch, before, (here + 1).min(COUNT_MAX)))
        };
        // The closure never declines.
        let counts = match self
            .counts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
        {
            Ok(old) | Err(old) => update(old).unwrap_or(old),
        };
        let millis = self.clock.millis(now);
        self.touch(millis);
        if self.clock.estimate(counts, epoch, into) >= u64::from(self.clock.settings.after) {
            self.hold(millis);
        }
        self.is_hot(now)
    }

    /// A relayed connection of it was opened or ended: it stays hot for a while more, though none of its requests are seen.
    pub fn relayed(&self, now: Instant) {
        let millis = self.clock.millis(now);
        self.touch(millis);
        self.hold(millis);
    }

    /// Whether its requests were forwarded often, now or a short while ago.
    pub fn is_hot(&self, now: Instant) -> bool {
        self.clock.millis(now) < self.hot_until.load(Ordering::Relaxed)
    }

    /// Forwarded requests in the last `relay.window`. The window slides over two fixed ones and takes the older one's requests
    /// to be spread evenly.
    pub fn heat(&self, now: Instant) -> u64 {
        let (epoch, into) = self.clock.window(now);
        self.clock
            .estimate(self.counts.load(Ordering::Relaxed), epoch, into)
    }

    /// True for one caller per minute, if the client is hot: that one asks it to reconnect. To be called only if its next
    /// connection would be relayed now.
    pub fn take_ask(&self, now: Instant) -> bool {
        if !self.is_hot(now) {
            return false;
        }
        let millis = self.clock.millis(now);
        self.ask_after
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |after| {
                (millis >= after).then(|| millis.saturating_add(as_millis(ASK_INTERVAL)))
            })
            .is_ok()
    }

    /// Whether its last forwarded request went to `server`.
    pub fn prefers(&self, server: &Arc<Server>) -> bool {
        self.server.load(Ordering::Relaxed) == tag(server)
    }

    fn touch(&self, millis: u64) {
        raise(&self.seen, millis);
    }

    fn hold(&self, millis: u64) {
        raise(&self.hot_until, millis.saturating_add(as_millis(HOLD)));
    }
}

/// Usually a load only, since milliseconds are long. Threads that race may leave the earlier of two moments that are next to each
/// other, which does not matter here.
fn raise(moment: &AtomicU64, to: u64) {
    if moment.load(Ordering::Relaxed) < to {
        moment.store(to, Ordering::Relaxed);
    }
}

impl Clock {
    /// The milliseconds since the start; never zero, so that zero is before every moment.
    fn millis(&self, now: Instant) -> u64 {
        as_millis(now.saturating_duration_since(self.start)).saturating_add(1)
    }

    /// The number of the fixed window and how far into it `now` is, 0 to 1.
    fn window(&self, now: Instant) -> (u64, f64) {
        let window = as_millis(self.settings.window).max(1);
        let millis = self.millis(now);
        (
            (millis / window) & EPOCH_MASK,
            (millis % window) as f64 / window as f64,
        )
    }

    fn estimate(&self, counts: u64, epoch: u64, into: f64) -> u64 {
        let (before, here) = current(counts, epoch);
        here + (before as f64 * (1.0 - into)) as u64
    }
}

/// Forgets the coldest part: clients that are not hot before those that are, and of each those seen longest ago.
fn evict(clients: &mut Clients, millis: u64) {
    let warmth = |client: &HotClient| {
        let hot = client.hot_until.load(Ordering::Relaxed) > millis;
        (hot, client.seen.load(Ordering::Relaxed))
    };
    let mut ranks: Vec<_> = clients.values().map(|client| warmth(client)).collect();
    let mut left = (ranks.len() / EVICTED_PART).max(1);
    if ranks.len() < left {
        return;
    }
    let (_, limit, _) = ranks.select_nth_unstable(left - 1);
    let limit = *limit;
    // Many may be as cold as the last: no more than the part goes.
    clients.retain(|_, client| {
        let goes = left > 0 && warmth(client) <= limit;
        left -= usize::from(goes);
        !goes
    });
}

/// The requests of the window before `epoch` and of `epoch`, by what was counted up to an earlier window.
fn current(counts: u64, epoch: u64) -> (u64, u64) {
    let counted = counts >> (2 * COUNT_BITS);
    let before = (counts >> COUNT_BITS) & COUNT_MAX;
    let here = counts & COUNT_MAX;
    match epoch.wrapping_sub(counted) & EPOCH_MASK {
        0 => (before, here),
        1 => (here, 0),
        _ => (0, 0),
    }
}

fn pack(epoch: u64, before: u64, here: u64) -> u64 {
    (epoch << (2 * COUNT_BITS)) | (before << COUNT_BITS) | here
}

/// Tells servers apart. A server that is gone may leave its tag to a later one: the tag only ever expresses a preference.
fn tag(server: &Arc<Server>) -> usize {
    Arc::as_ptr(server).addr()
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "hot_tests.rs"]
mod tests;
