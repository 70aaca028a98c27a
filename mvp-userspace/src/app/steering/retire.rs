//! Ends connections that clients made with kube-apiserver itself before the guard armed, in a silent moment of each, so that
//! they come back through the agent.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::SteeringStats;
use super::stats::Retired;
use crate::config::Config;
use crate::net::{Established, Outcome, SILENCE, SockDiag, SockDiagError, plan};

/// Those that are silent at one moment are ended over this time, so that their clients do not all come back at once.
const WINDOW: Duration = Duration::from_secs(10);
/// How soon it is tried again whether connections can be ended here, while they cannot.
const RETRY: Duration = Duration::from_secs(10);
/// How soon a disarmed guard is noticed.
const STEP: Duration = Duration::from_millis(100);

/// Starts and stops the work; a thread of its own does it, since the kernel takes its time.
pub struct Retiring {
    port: u16,
    own_source: Ipv4Addr,
    peer_ports: RangeInclusive<u16>,
    stats: Arc<SteeringStats>,
    running: Option<Arc<AtomicBool>>,
}

/// One thread's work.
struct Round {
    port: u16,
    own_source: IpAddr,
    peers: Vec<IpAddr>,
    peer_ports: RangeInclusive<u16>,
    stats: Arc<SteeringStats>,
    go_on: Arc<AtomicBool>,
}

impl Retiring {
    pub fn new(config: &Config, stats: Arc<SteeringStats>) -> Self {
        Self {
            port: config.local.port,
            own_source: config.kernel.own_source,
            peer_ports: config.kernel.peer_ports.clone(),
            stats,
            running: None,
        }
    }

    /// Whether connections are to be retired now. `peers`: addresses of the other agents.
    pub fn set(&mut self, on: bool, peers: &[IpAddr]) {
        if on == self.running.is_some() {
            return;
        }
        if let Some(go_on) = self.running.take() {
            go_on.store(false, Ordering::Relaxed);
            return;
        }
        let go_on = Arc::new(AtomicBool::new(true));
        let round = Round {
            port: self.port,
            own_source: self.own_source.into(),
            peers: peers.to_vec(),
            peer_ports: self.peer_ports.clone(),
            stats: Arc::clone(&self.stats),
            go_on: Arc::clone(&go_on),
        };
        let thread = std::thread::Builder::new().name("retire".into());
        match thread.spawn(move || round.run()) {
            Ok(_) => self.running = Some(go_on),
            Err(error) => tracing::warn!(%error, "connections are not retired"),
        }
    }
}

impl Drop for Retiring {
    fn drop(&mut self) {
        if let Some(go_on) = &self.running {
            go_on.store(false, Ordering::Relaxed);
        }
    }
}

impl Round {
    fn run(&self) {
        // Again and again, since an operator may load the modules meanwhile.
        while !self.stats.retirable().probe() {
            if !self.wait_until(Instant::now() + RETRY) {
                return;
            }
        }
        if let Err(error) = SockDiag::open().and_then(|mut diag| self.rounds(&mut diag)) {
            tracing::warn!(%error, "connections made before the guard armed stay with kube-apiserver");
        }
    }

    fn rounds(&self, diag: &mut SockDiag) -> Result<(), SockDiagError> {
        while self.go_on() {
            let began = Instant::now();
            let mut connections = diag.established(self.port)?;
            // Listed after the connections: what the agent has accepted by then is in it.
            let own = own_inodes()?;
            connections.retain(|connection| self.is_clients(connection, &own));
            for planned in plan(connections, SILENCE, began, WINDOW) {
                if !self.wait_until(planned.at) {
                    return Ok(());
                }
                let outcome = diag.retire(&planned.connection, SILENCE)?;
                tracing::debug!(client = %planned.connection.remote(), ?outcome, "connection retired");
                self.stats.retired(match outcome {
                    Outcome::Destroyed => Retired::Destroyed,
                    Outcome::Active => Retired::Active,
                    Outcome::Gone => Retired::Gone,
                });
            }
            // Soon again: a connection becomes silent at any time.
            self.wait_until(began + SILENCE);
        }
        Ok(())
    }

    /// A connection of a client with kube-apiserver: neither this agent's, accepted or made, nor a peer's agent's.
    fn is_clients(&self, connection: &Established, own: &HashSet<u32>) -> bool {
        let remote = connection.remote();
        let of_agent = remote.ip() == self.own_source
            || self.peers.contains(&remote.ip()) && self.peer_ports.contains(&remote.port());
        // 0: it waits in an accept queue.
        !of_agent && connection.inode() != 0 && !own.contains(&connection.inode())
    }

    /// False if the work is over.
    fn wait_until(&self, at: Instant) -> bool {
        while self.go_on() {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(STEP));
        }
        false
    }

    fn go_on(&self) -> bool {
        self.go_on.load(Ordering::Relaxed)
    }
}

/// Sockets of this process. A steered connection has kube-apiserver's port as its own, and only this tells it from one of
/// kube-apiserver's.
fn own_inodes() -> std::io::Result<HashSet<u32>> {
    let mut inodes = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // A descriptor may be closed meanwhile.
        let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else {
            continue;
        };
        let name = target.to_string_lossy();
        let inode: Option<u32> = name
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .and_then(|number| number.parse().ok());
        inodes.extend(inode);
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn own_connections_are_known_by_their_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let Ok(mut diag) = SockDiag::open() else {
            return;
        };
        let found = diag.established(port).unwrap();
        let own = own_inodes().unwrap();
        assert_eq!(found.len(), 1);
        assert!(found.iter().all(|one| own.contains(&one.inode())));
        drop(accepted);
        let own = own_inodes().unwrap();
        assert!(!found.iter().any(|one| own.contains(&one.inode())));
    }
}
