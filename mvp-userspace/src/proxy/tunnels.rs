//! How many upgraded connections are open: for each client, and to other nodes' servers in all. Each takes a connection of its own
//! to a server, and with it one of few source ports.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::identity::ClientKey;

/// A source port is of no use for so long after its connection ended (TIME_WAIT, `TCP_TIMEWAIT_LEN` of Linux).
const COOLING: Duration = Duration::from_secs(60);

/// Shared by all data threads.
#[derive(Debug)]
pub struct Tunnels {
    per_client: usize,
    to_peers: usize,
    clients: Arc<Mutex<HashMap<ClientKey, usize>>>,
    peers: Arc<Mutex<PeerPorts>>,
}

/// Source ports that tunnels to other nodes take.
#[derive(Debug, Default)]
struct PeerPorts {
    open: usize,
    /// When those were given back that may not be used again yet, oldest first.
    cooling: VecDeque<Instant>,
    /// False if the kernel chooses source ports: then there is nothing to count.
    counted: bool,
}

/// One tunnel of one client, until dropped.
#[derive(Debug)]
pub struct ClientPlace {
    client: ClientKey,
    clients: Arc<Mutex<HashMap<ClientKey, usize>>>,
}

/// One tunnel to another node's server, until dropped.
#[derive(Debug)]
pub struct PeerPlace(Arc<Mutex<PeerPorts>>);

impl Tunnels {
    /// `source_ports`: how many the agent has towards other nodes. Half of them are for tunnels, so that requests find one whatever
    /// tunnels there are. `None`: as many as the kernel has.
    pub fn new(per_client: usize, source_ports: Option<usize>) -> Self {
        Self {
            per_client,
            to_peers: source_ports.map_or(usize::MAX, |ports| (ports / 2).max(1)),
            clients: Arc::default(),
            peers: Arc::new(Mutex::new(PeerPorts {
                counted: source_ports.is_some(),
                ..PeerPorts::default()
            })),
        }
    }

    /// `None`: the client has as many tunnels as it may have.
    pub fn enter(&self, client: ClientKey) -> Option<ClientPlace> {
        let mut clients = lock(&self.clients);
        let open = clients.entry(client).or_insert(0);
        if *open >= self.per_client {
            return None;
        }
        *open += 1;
        Some(ClientPlace {
            client,
            clients: Arc::clone(&self.clients),
        })
    }

    /// `None`: there are as many tunnels to other nodes as there may be, those that ended within the last minute included.
    pub fn enter_peer(&self, now: Instant) -> Option<PeerPlace> {
        let mut peers = lock(&self.peers);
        while peers
            .cooling
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= COOLING)
        {
            peers.cooling.pop_front();
        }
        if peers.open + peers.cooling.len() >= self.to_peers {
            return None;
        }
        peers.open += 1;
        Some(PeerPlace(Arc::clone(&self.peers)))
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut clients = lock(&self.clients);
        if let Some(open) = clients.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut peers = lock(&self.0);
        peers.open -= 1;
        if peers.counted {
            peers.cooling.push_back(Instant::now());
        }
    }
}

fn lock<T>(clients: &Mutex<T>) -> MutexGuard<'_, T> {
    // Counts stay what they are after a panic elsewhere.
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Caller, Credentials, Hasher};

    #[test]
    fn places_are_counted_and_given_back() {
        let (tunnels, hasher) = (Tunnels::new(2, Some(6)), Hasher::default());
        let client = |address: [u8; 4]| {
            hasher.client(address.into(), &Caller::Anonymous, Credentials::Anonymous)
        };
        let (one, two) = (client([10, 0, 0, 1]), client([10, 0, 0, 2]));
        let first = tunnels.enter(one).unwrap();
        let _second = tunnels.enter(one).unwrap();
        assert!(tunnels.enter(one).is_none());
        let _other = tunnels.enter(two).unwrap();
        drop(first);
        let _third = tunnels.enter(one).unwrap();
        assert!(tunnels.enter(one).is_none());

        let peer = |later: u64| tunnels.enter_peer(Instant::now() + Duration::from_secs(later));
        let peers: Vec<_> = (0..3).map(|_| peer(0).unwrap()).collect();
        assert!(peer(0).is_none());
        drop(peers);
        assert!(peer(0).is_none(), "their ports cannot be used yet");
        assert!(peer(61).is_some());
        drop((_second, _third, _other));
        assert!(
            lock(&tunnels.clients).is_empty(),
            "nothing is remembered of nobody"
        );
    }
}
