//! Which servers have answered. Discovery says so, and the roster asks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Endpoint;

/// The servers that have reported at least once, to this agent or an earlier one, what they serve. Only such a server is worth a 503
/// while it is away: it is not known whether one that never answered ever was a kube-apiserver. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reached(Arc<Mutex<BTreeSet<(String, u16)>>>);

impl Reached {
    /// The server has answered.
    pub fn mark(&self, server: &Endpoint) {
        self.lock().insert(server.address());
    }

    /// Whether the server at this address has answered since it became a member.
    pub fn contains(&self, host: &str, port: u16) -> bool {
        self.lock().contains(&(host.to_owned(), port))
    }

    /// Forgets all servers but these.
    pub fn retain<'a>(&self, servers: impl IntoIterator<Item = &'a Endpoint>) {
        let kept: BTreeSet<_> = servers.into_iter().map(Endpoint::address).collect();
        self.lock().retain(|server| kept.contains(server));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(String, u16)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
