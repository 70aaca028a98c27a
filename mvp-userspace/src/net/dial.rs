//! Connections of the agent's own to kube-apiservers, from sources that steering lets pass on either side.
//!
//! Without reserved sources a node's `sk_lookup` program would give the agent its own connection back, and a peer's program
//! would give a forwarded request to the peer's agent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use tokio::net::{TcpSocket, TcpStream};

/// Source ports tried before a connection is given up. A port is of no use while a listener or another connection to the same
/// server has it, and for a minute after such a connection ended (TIME_WAIT).
const ATTEMPTS: u16 = 64;

/// Where connections come from. The default: wherever the kernel likes, for an agent that steers nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DialFrom(Option<Reserved>);

/// What steering lets pass ([`crate::kernel::Targets`]).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reserved {
    /// Loopback address that nobody else on the node uses. For every IPv4 address of this node.
    pub own_source: Ipv4Addr,
    /// Source ports for all other addresses, IPv6 addresses of this node among them: IPv6 has a single loopback address, which
    /// is not the agent's alone.
    pub peer_ports: RangeInclusive<u16>,
}

impl DialFrom {
    /// Wherever the kernel likes.
    pub fn anywhere() -> Self {
        Self(None)
    }

    /// From these addresses and ports, by which the kernel part knows the agent's own connections.
    pub fn reserved(reserved: Reserved) -> Self {
        Self(Some(reserved))
    }

    /// Whether the number of connections is bounded by reserved ports.
    pub fn is_reserved(&self) -> bool {
        self.0.is_some()
    }
}

/// Resolves `host` and connects to its first address that answers. No time limit of its own; cancel it by dropping it.
///
/// # Errors
/// The system's of the last address. `AddrInUse`: no reserved source port was free. A connection is never made from elsewhere
/// instead, since it could come back to an agent.
pub async fn dial(host: &str, port: u16, from: &DialFrom) -> io::Result<TcpStream> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    dial_any(&addresses, from).await
}

/// As [`dial`], to the first of these addresses that answers.
///
/// # Errors
/// The same as [`dial`].
pub async fn dial_any(addresses: &[SocketAddr], from: &DialFrom) -> io::Result<TcpStream> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut last = None;
    for &address in addresses {
        let connected = match &from.0 {
            None => TcpStream::connect(address).await,
            Some(reserved) => from_reserved(address, reserved).await,
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(none))
}

/// True for loopback addresses and those of this node's interfaces. Asked of the interfaces: whether an address can be bound
/// says nothing where `net.ipv4.ip_nonlocal_bind` is set, as it is on nodes with keepalived.
pub fn is_this_node(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if ip.is_loopback() {
        return true;
    }
    match interface_addresses() {
        Some(mut addresses) => addresses.any(|address| address == ip),
        None => std::net::UdpSocket::bind((ip, 0)).is_ok(),
    }
}

/// The addresses of this node's interfaces, without loopback ones; empty if the kernel does not say. Link-local IPv6 addresses
/// are among them.
pub fn this_node() -> Vec<IpAddr> {
    let addresses = interface_addresses().into_iter().flatten();
    let mut addresses: Vec<_> = addresses.filter(|address| !address.is_loopback()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// True if a connection could not be made for want of something on this node: source ports, descriptors, memory, or the right to
/// use them. It says nothing about the server. The numbers are those of `bind(2)`, `connect(2)` and `socket(2)`; some have
/// no kind in the standard library.
pub fn is_local_shortage(error: &io::Error) -> bool {
    use nix::libc;
    let by_number = matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRINUSE
                | libc::EADDRNOTAVAIL
                | libc::EACCES
                | libc::EPERM
                | libc::EAGAIN
        )
    );
    // Errors that say more than the system's have only the kind.
    let by_kind = matches!(
        error.kind(),
        io::ErrorKind::AddrInUse
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::OutOfMemory
    );
    by_number || by_kind
}

/// The address of this node that other nodes see: the one with which packets leave by the default route, as kube-apiserver
/// chooses its own (`apimachinery/pkg/util/net/interface.go`, `ChooseHostInterface`), else the first of an interface that is
/// neither loopback nor link-local. IPv4 before IPv6. Sends nothing.
pub fn outward_address() -> Option<IpAddr> {
    let routed = |from: &str, to: &str| {
        let socket = std::net::UdpSocket::bind(from).ok()?;
        // Documentation addresses (RFC 5737, RFC 3849): no network has a route of its own to them.
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let usable = |ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified();
    routed("0.0.0.0:0", "192.0.2.1:9")
        .filter(usable)
        .or_else(|| routed("[::]:0", "[2001:db8::1]:9").filter(usable))
        .or_else(|| {
            let mut found: Vec<_> = interface_addresses()?
                .filter(|ip| {
                    usable(ip)
                        && match ip {
                            IpAddr::V4(v4) => !v4.is_link_local(),
                            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
                        }
                })
                .collect();
            found.sort_by_key(IpAddr::is_ipv6);
            found.into_iter().next()
        })
}

/// `None`: the system does not say.
fn interface_addresses() -> Option<impl Iterator<Item = IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    Some(
        interfaces
            .filter_map(|interface| interface.address)
            .filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                let v6 = address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
                v4.or(v6)
            }),
    )
}

