//! Connections that clients have with the servers themselves, past any agent, as the kernel has them.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use mvp::net::SockDiag;

use crate::nodes::{Cluster, PORT};

/// Looks at them until dropped.
pub struct Direct {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<()>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    now: usize,
    /// When there was one for the last time.
    last: Option<Instant>,
    looks: u64,
}

struct Looked {
    diag: SockDiag,
    server: u32,
}

const STEP: Duration = Duration::from_millis(200);

impl Direct {
    /// Watches the servers' connections with clients at these addresses.
    pub fn watch(cluster: &Cluster, clients: Vec<IpAddr>) -> Result<Self> {
        let mut nodes = Vec::new();
        for node in &cluster.nodes {
            nodes.push(Looked {
                // A socket stays in the namespace in which it was made.
                diag: node.place.namespace.run(SockDiag::open)??,
                server: node.server().pid(),
            });
        }
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let stop = Arc::new(());
        let (shared, alive) = (Arc::clone(&seen), Arc::downgrade(&stop));
        let thread = std::thread::spawn(move || {
            while alive.strong_count() > 0 {
                let at = Instant::now();
                let counts = nodes.iter_mut().map(|node| node.count(&clients));
                let now = counts.map(Result::unwrap_or_default).sum();
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                seen.now = now;
                seen.looks += 1;
                if now > 0 {
                    seen.last = Some(at);
                }
                drop(seen);
                std::thread::sleep(STEP);
            }
        });
        Ok(Self {
            seen,
            stop,
            thread: Some(thread),
        })
    }

    /// How many there are, after a look that begins from now on.
    pub fn now(&self) -> usize {
        let before = self.seen().looks;
        while self.seen().looks < before + 2 {
            std::thread::sleep(STEP / 4);
        }
        self.seen().now
    }

    /// When there was one for the last time.
    pub fn last(&self) -> Option<Instant> {
        self.seen().last
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.stop = Arc::new(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Looked {
    fn count(&mut self, clients: &[IpAddr]) -> Result<usize> {
        let all = self.diag.established(PORT)?;
        let mut of_clients = all
            .iter()
            .filter(|one| clients.contains(&one.remote().ip().to_canonical()))
            .peekable();
        if of_clients.peek().is_none() {
            return Ok(0);
        }
        // The agent's sockets have the same port.
        let of_server = sockets(self.server)?;
        Ok(of_clients
            .filter(|one| of_server.contains(&one.inode()))
            .count())
    }
}

/// The inodes of a process' sockets.
fn sockets(process: u32) -> Result<HashSet<u32>> {
    let mut inodes = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // A descriptor may be closed meanwhile.
        let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else {
            continue;
        };
        let name = target.to_string_lossy();
        let inode: Option<u32> = name
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        inodes.extend(inode);
    }
    Ok(inodes)
}
