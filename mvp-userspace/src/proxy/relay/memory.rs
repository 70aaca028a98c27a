//! What an inspected connection knows about its client: how often its requests are forwarded, and whether it should reconnect.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::proxy::Shared;
use crate::route::Server;
use crate::route::relay::{ClientHelloFacts, HotClient, RelayDecision, decide};

/// The time between two checks whether a hot client would be relayed: a check takes a few locks.
const LOOK: Duration = Duration::from_millis(250);
/// The time between two notes that a connection's server name is in use.
const NOTE: Duration = Duration::from_secs(60);

/// The memory of one inspected connection.
#[derive(Debug)]
pub struct Memory {
    address: IpAddr,
    server_name: Option<Box<str>>,
    client: OnceLock<Arc<HotClient>>,
    looks: Every,
    notes: Every,
    leave: Notify,
}

/// Lets one caller through per interval.
#[derive(Debug)]
struct Every {
    start: Instant,
    interval: Duration,
    /// Milliseconds from the start.
    next: AtomicU64,
}

impl Memory {
    /// `server_name`: what the client asked for in TLS.
    pub fn new(address: IpAddr, server_name: Option<&str>) -> Self {
        let now = Instant::now();
        Self {
            address,
            server_name: server_name.map(|name| name.to_ascii_lowercase().into()),
            client: OnceLock::new(),
            looks: Every::new(LOOK, now),
            notes: Every::new(NOTE, now),
            leave: Notify::new(),
        }
    }

    /// A request for a resource was answered well, so that the client's server name is one that is worth probing for.
    pub fn welcome(&self, shared: &Shared) {
        let now = Instant::now();
        if let Some(name) = &self.server_name
            && shared.relays.prober.is_some()
            && self.notes.is_due(now)
        {
            shared.relays.names.note(name, now);
        }
    }

    /// A request was forwarded to `server`, a peer. True if the client is to be asked to reconnect, since its next connection
    /// would be relayed; [`Self::leaving`] then resolves.
    pub fn forwarded(&self, shared: &Shared, server: &Arc<Server>) -> bool {
        let relays = &shared.relays;
        if relays.prober.is_none() {
            return false;
        }
        let now = Instant::now();
        let name = self.server_name.as_deref();
        let client = self
            .client
            .get_or_init(|| relays.hot.client(self.address, name, now));
        if !client.forwarded(server, now) || !self.looks.is_due(now) {
            return false;
        }
        let table = shared.table.load();
        let hello = ClientHelloFacts {
            readable: true,
            server_name: name,
            asks_about_server: relays.about.lately(self.address, now),
            hot: true,
            client: Some(client),
        };
        let probes = relays.probes(&table, name, now);
        let places = relays.registry.counts(&table);
        let open = shared.load.connections.load(Ordering::Relaxed);
        let view = relays.view(shared, &table, &probes, &places, open);
        if !matches!(decide(&hello, &view), RelayDecision::Relay { .. }) || !client.take_ask(now) {
            return false;
        }
        shared.metrics.relay_asked();
        tracing::debug!(client = %self.address, name, "client asked to reconnect: it will be relayed");
        self.leave.notify_one();
        true
    }

    /// Resolves once the client is to be asked to reconnect. For one waiter.
    pub async fn leaving(&self) {
        self.leave.notified().await;
    }
}

impl Every {
    /// Due at once.
    fn new(interval: Duration, now: Instant) -> Self {
        Self {
            start: now,
            interval,
            next: AtomicU64::new(0),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let elapsed = millis(now.saturating_duration_since(self.start));
        let next = self.next.load(Ordering::Relaxed);
        elapsed >= next
            && self
                .next
                .compare_exchange(
                    next,
                    elapsed.saturating_add(millis(self.interval)),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lets_one_through_in_an_interval() {
        let start = Instant::now();
        let every = Every::new(LOOK, start);
        let due: Vec<bool> = [0, 1, 249, 250, 251, 1000, 1001]
            .into_iter()
            .map(|millis| every.is_due(start + Duration::from_millis(millis)))
            .collect();
        assert_eq!(due, [true, false, false, true, false, true, false]);
    }
}
