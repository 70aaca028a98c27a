//! What types and ranges cannot say: rules between keys. Pure.

use std::collections::HashMap;

use rustls_pki_types::ServerName;

use super::tree::Tree;
use super::*;

/// More requests per second than any client sends.
const MAX_RELAY_RATE: f64 = 100_000.0;

pub(super) fn rules(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    value::name(&config.node).map_err(|problem| tree.fail("node", problem))?;
    ServerName::try_from(config.upstream.server_name.as_str()).map_err(|_| {
        let problem = format!("{:?} is no server name", config.upstream.server_name);
        tree.fail("upstream.serverName", problem)
    })?;
    sni_names(config, tree)?;
    peers(config, tree)?;
    listeners(config, tree)?;
    if let Some(headers) = &config.request_header {
        header_names(headers, tree)?;
    }
    if config.peers.kubernetes.kubeconfig.is_some() && !config.peers.kubernetes.enabled {
        let problem = "set, though peers.kubernetes.enabled is false";
        return Err(tree.fail("peers.kubernetes.kubeconfig", problem));
    }
    if config.discovery.stale_after <= config.discovery.interval {
        let problem = "must be longer than discovery.interval, or knowledge is always stale";
        return Err(tree.fail("discovery.staleAfter", problem));
    }
    if config.discovery.stale_after <= config.discovery.idle_interval {
        let problem = "must be shorter than discovery.staleAfter, or knowledge is stale while nothing changes";
        return Err(tree.fail("discovery.idleInterval", problem));
    }
    // Without steering the guard never disarms.
    let disarms = config.kernel.steering != Mode::Off;
    if disarms && config.kernel.settle <= config.discovery.interval {
        let problem = "must be longer than discovery.interval, or a single poll disarms the guard";
        return Err(tree.fail("kernel.settle", problem));
    }
    relay(config, tree)?;
    if config.limits.pending_handshakes > config.limits.connections {
        let problem = "must not be above limits.connections";
        return Err(tree.fail("limits.pendingHandshakes", problem));
    }
    header_bytes(&config.limits, tree)?;
    steering(config, tree)?;
    // Who says `on` relies on it: better no start than one that only looks as if.
    if config.kernel.shortcut == Mode::On && config.kernel.steering == Mode::Off {
        let problem = "needs kernel.steering, which gives the agent's connections a source address of their own";
        return Err(tree.fail("kernel.shortcut", problem));
    }
    Ok(())
}

/// A name that no client can ask for would never be answered for.
fn sni_names(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    for (i, sni) in config.sni.iter().enumerate() {
        for name in &sni.names {
            let bare = name.strip_prefix("*.").unwrap_or(name);
            ServerName::try_from(bare).map_err(|_| {
                let problem = format!("{name:?} is neither a DNS name nor an address");
                tree.fail(&format!("sni[{i}].names"), problem)
            })?;
        }
    }
    Ok(())
}

/// A single request that one limit allows must not be too much for another.
fn header_bytes(limits: &Limits, tree: &Tree) -> Result<(), ConfigError> {
    let one = limits.header_bytes as usize;
    if limits.header_bytes_per_connection < one {
        let problem = "must not be below limits.headerBytes";
        return Err(tree.fail("limits.headerBytesPerConnection", problem));
    }
    // A quarter is kept for small requests.
    if limits.header_bytes_total / 4 * 3 < one {
        let problem = "must be a third more than limits.headerBytes at least";
        return Err(tree.fail("limits.headerBytesTotal", problem));
    }
    Ok(())
}

