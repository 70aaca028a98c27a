//! The configuration file's shape. `docs/configuration.md` is written from these comments.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::ManifestSource;

/// A whole configuration with every default filled in and every path absolute.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of the local server in routes, metrics and logs.
    pub node: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    pub serving: KeyPair,
    /// Towards clients.
    pub serving_http2: Http2,
    /// Further certificates, chosen by the name a client asks for, as kube-apiserver's `--tls-sni-cert-key`.
    pub sni: Vec<SniCertificate>,
    pub client_ca_file: Option<PathBuf>,
    pub request_header: Option<RequestHeader>,
    pub upstream: Upstream,
    pub local: Endpoint,
    /// Where the other nodes reach the local server, when that is not `local`: the address it has in EndpointSlices,
    /// kube-apiserver's `--peer-advertise-ip` and `--peer-advertise-port`.
    pub advertise: Option<SocketAddr>,
    pub peers: Peers,
    pub admin: Admin,
    pub kernel: Kernel,
    pub inspect: Inspect,
    pub retire: Retire,
    pub relay: Relay,
    /// Data threads, each a current-thread runtime.
    pub threads: usize,
    pub limits: Limits,
    pub discovery: Discovery,
    pub drain: Drain,
    /// `--feature-gates=UnknownVersionInteroperabilityProxy=false`: everything is answered by the local server.
    pub interoperability_proxy: bool,
    /// The manifest that all this was made from, which is followed.
    pub manifest: Option<ManifestSource>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct KeyPair {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SniCertificate {
    pub pair: KeyPair,
    /// Names to answer for; empty: the names in the certificate. `*.` prefixes as kube-apiserver has them.
    pub names: Vec<String>,
}

/// Trust in a front proxy that asserts users by header, as kube-apiserver's `--requestheader-*` flags.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHeader {
    pub client_ca_file: PathBuf,
    /// Common names; empty: any certificate of that CA.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_header_prefixes: Vec<String>,
}

/// How the agent reaches kube-apiservers.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub ca_file: PathBuf,
    /// The name verified in every server's certificate, and sent as SNI.
    pub server_name: String,
    /// The front-proxy pair with which users are asserted. Without it only tokens can be forwarded.
    pub client: Option<KeyPair>,
    pub connect_timeout: Duration,
    /// HTTP/2 PING after this much silence; a server that does not answer within `ping_timeout` is dead.
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    pub http2: Http2,
    /// HTTP/2 connections per (thread, server, identity class) kept before streams share them more densely.
    pub connections: usize,
}

/// What speaks HTTP/2, to servers or to clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Http2 {
    /// The h2 crate.
    Library,
    /// The agent's own (`h2wire`).
    Own,
}