async fn from_reserved(to: SocketAddr, reserved: &Reserved) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    if to.is_ipv4() && is_this_node(to.ip()) {
        let socket = TcpSocket::new_v4()?;
        socket.bind((reserved.own_source, 0).into())?;
        return socket.connect(to).await;
    }
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    for port in candidates(&reserved.peer_ports, fastrand::u64(..)) {
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // One source port serves a connection to each server at a time.
        socket.set_reuseaddr(true)?;
        let connected = match socket.bind((any, port).into()) {
            Ok(()) => socket.connect(to).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(e) if is_taken(&e) => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && port < 1024 => {
                let problem = format!(
                    "source port {port}: {e} (CAP_NET_BIND_SERVICE is needed, or kernel.peerPorts above 1023)"
                );
                return Err(io::Error::new(e.kind(), problem));
            }
            done => return done,
        }
    }
    let problem = format!(
        "none of {ATTEMPTS} source ports tried in {}-{} is free (kernel.peerPorts)",
        reserved.peer_ports.start(),
        reserved.peer_ports.end()
    );
    Err(io::Error::new(io::ErrorKind::AddrInUse, problem))
}

/// Each port of the range at most once, from a random one on.
fn candidates(ports: &RangeInclusive<u16>, random: u64) -> impl Iterator<Item = u16> {
    let (first, last) = (u64::from(*ports.start()), u64::from(*ports.end()));
    let count = (last + 1).saturating_sub(first);
    (0..count.min(ATTEMPTS.into())).filter_map(move |i| {
        let offset = (random % count + i) % count;
        u16::try_from(first + offset).ok()
    })
}

/// EADDRINUSE from `bind`: somebody listens there, or has it without `SO_REUSEADDR`. EADDRNOTAVAIL from `connect`: there is a
/// connection from that port to that server already.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn reserved(ports: RangeInclusive<u16>) -> DialFrom {
        DialFrom::reserved(Reserved {
            own_source: Ipv4Addr::new(127, 66, 0, 1),
            peer_ports: ports,
        })
    }

    async fn listener(address: &str) -> (tokio::net::TcpListener, SocketAddr) {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn this_node_is_reached_from_the_own_source() {
        let (listener, address) = listener("127.0.0.1:0").await;
        let from = reserved(700..=999);
        let stream = dial("127.0.0.1", address.port(), &from).await.unwrap();
        let (_accepted, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, stream.local_addr().unwrap());
        assert_eq!(peer.ip(), IpAddr::from([127, 66, 0, 1]));
        let stream = dial("127.0.0.1", address.port(), &DialFrom::anywhere())
            .await
            .unwrap();
        assert_eq!(
            stream.local_addr().unwrap().ip(),
            IpAddr::from([127, 0, 0, 1])
        );
    }

    #[tokio::test]
    async fn other_addresses_are_reached_from_the_range_until_it_is_used_up() {
        // IPv6 stands for another node here: it takes the range even on this one.
        let (_listener, address) = listener("[::1]:0").await;
        let range = 21000..=21002;
        let from = reserved(range.clone());
        let mut open = Vec::new();
        for _ in range.clone() {
            open.push(dial_any(&[address], &from).await.unwrap());
        }
        let ports: BTreeSet<_> = open
            .iter()
            .map(|s| s.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports, range.collect());
        let error = dial_any(&[address], &from).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        assert!(error.to_string().contains("kernel.peerPorts"), "{error}");
        // Another server may have the same source port at the same time.
        let (_other, other) = listener_of(address).await;
        dial_any(&[other], &from).await.unwrap();
    }

    async fn listener_of(like: SocketAddr) -> (tokio::net::TcpListener, SocketAddr) {
        listener(&SocketAddr::new(like.ip(), 0).to_string()).await
    }

    #[test]
    fn shortages_of_this_node_are_known_from_failures_of_a_server() {
        use nix::libc;
        for (number, own) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::ENOBUFS, true),
            (libc::ENOMEM, true),
            (libc::EADDRINUSE, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::EACCES, true),
            (libc::EPERM, true),
            (libc::ECONNREFUSED, false),
            (libc::ECONNRESET, false),
            (libc::ETIMEDOUT, false),
            (libc::EHOSTUNREACH, false),
            (libc::ENETUNREACH, false),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(is_local_shortage(&error), own, "{error}");
        }
        let used_up = io::Error::new(io::ErrorKind::AddrInUse, "no source port is free");
        assert!(is_local_shortage(&used_up));
    }

    #[test]
    fn this_nodes_addresses_are_known() {
        for (ip, own) in [
            ("127.0.0.1", true),
            ("127.66.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_this_node(ip.parse().unwrap()), own, "{ip}");
        }
    }

    proptest! {
        #[test]
        fn candidates_are_of_the_range_and_differ(first: u16, length in 0..2000_u16, random: u64) {
            let range = first..=first.saturating_add(length);
            let found: Vec<_> = candidates(&range, random).collect();
            prop_assert!(found.iter().all(|port| range.contains(port)));
            let distinct: BTreeSet<_> = found.iter().collect();
            prop_assert_eq!(distinct.len(), found.len());
            prop_assert_eq!(found.len(), range.count().min(ATTEMPTS.into()));
        }
    }
}