/// Ports and addresses that are exempt from steering must be the agent's alone.
fn steering(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    let own = std::net::IpAddr::V4(config.kernel.own_source);
    for (key, address) in [
        ("listen", config.listen.ip().to_string()),
        ("local.url", config.local.host.clone()),
        ("admin.listen", config.admin.listen.ip().to_string()),
    ] {
        if address == own.to_string() {
            let problem = format!("{own} is {key}'s address: it must be nobody's");
            return Err(tree.fail("kernel.ownSource", problem));
        }
    }
    for (key, port) in [
        ("listen", config.listen.port()),
        ("local.url", config.local.port),
        ("admin.listen", config.admin.listen.port()),
    ] {
        if config.kernel.peer_ports.contains(&port) {
            let problem = format!("holds {port}, the port of {key}");
            return Err(tree.fail("kernel.peerPorts", problem));
        }
    }
    Ok(())
}

fn relay(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    // Who asks for it relies on it, and nothing would be relayed.
    if config.relay.mode == Mode::Off && config.relay.without_server_name {
        let problem = "true, though relay.mode is off";
        return Err(tree.fail("relay.withoutServerName", problem));
    }
    let per_second = f64::from(config.relay.after) / config.relay.window.as_secs_f64();
    if per_second > MAX_RELAY_RATE {
        let problem = format!(
            "{} within relay.window is {per_second:.0} requests a second: no client would ever be relayed",
            config.relay.after
        );
        return Err(tree.fail("relay.after", problem));
    }
    Ok(())
}

fn peers(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    let mut names = HashMap::from([(config.node.as_str(), "node".to_owned())]);
    let mut places = HashMap::from([(
        (config.local.host.as_str(), config.local.port),
        "local.url".to_owned(),
    )]);
    let advertised = config.advertise.map(|a| (a.ip().to_string(), a.port()));
    if let Some((host, port)) = &advertised {
        places.insert((host, *port), "local.advertise".to_owned());
    }
    for (i, peer) in config.peers.fixed.iter().enumerate() {
        let (name, url) = (
            format!("peers.static[{i}].name"),
            format!("peers.static[{i}].url"),
        );
        value::name(&peer.name).map_err(|problem| tree.fail(&name, problem))?;
        if let Some(other) = names.insert(&peer.name, name.clone()) {
            return Err(tree.fail(&name, format!("{:?} is already {other}", peer.name)));
        }
        if let Some(other) = places.insert((&peer.host, peer.port), url.clone()) {
            let problem = format!("{}:{} is already {other}", peer.host, peer.port);
            return Err(tree.fail(&url, problem));
        }
    }
    Ok(())
}

/// The agent must not call itself.
fn listeners(config: &Config, tree: &Tree) -> Result<(), ConfigError> {
    let is_listen = |server: &Endpoint| {
        server.port == config.listen.port()
            && server
                .host
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip == config.listen.ip())
    };
    // The local server is on this host: whatever address it has, a wildcard listener has it too.
    let covers_local =
        config.listen.ip().is_unspecified() && config.local.port == config.listen.port();
    if is_listen(&config.local) || covers_local {
        return Err(tree.fail("listen", "is local.url: the agent would call itself"));
    }
    for (i, peer) in config.peers.fixed.iter().enumerate() {
        if is_listen(peer) {
            let problem = "is listen: the agent would call itself";
            return Err(tree.fail(&format!("peers.static[{i}].url"), problem));
        }
    }
    let admin = &config.admin;
    if admin.listen == config.listen {
        return Err(tree.fail("admin.listen", "is the same as listen"));
    }
    Ok(())
}

fn header_names(headers: &RequestHeader, tree: &Tree) -> Result<(), ConfigError> {
    for (key, names, needed) in [
        ("usernameHeaders", &headers.username_headers, true),
        ("uidHeaders", &headers.uid_headers, false),
        ("groupHeaders", &headers.group_headers, false),
        ("extraHeaderPrefixes", &headers.extra_header_prefixes, false),
    ] {
        let key = format!("requestHeader.{key}");
        if needed && names.is_empty() {
            return Err(tree.fail(&key, "needs at least one header"));
        }
        for name in names {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(tree.fail(&key, format!("{name:?} is no header name")));
            }
        }
    }
    Ok(())
}
