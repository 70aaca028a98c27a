//! Tree -> Config: types, ranges and defaults, all from the key table. Pure but for the host's name, core count and limit of open files.

use super::tree::Tree;
use super::*;
use crate::net::{connections_for, hard_limit};

pub(super) fn build(tree: &Tree) -> Result<Config, ConfigError> {
    tree.choice("apiVersion")?;
    let node = match tree.text("node")? {
        Some(node) => node,
        None => {
            // In lower case as kubelet names the Node by default, which is how the other nodes know this one.
            let name = host_name().map(|name| name.to_ascii_lowercase());
            name.ok_or_else(|| tree.fail("node", "missing, and the host has no name"))?
        }
    };
    let listen = need_address(tree, "listen")?;
    Ok(Config {
        local: endpoint(tree, &node, "local.url")?,
        node,
        listen,
        serving: KeyPair {
            cert_file: tree.need_path("serving.certFile")?,
            key_file: tree.need_path("serving.keyFile")?,
        },
        serving_http2: http2(tree, "serving.http2")?,
        sni: (0..tree.len("sni"))
            .map(|i| sni(tree, i))
            .collect::<Result<_, _>>()?,
        client_ca_file: tree.path("clientCAFile")?,
        request_header: request_header(tree)?,
        upstream: upstream(tree)?,
        advertise: tree.address("local.advertise")?,
        peers: Peers {
            fixed: (0..tree.len("peers.static"))
                .map(|i| peer(tree, i))
                .collect::<Result<_, _>>()?,
            kubernetes: KubernetesPeers {
                enabled: tree.flag("peers.kubernetes.enabled")?,
                kubeconfig: tree.path("peers.kubernetes.kubeconfig")?,
            },
        },
        admin: Admin {
            listen: need_address(tree, "admin.listen")?,
            hosts: tree.list("admin.hosts")?,
            socket: tree.need_path("admin.socket")?,
        },
        kernel: Kernel {
            steering: mode(tree, "kernel.steering")?,
            splice: match tree.choice("kernel.splice")?.as_str() {
                "sockmap" => SpliceMode::Sockmap,
                "splice" => SpliceMode::Splice,
                "copy" => SpliceMode::Copy,
                _ => SpliceMode::Auto,
            },
            shortcut: mode(tree, "kernel.shortcut")?,
            pin_path: tree.need_path("kernel.pinPath")?,
            settle: tree.duration("kernel.settle")?,
            own_source: own_source(tree)?,
            peer_ports: peer_ports(tree)?,
            manifest: tree.need_path("kernel.manifest")?,
        },
        inspect: Inspect {
            mode: match tree.choice("inspect.mode")?.as_str() {
                "always" => InspectMode::Always,
                "armed" => InspectMode::Armed,
                _ => InspectMode::Auto,
            },
            local_sources: networks(tree, "inspect.localSources")?,
            except_sources: networks(tree, "inspect.exceptSources")?,
        },
        retire: Retire {
            within: tree.duration("retire.within")?,
        },
        relay: Relay {
            mode: mode(tree, "relay.mode")?,
            after: tree.count("relay.after")?,
            window: tree.duration("relay.window")?,
            max_share: tree.share("relay.maxShare")?,
            without_server_name: tree.flag("relay.withoutServerName")?,
            certificate_age: CERTIFICATE_AGE,
        },
        threads: match tree.need("threads")?.as_str() {
            "auto" => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
            _ => tree.count("threads")?,
        },
        limits: limits(tree)?,
        discovery: Discovery {
            interval: tree.duration("discovery.interval")?,
            idle_interval: tree.duration("discovery.idleInterval")?,
            timeout: tree.duration("discovery.timeout")?,
            refresh: tree.duration("discovery.refresh")?,
            stale_after: tree.duration("discovery.staleAfter")?,
            max_bytes: tree.count("discovery.maxBytes")?,
            retain: tree.duration("discovery.retain")?,
        },
        drain: Drain {
            deadline: tree.duration("drain.deadline")?,
            wait_when_replaced: tree.flag("drain.waitWhenReplaced")?,
        },
        interoperability_proxy: true,
        manifest: None,
    })
}

fn limits(tree: &Tree) -> Result<Limits, ConfigError> {
    let pending: usize = tree.count("limits.pendingHandshakes")?;
    let (connections, pending_handshakes) = match tree.need("limits.connections")?.as_str() {
        "auto" => {
            let possible = connections_for(hard_limit(), None);
            (possible, pending.min(possible))
        }
        _ => (tree.count("limits.connections")?, pending),
    };
    Ok(Limits {
        connections,
        pending_handshakes,
        handshake_timeout: tree.duration("limits.handshakeTimeout")?,
        header_timeout: tree.duration("limits.headerTimeout")?,
        header_bytes: tree.count("limits.headerBytes")?,
        header_bytes_per_connection: tree.count("limits.headerBytesPerConnection")?,
        header_bytes_total: tree.count("limits.headerBytesTotal")?,
        header_count: tree.count("limits.headerCount")?,
        streams_per_connection: tree.count("limits.streamsPerConnection")?,
        pending_resets: tree.count("limits.pendingResets")?,
        cancellations: tree.count("limits.cancellations")?,
        tunnels_per_client: tree.count("limits.tunnelsPerClient")?,
        idle_timeout: tree.duration("limits.idleTimeout")?,
        response_timeout: tree.duration("limits.responseTimeout")?,
    })
}

