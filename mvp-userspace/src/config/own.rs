//! Static peers that are the local server itself, under another name or address. The agent would count one server twice, and
//! where it listens on the same port it would call itself.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use super::tree::Tree;
use super::{Config, ConfigError, Endpoint};

/// A resolver that does not answer must not hold up the start for longer, for each peer that is given by a name.
const PATIENCE: Duration = Duration::from_secs(1);

/// What this node knows of itself and of names.
pub(super) trait ThisNode {
    /// Whether an address is one of this node's, loopback addresses included.
    fn has(&self, address: IpAddr) -> bool;
    /// The addresses of a name; empty if it cannot be resolved now.
    fn resolve(&self, name: &str) -> Vec<IpAddr>;
    /// The host's name.
    fn name(&self) -> Option<String>;
}

/// This node as the system reports it.
pub(super) struct System;

/// Refuses a peer that is the local server.
pub(super) fn check(config: &Config, tree: &Tree, node: &dyn ThisNode) -> Result<(), ConfigError> {
    for (i, peer) in config.peers.fixed.iter().enumerate() {
        let local = peer.port == config.local.port;
        // A listener of one address is another one's, unless it is the very same: `rules` sees to that.
        let listener = peer.port == config.listen.port() && config.listen.ip().is_unspecified();
        if !local && !listener {
            continue;
        }
        let Some(why) = own(peer, config, node) else {
            continue;
        };
        let what = match local {
            true => "the local server, which local.url names already",
            false => "listen: the agent would call itself",
        };
        let problem = format!("{}:{} is {what}: {why}", peer.host, peer.port);
        return Err(tree.fail(&format!("peers.static[{i}].url"), problem));
    }
    Ok(())
}

/// Why the peer's host is this node, if it is.
fn own(peer: &Endpoint, config: &Config, node: &dyn ThisNode) -> Option<String> {
    if let Ok(address) = peer.host.parse::<IpAddr>() {
        let address = address.to_canonical();
        // Each server of a test has a loopback address of its own, by which it is distinguished.
        let told_apart = address.is_loopback() && is_loopback(&config.local);
        let own = address.is_unspecified() || (node.has(address) && !told_apart);
        return own.then(|| format!("{address} is an address of this node"));
    }
    let host = peer.host.trim_end_matches('.').to_ascii_lowercase();
    if is_localhost(&host) {
        return Some(format!("{host} is this node, whichever it is"));
    }
    let names = [Some(config.node.clone()), node.name()];
    if names
        .iter()
        .flatten()
        .any(|name| name.eq_ignore_ascii_case(&host))
    {
        return Some(format!("{host} is the name of this node"));
    }
    let found = node.resolve(&host).into_iter();
    let own = found.map(|a| a.to_canonical()).find(|a| node.has(*a))?;
    Some(format!("{host} is {own}, an address of this node"))
}

fn is_loopback(local: &Endpoint) -> bool {
    let address = local.host.parse::<IpAddr>();
    is_localhost(&local.host) || address.is_ok_and(|address| address.is_loopback())
}

/// RFC 6761 section 6.3.
fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

impl ThisNode for System {
    fn has(&self, address: IpAddr) -> bool {
        crate::net::is_this_node(address)
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let (sender, receiver) = mpsc::channel();
        let name = name.to_owned();
        // The thread outlives a resolver that does not answer; it holds nothing.
        let started = std::thread::Builder::new().spawn(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            let found: Vec<_> = found.into_iter().flatten().map(|a| a.ip()).collect();
            // An error: nobody waits any more.
            let _ = sender.send(found);
        });
        match started {
            Ok(_) => receiver.recv_timeout(PATIENCE).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    fn name(&self) -> Option<String> {
        super::build::host_name()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{build, load};
    use super::*;

    struct Fake;

    impl ThisNode for Fake {
        fn has(&self, address: IpAddr) -> bool {
            address.is_loopback() || ["10.0.0.1", "fd00::1"].contains(&address.to_string().as_str())
        }

        fn resolve(&self, name: &str) -> Vec<IpAddr> {
            match name {
                "api.example" => vec!["10.0.0.1".parse().unwrap()],
                // As Debian has it in /etc/hosts.
                "alias.example" => vec!["127.0.1.1".parse().unwrap()],
                "b.example" => vec!["10.0.0.2".parse().unwrap()],
                _ => Vec::new(),
            }
        }

        fn name(&self) -> Option<String> {
            Some("host-a".into())
        }
    }

    fn checked(local: &str, peer: &str) -> Result<(), String> {
        let text = format!(
            "{{apiVersion: mvp/v1, node: cp-a, listen: '0.0.0.0:16443', serving: {{certFile: c, keyFile: k}}, \
             upstream: {{caFile: ca}}, local: {{url: '{local}'}}, peers: {{static: [{{name: cp-b, url: '{peer}'}}]}}}}"
        );
        let tree = load::tree(&text, Path::new("/"));
        let config = build::build(&tree).unwrap();
        check(&config, &tree, &Fake).map_err(|error| error.to_string())
    }

    #[test]
    fn a_peer_that_is_the_local_server_is_refused() {
        for local in ["https://127.0.0.1:6443", "https://10.0.0.1:6443"] {
            for host in [
                "10.0.0.1",
                "[fd00::1]",
                "[::ffff:10.0.0.1]",
                "0.0.0.0",
                "localhost",
                "LOCALHOST.",
                "x.localhost",
                "cp-a",
                "HOST-A",
                "api.example",
                "alias.example",
            ] {
                for (port, what) in [(6443, "the local server"), (16443, "listen")] {
                    let refused = checked(local, &format!("https://{host}:{port}")).unwrap_err();
                    assert!(refused.starts_with("peers.static[0].url: "), "{refused}");
                    assert!(refused.contains(what), "{refused}");
                }
                assert_eq!(checked(local, &format!("https://{host}:7443")), Ok(()));
            }
            for host in ["10.0.0.2", "b.example", "unknown.example"] {
                assert_eq!(checked(local, &format!("https://{host}:6443")), Ok(()));
            }
        }
    }

    #[test]
    fn loopback_addresses_are_the_local_servers_unless_it_has_one_itself() {
        assert!(checked("https://10.0.0.1:6443", "https://127.0.0.1:6443").is_err());
        assert!(checked("https://10.0.0.1:6443", "https://[::1]:6443").is_err());
        assert_eq!(
            checked("https://127.0.0.2:6443", "https://127.0.0.3:6443"),
            Ok(())
        );
    }
}
