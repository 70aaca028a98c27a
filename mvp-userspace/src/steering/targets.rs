//! What to steer and what never, from the list of servers: addresses, since the kernel knows no names.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::config::{Config, Endpoint, Inspect, InspectMode, Network};
use crate::kernel::{LocalSource, Targets};
use crate::net::{is_this_node, this_node};

/// A resolver that does not answer must not hold up what is known without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names with the addresses they last had: one that cannot be resolved for a while is still the same server.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<String, Vec<IpAddr>>);

impl Addresses {
    /// Resolves the host names of all servers.
    pub(super) async fn targets(&mut self, config: &Config, members: &[Endpoint]) -> Targets {
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
        local_sources: local_sources(&config.inspect, &this_node()),
        peers: exempt,
        peer_ports: config.kernel.peer_ports.clone(),
    }
}

/// Whose connections are steered while the guard is idle: with `inspect: auto` those of clients on this node, among them the
/// controller manager, the scheduler and kubelet, which act on a 404. `node`: the addresses of this node's interfaces.
fn local_sources(inspect: &Inspect, node: &[IpAddr]) -> Vec<LocalSource> {
    if inspect.mode != InspectMode::Auto {
        return Vec::new();
    }
    let network = |steered: bool| {
        move |network: &Network| LocalSource {
            address: network.address,
            prefix: network.prefix,
            steered,
        }
    };
    let loopback = LocalSource {
        prefix: 8,
        ..LocalSource::address(Ipv4Addr::LOCALHOST.into())
    };
    let mut all = vec![loopback, LocalSource::address(Ipv6Addr::LOCALHOST.into())];
    all.extend(node.iter().copied().map(LocalSource::address));
    all.extend(inspect.local_sources.iter().map(network(true)));
    all.extend(inspect.except_sources.iter().map(network(false)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(mode: InspectMode) -> Inspect {
        let network = |address: &str, prefix| Network {
            address: address.parse().unwrap(),
            prefix,
        };
        Inspect {
            mode,
            local_sources: vec![network("10.9.0.0", 16)],
            except_sources: vec![network("10.0.0.100", 32)],
        }
    }

    #[test]
    fn clients_on_this_node_are_loopback_its_addresses_and_what_the_configuration_adds() {
        let node = ["10.0.0.1", "10.0.0.100", "fd00::1"].map(|a| a.parse().unwrap());
        let sources = local_sources(&inspect(InspectMode::Auto), &node);
        let shown = |steered| {
            let some = sources
                .iter()
                .filter(move |source| source.steered == steered);
            some.map(|s| format!("{}/{}", s.address, s.prefix))
                .collect::<Vec<_>>()
        };
        let steered = [
            "127.0.0.1/8",
            "::1/128",
            "10.0.0.1/32",
            "10.0.0.100/32",
            "fd00::1/128",
            "10.9.0.0/16",
        ];
        assert_eq!(shown(true), steered);
        assert_eq!(shown(false), ["10.0.0.100/32"]);
    }

    #[test]
    fn with_another_mode_nobody_is_steered_while_the_guard_is_idle() {
        for mode in [InspectMode::Armed, InspectMode::Always] {
            assert!(local_sources(&inspect(mode), &["10.0.0.1".parse().unwrap()]).is_empty());
        }
    }
}