/// A kube-apiserver.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    pub name: String,
    /// Host (DNS name or address) and port of an `https://` URL.
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// By which a server is known whatever it is called.
    pub fn address(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }

    /// Whether it is the same server, by another name perhaps.
    pub fn same_address(&self, other: &Self) -> bool {
        self.port == other.port && self.host == other.host
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers {
    pub fixed: Vec<Endpoint>,
    pub kubernetes: KubernetesPeers,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubernetesPeers {
    pub enabled: bool,
    /// `None` means in-cluster.
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// The read-only port, without authentication.
    pub listen: SocketAddr,
    /// Names beside addresses, `localhost` and the node's name by which `listen` may be called.
    pub hosts: Vec<String>,
    /// For whatever changes something or speaks to servers: a Unix socket that its owner alone may open.
    pub socket: PathBuf,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpliceMode {
    Auto,
    Sockmap,
    Copy,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    pub steering: Mode,
    pub splice: SpliceMode,
    pub shortcut: Mode,
    pub pin_path: PathBuf,
    /// So long nothing must speak for inspection before the guard goes idle.
    pub settle: Duration,
    /// Where the agent's connections to this node's IPv4 addresses come from: a loopback address that nobody else uses.
    pub own_source: Ipv4Addr,
    /// Source ports of the agent's connections to all other addresses. The same on every node.
    pub peer_ports: RangeInclusive<u16>,
    /// The local kube-apiserver's static-pod manifest; its change is a sign. It need not exist.
    pub manifest: PathBuf,
}

/// Which connections are inspected, and so steered to the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspect {
    pub mode: InspectMode,
    /// Counted as clients on this node, beside loopback and the addresses of its interfaces.
    pub local_sources: Vec<Network>,
    /// Networks whose clients do not count as clients on this node.
    pub except_sources: Vec<Network>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InspectMode {
    /// While the guard is armed; those of clients on this node also while it is idle.
    Auto,
    /// While the guard is armed.
    Armed,
    /// All connections, at all times.
    Always,
}

/// An address, or a network in CIDR notation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    pub address: IpAddr,
    /// Bits, at most 32 for IPv4 and 128 for IPv6.
    pub prefix: u8,
}

/// How connections that clients made with kube-apiserver itself are ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retire {
    /// From the guard's arming until every connection should be gone. Zero: only those that are silent for 5 s are ended.
    pub within: Duration,
}

/// A certificate must have been seen for so long before a connection is relayed to its server: a server in the middle of a rotation
/// is left alone.
pub const CERTIFICATE_AGE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// `auto` or `off`; never `On`.
    pub mode: Mode,
    /// Forwarded requests of one client within `window`, then its next connection is relayed.
    pub after: u32,
    pub window: Duration,
    /// Largest share of this node's connections that is relayed: above 0, at most 1.
    pub max_share: f64,
    /// Relay also clients that name no server in TLS.
    pub without_server_name: bool,
    /// For how long a server's certificate must have been the same. No key: [`CERTIFICATE_AGE`], except in tests.
    pub certificate_age: Duration,
}

/// Above a limit the agent refuses, counts, and stays up.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Open client connections.
    pub connections: usize,
    /// TLS handshakes under way.
    pub pending_handshakes: usize,
    pub handshake_timeout: Duration,
    /// From the first byte of an HTTP/1.1 request to the end of its header; on HTTP/2, until the client's preface.
    pub header_timeout: Duration,
    /// Sum of all header fields, bytes.
    pub header_bytes: u32,
    /// Of the requests of one connection that have no answer yet, bytes.
    pub header_bytes_per_connection: usize,
    /// The sum for all requests that have no answer yet, bytes.
    pub header_bytes_total: usize,
    pub header_count: usize,
    /// Concurrent HTTP/2 streams a connection.
    pub streams_per_connection: u32,
    /// HTTP/2 streams a client may have reset before they are handled (CVE-2023-44487), and streams a minute that are reset for
    /// errors of its own; then GOAWAY.
    pub pending_resets: usize,
    /// Requests under way that one client (address and user) may cancel at once; a tenth comes back each second.
    pub cancellations: u32,
    /// Upgraded connections of one client (address and user).
    pub tunnels_per_client: usize,
    /// After this time an HTTP/2 connection without an open stream is ended by GOAWAY.
    pub idle_timeout: Duration,
    /// Time for a non-watch request until its response head; kube-apiserver's own is 60 s.
    pub response_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    pub interval: Duration,
    /// The interval while nothing differs and events report changes.
    pub idle_interval: Duration,
    /// Deadline of one poll.
    pub timeout: Duration,
    /// How long one client request may wait for a refresh.
    pub refresh: Duration,
    /// Knowledge of a server that is reachable but has not confirmed it for so long is stale.
    pub stale_after: Duration,
    /// Largest discovery document accepted, bytes.
    pub max_bytes: usize,
    /// How long the merged view shows what only a server reported that cannot be queried any more.
    pub retain: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Drain {
    pub deadline: Duration,
    /// After another agent has taken over and this one has drained: `true` waits for a signal instead of ending, so that a
    /// supervisor does not start it again, which would take over in its turn.
    pub wait_when_replaced: bool,
}
