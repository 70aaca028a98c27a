//! What to steer and what never, from the list of servers: addresses, since the kernel knows no names.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Config, Endpoint};
use crate::kernel::Targets;
use crate::net::is_this_node;

/// A resolver that does not answer must not hold up what is known without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names with the addresses they last had: one that cannot be resolved for a while is still the same server.
#[derive(Debug, Default)]
pub struct Addresses(HashMap<String, Vec<IpAddr>>);

impl Addresses {
    /// Resolves the host names of all servers.
    pub async fn targets(&mut self, config: &Config, members: &[Endpoint]) -> Targets {
        let mut peers = Vec::new();
        for member in members {
            peers.extend(self.resolve(&member.host).await);
        }
        let mut own = self.resolve(&config.local.host).await;
        own.extend(config.advertise.map(|address| address.ip()));
        targets(config, peers, &own)
    }

    async fn resolve(&mut self, host: &str) -> Vec<IpAddr> {
        if let Ok(address) = host.parse() {
            return vec![address];
        }
        let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, 0))).await;
        if let Ok(Ok(found)) = found {
            let found: Vec<_> = found.map(|address| address.ip()).collect();
            if !found.is_empty() {
                self.0.insert(host.to_owned(), found);
            }
        }
        self.0.get(host).cloned().unwrap_or_default()
    }
}

/// The agent reaches IPv6 addresses of this node from a reserved port, as it reaches peers ([`crate::net::Reserved`]).
fn targets(config: &Config, peers: Vec<IpAddr>, own: &[IpAddr]) -> Targets {
    let mut exempt: Vec<_> = peers
        .into_iter()
        .chain(own.iter().copied())
        .map(|address| address.to_canonical())
        .filter(|address| address.is_ipv6() || !is_this_node(*address))
        .collect();
    exempt.sort_unstable();
    exempt.dedup();
    Targets {
        ports: vec![config.local.port],
        own_sources: vec![config.kernel.own_source.into()],
        peers: exempt,
        peer_ports: config.kernel.peer_ports.clone(),
    }
}
