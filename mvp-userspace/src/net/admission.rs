//! Who may have a connection when there are not enough for all.
//!
//! There are no absolute limits for one address: behind a load balancer or a translator all clients of a node have the same one.
//! Only when a limit is reached, a connection that is of no use yet makes room for a new one, and the source that has most of
//! what is short pays first: its oldest silent connection, from which no whole ClientHello has come, then its oldest handshake,
//! or connection that was never asked anything, if it has more than its share or has taken its time. A connection that served a
//! request is never ended to make room. Linux does the same for SYNs that were never answered (`inet_csk_reqsk_queue_prune`).
//!
//! Everything here is decided under one lock, a few map operations for each new connection, and none for a request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A silent connection older than this is no client that is about to speak: its ClientHello leaves with the last segment of
/// TCP's handshake, and is sent again after a second at most if it is lost (RFC 6298 section 2.1).
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Where a connection comes from, as far as its owner cannot choose it: an IPv4 address, or the /64 of an IPv6 address, of which
/// one machine may use every address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Source(IpAddr);

/// What is counted, and how much of it there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AdmissionLimits {
    /// Open connections.
    pub connections: usize,
    /// Connections whose TLS handshake has not ended.
    pub handshakes: usize,
    /// A handshake, or a connection without a request, that is older may be ended for a new one of the same source.
    pub patience: Duration,
}

/// The limit that a connection was refused for, or ended for: the name of its key below `limits` in metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shortage {
    /// `limits.connections`.
    Connections,
    /// `limits.pendingHandshakes`.
    Handshakes,
}

/// All connections that clients have. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Mutex<State>>);

/// One connection's place, given back on drop.
#[derive(Debug)]
pub struct AdmissionPermit {
    admission: Admission,
    number: u64,
    evicted: Arc<Notify>,
    asked: AtomicBool,
}

/// How far a connection has come. It never goes back.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Stage {
    /// No whole ClientHello has come.
    Silent,
    /// Its TLS handshake is under way.
    Handshake,
    /// It has asked nothing yet.
    Unasked,
    /// It has asked something, or is carried whole.
    Asked,
}

#[derive(Debug)]
struct State {
    limits: AdmissionLimits,
    /// The number of the next connection: lower ones are older.
    next: u64,
    held: HashMap<u64, Held>,
    sources: HashMap<Source, Group>,
    /// Sources by their handshakes, and by their connections.
    by_handshakes: BTreeSet<(usize, Source)>,
    by_connections: BTreeSet<(usize, Source)>,
    handshakes: usize,
    /// The silent ones of all sources, and when they came.
    silent: BTreeMap<u64, Instant>,
}

#[derive(Debug)]
struct Held {
    source: Source,
    stage: Stage,
    since: Instant,
    evicted: Arc<Notify>,
}

/// The connections of one source.
#[derive(Debug, Default)]
struct Group {
    connections: usize,
    silent: BTreeSet<u64>,
    handshakes: BTreeSet<u64>,
    unasked: BTreeSet<u64>,
}

impl Source {
    /// The source of connections from `address`.
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = v6.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
            v4 => v4,
        })
    }
}

impl Shortage {
    /// The label of `mvp_refused_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "pending_handshakes",
        }
    }
}

impl Admission {
    /// Nobody has a connection.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self(Arc::new(Mutex::new(State {
            limits,
            next: 0,
            held: HashMap::new(),
            sources: HashMap::new(),
            by_handshakes: BTreeSet::new(),
            by_connections: BTreeSet::new(),
            handshakes: 0,
            silent: BTreeMap::new(),
        })))
    }

    /// A place for a new connection. `ended` is called for each connection that is ended to make room.
    ///
    /// # Errors
    /// The limit that is reached, if nobody can be asked to make room.
    pub fn admit(
        &self,
        from: IpAddr,
        now: Instant,
        mut ended: impl FnMut(Shortage),
    ) -> Result<AdmissionPermit, Shortage> {
        let source = Source::of(from);
        let mut state = self.lock();
        if state.handshakes >= state.limits.handshakes {
            let victim = state.handshake_to_end(source, now);
            state.evict(victim.ok_or(Shortage::Handshakes)?);
            ended(Shortage::Handshakes);
        }
        if state.held.len() >= state.limits.connections {
            let victim = state.connection_to_end(source, now);
            state.evict(victim.ok_or(Shortage::Connections)?);
            ended(Shortage::Connections);
        }
        let (number, evicted) = state.add(source, now);
        Ok(AdmissionPermit {
            admission: self.clone(),
            number,
            evicted,
            asked: AtomicBool::new(false),
        })
    }

    /// How many connections more there is room for: places that are free, and those of connections that have been silent for
    /// longer than `GRACE`.
    pub fn room(&self, now: Instant) -> usize {
        let state = self.lock();
        let old = state.silent.values();
        let old = old
            .take_while(|since| now.duration_since(**since) > GRACE)
            .count();
        let handshakes = state.limits.handshakes.saturating_sub(state.handshakes);
        let connections = state.limits.connections.saturating_sub(state.held.len());
        handshakes.min(connections).saturating_add(old)
    }

    /// Ends the oldest silent connection of the source with most, if there is one: something else than a place is short.
    pub fn make_room(&self) {
        let mut state = self.lock();
        let victim = state.oldest_silent();
        if let Some(victim) = victim {
            state.evict(victim);
        }
    }

    /// Handshakes under way.
    pub fn handshakes(&self) -> usize {
        self.lock().handshakes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdmissionPermit {
    /// Resolves when the connection must end to make room.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// A whole ClientHello has come.
    pub fn spoke(&self) {
        self.admission.lock().advance(self.number, Stage::Handshake);
    }

    /// The TLS handshake has ended well.
    pub fn established(&self) {
        self.admission.lock().advance(self.number, Stage::Unasked);
    }

    /// The connection has asked something, or is carried whole: it is never ended to make room from now on. Cheap from the
    /// second time on.
    pub fn asked(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.admission.lock().advance(self.number, Stage::Asked);
        }
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        self.admission.lock().remove(self.number);
    }
}