fn sni(tree: &Tree, i: usize) -> Result<SniCertificate, ConfigError> {
    Ok(SniCertificate {
        pair: KeyPair {
            cert_file: tree.need_path(&format!("sni[{i}].certFile"))?,
            key_file: tree.need_path(&format!("sni[{i}].keyFile"))?,
        },
        names: tree.list(&format!("sni[{i}].names"))?,
    })
}

fn request_header(tree: &Tree) -> Result<Option<RequestHeader>, ConfigError> {
    if !tree.has("requestHeader.") {
        return Ok(None);
    }
    Ok(Some(RequestHeader {
        client_ca_file: tree.need_path("requestHeader.clientCAFile")?,
        allowed_names: tree.list("requestHeader.allowedNames")?,
        username_headers: tree.list("requestHeader.usernameHeaders")?,
        uid_headers: tree.list("requestHeader.uidHeaders")?,
        group_headers: tree.list("requestHeader.groupHeaders")?,
        extra_header_prefixes: tree.list("requestHeader.extraHeaderPrefixes")?,
    }))
}

fn upstream(tree: &Tree) -> Result<Upstream, ConfigError> {
    let cert_file = tree.path("upstream.clientCertFile")?;
    let key_file = tree.path("upstream.clientKeyFile")?;
    let client = match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => Some(KeyPair {
            cert_file,
            key_file,
        }),
        (None, None) => None,
        (Some(_), None) => {
            let problem = "missing, though upstream.clientCertFile is set";
            return Err(tree.fail("upstream.clientKeyFile", problem));
        }
        (None, Some(_)) => {
            let problem = "missing, though upstream.clientKeyFile is set";
            return Err(tree.fail("upstream.clientCertFile", problem));
        }
    };
    Ok(Upstream {
        ca_file: tree.need_path("upstream.caFile")?,
        server_name: tree.need("upstream.serverName")?,
        client,
        connect_timeout: tree.duration("upstream.connectTimeout")?,
        ping_interval: tree.duration("upstream.pingInterval")?,
        ping_timeout: tree.duration("upstream.pingTimeout")?,
        http2: http2(tree, "upstream.http2")?,
        connections: tree.count("upstream.connections")?,
    })
}

fn http2(tree: &Tree, key: &str) -> Result<Http2, ConfigError> {
    Ok(match tree.choice(key)?.as_str() {
        "h2" => Http2::Library,
        _ => Http2::Own,
    })
}

fn peer(tree: &Tree, i: usize) -> Result<Endpoint, ConfigError> {
    let name = tree.need(&format!("peers.static[{i}].name"))?;
    endpoint(tree, &name, &format!("peers.static[{i}].url"))
}

fn endpoint(tree: &Tree, name: &str, key: &str) -> Result<Endpoint, ConfigError> {
    value::endpoint(name, &tree.need(key)?).map_err(|problem| tree.fail(key, problem))
}

fn need_address(tree: &Tree, key: &str) -> Result<std::net::SocketAddr, ConfigError> {
    tree.address(key)?.ok_or_else(|| tree.fail(key, "missing"))
}

fn own_source(tree: &Tree) -> Result<std::net::Ipv4Addr, ConfigError> {
    const KEY: &str = "kernel.ownSource";
    let text = tree.need(KEY)?;
    let wrong = |problem: &str| tree.fail(KEY, format!("{text:?} {problem}"));
    let address: std::net::Ipv4Addr = text.parse().map_err(|_| wrong("is no IPv4 address"))?;
    if !address.is_loopback() || address == std::net::Ipv4Addr::LOCALHOST {
        return Err(wrong(
            "must be in 127.0.0.0/8, and not 127.0.0.1, which everybody uses",
        ));
    }
    Ok(address)
}

/// `FIRST-LAST`
fn peer_ports(tree: &Tree) -> Result<std::ops::RangeInclusive<u16>, ConfigError> {
    const KEY: &str = "kernel.peerPorts";
    let text = tree.need(KEY)?;
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let range = text
        .split_once('-')
        .and_then(|(first, last)| Some(port(first)?..=port(last)?))
        .filter(|range| !range.is_empty());
    range.ok_or_else(|| {
        tree.fail(
            KEY,
            format!("{text:?} is no range of ports such as 700-999"),
        )
    })
}

fn networks(tree: &Tree, key: &str) -> Result<Vec<Network>, ConfigError> {
    let texts = tree.list(key)?;
    let read = |text: &String| value::network(text).map_err(|problem| tree.fail(key, problem));
    texts.iter().map(read).collect()
}

fn mode(tree: &Tree, key: &str) -> Result<Mode, ConfigError> {
    Ok(match tree.choice(key)?.as_str() {
        "on" => Mode::On,
        "off" => Mode::Off,
        _ => Mode::Auto,
    })
}

/// As kube-apiserver, which names itself by `os.Hostname`.
pub(super) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