impl State {
    /// Which handshake to end for a new one of `source`.
    fn handshake_to_end(&self, source: Source, now: Instant) -> Option<u64> {
        let (most, largest) = *self.by_handshakes.last()?;
        let own = self.sources.get(&source).map_or(0, Group::pending);
        let group = self.sources.get(&largest)?;
        if let Some(oldest) = group.silent.first() {
            return Some(*oldest);
        }
        let oldest = group.handshakes.first();
        oldest
            .copied()
            .filter(|oldest| most > own + 1 || self.is_older(*oldest, self.limits.patience, now))
            .or_else(|| self.long_silent(now))
    }

    /// Which connection to end for a new one of `source`.
    fn connection_to_end(&self, source: Source, now: Instant) -> Option<u64> {
        let (most, largest) = *self.by_connections.last()?;
        let own = self.sources.get(&source).map_or(0, |g| g.connections);
        let group = self.sources.get(&largest)?;
        if let Some(oldest) = group.silent.first() {
            return Some(*oldest);
        }
        let oldest = group.unasked.first();
        oldest
            .copied()
            .filter(|oldest| most > own + 1 || self.is_older(*oldest, self.limits.patience, now))
            .or_else(|| self.long_silent(now))
    }

    fn oldest_silent(&self) -> Option<u64> {
        let (_, largest) = self.by_handshakes.last()?;
        let group = self.sources.get(largest)?;
        let oldest = group.silent.first().copied();
        oldest.or_else(|| self.silent.keys().next().copied())
    }

    fn long_silent(&self, now: Instant) -> Option<u64> {
        let (number, since) = self.silent.first_key_value()?;
        (now.duration_since(*since) > GRACE).then_some(*number)
    }

    fn is_older(&self, number: u64, than: Duration, now: Instant) -> bool {
        let since = self.held.get(&number).map(|held| held.since);
        since.is_some_and(|since| now.duration_since(since) > than)
    }

    fn add(&mut self, source: Source, now: Instant) -> (u64, Arc<Notify>) {
        let number = self.next;
        self.next += 1;
        let evicted = Arc::new(Notify::new());
        self.held.insert(
            number,
            Held {
                source,
                stage: Stage::Silent,
                since: now,
                evicted: Arc::clone(&evicted),
            },
        );
        self.silent.insert(number, now);
        self.recount(source, |group| {
            group.connections += 1;
            group.silent.insert(number);
        });
        (number, evicted)
    }

    /// One that was evicted meanwhile stays out.
    fn advance(&mut self, number: u64, to: Stage) {
        let Some(held) = self.held.get_mut(&number) else {
            return;
        };
        if held.stage >= to {
            return;
        }
        let from = std::mem::replace(&mut held.stage, to);
        let source = held.source;
        self.silent.remove(&number);
        self.recount(source, |group| {
            if let Some(set) = group.of(from) {
                set.remove(&number);
            }
            if let Some(set) = group.of(to) {
                set.insert(number);
            }
        });
    }

    fn evict(&mut self, number: u64) {
        if let Some(held) = self.remove(number) {
            held.evicted.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        self.silent.remove(&number);
        self.recount(held.source, |group| {
            group.connections -= 1;
            if let Some(set) = group.of(held.stage) {
                set.remove(&number);
            }
        });
        Some(held)
    }

    /// Changes a source's connections and keeps what is sorted by their number.
    fn recount(&mut self, source: Source, change: impl FnOnce(&mut Group)) {
        let group = self.sources.entry(source).or_default();
        let (pending, connections) = (group.pending(), group.connections);
        change(group);
        let (now_pending, now_connections) = (group.pending(), group.connections);
        if now_connections == 0 {
            self.sources.remove(&source);
        }
        self.handshakes = self.handshakes + now_pending - pending;
        for (index, before, now) in [
            (&mut self.by_handshakes, pending, now_pending),
            (&mut self.by_connections, connections, now_connections),
        ] {
            if before != now {
                index.remove(&(before, source));
                if now > 0 {
                    index.insert((now, source));
                }
            }
        }
    }
}

impl Group {
    /// Those whose handshake has not ended.
    fn pending(&self) -> usize {
        self.silent.len() + self.handshakes.len()
    }

    fn of(&mut self, stage: Stage) -> Option<&mut BTreeSet<u64>> {
        match stage {
            Stage::Silent => Some(&mut self.silent),
            Stage::Handshake => Some(&mut self.handshakes),
            Stage::Unasked => Some(&mut self.unasked),
            Stage::Asked => None,
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
