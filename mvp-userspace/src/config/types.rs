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
    /// The certificate chain that clients are shown, and its key: kube-apiserver's `--tls-cert-file` and
    /// `--tls-private-key-file`.
    pub serving: KeyPair,
    /// Towards clients.
    pub serving_http2: Http2,
    /// Further certificates, chosen by the name a client asks for, as kube-apiserver's `--tls-sni-cert-key`.
    pub sni: Vec<SniCertificate>,
    /// The CAs of client certificates (`--client-ca-file`). `None`: certificates identify nobody, and only tokens do.
    pub client_ca_file: Option<PathBuf>,
    /// The front proxy that is trusted to assert users. `None`: identity headers of clients are always removed.
    pub request_header: Option<RequestHeader>,
    /// How the agent connects to every kube-apiserver, the local one and its peers.
    pub upstream: Upstream,
    /// The kube-apiserver of this node.
    pub local: Endpoint,
    /// Where the other nodes reach the local server, when that is not `local`: the address it has in EndpointSlices,
    /// kube-apiserver's `--peer-advertise-ip` and `--peer-advertise-port`.
    pub advertise: Option<SocketAddr>,
    /// Where the agent learns which other servers there are.
    pub peers: Peers,
    /// The two doors for operators: a read-only port, and a socket that may change things.
    pub admin: Admin,
    /// What the agent does with eBPF.
    pub kernel: Kernel,
    /// Which connections the agent terminates in order to route their requests.
    pub inspect: Inspect,
    /// How connections that clients had with kube-apiserver before the guard armed are ended.
    pub retire: Retire,
    /// When a connection is forwarded whole instead of being terminated.
    pub relay: Relay,
    /// Data threads, each a current-thread runtime.
    pub threads: usize,
    /// The bounds on what clients may use.
    pub limits: Limits,
    /// How the agent learns what the servers serve.
    pub discovery: Discovery,
    /// How the agent ends.
    pub drain: Drain,
    /// `--feature-gates=UnknownVersionInteroperabilityProxy=false`: everything is answered by the local server.
    pub interoperability_proxy: bool,
    /// The manifest that all this was made from, which is followed.
    pub manifest: Option<ManifestSource>,
}

/// Two PEM files that belong together. Both are read again when they change.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyPair {
    /// The chain, the leaf certificate first.
    pub cert_file: PathBuf,
    /// The key of the leaf certificate, unencrypted.
    pub key_file: PathBuf,
}

/// A serving certificate for some names (`--tls-sni-cert-key`).
#[derive(Clone, Debug, PartialEq)]
pub struct SniCertificate {
    /// The certificate and its key.
    pub pair: KeyPair,
    /// Names to answer for; empty: the names in the certificate. `*.` prefixes as kube-apiserver has them.
    pub names: Vec<String>,
}

/// Trust in a front proxy that asserts users by header, as kube-apiserver's `--requestheader-*` flags.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHeader {
    /// The CAs by which a front proxy's certificate is verified (`--requestheader-client-ca-file`).
    pub client_ca_file: PathBuf,
    /// Common names; empty: any certificate of that CA.
    pub allowed_names: Vec<String>,
    /// Headers that name the user, in the order in which they are looked at (`--requestheader-username-headers`).
    pub username_headers: Vec<String>,
    /// Headers with the user's uid (`--requestheader-uid-headers`, Kubernetes 1.32); empty: none is believed.
    pub uid_headers: Vec<String>,
    /// Headers with the user's groups, one for each field line (`--requestheader-group-headers`).
    pub group_headers: Vec<String>,
    /// Prefixes of headers whose rest is the key of an extra field (`--requestheader-extra-headers-prefix`).
    pub extra_header_prefixes: Vec<String>,
}

/// How the agent reaches kube-apiservers.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The CAs by which every kube-apiserver's serving certificate is verified.
    pub ca_file: PathBuf,
    /// The name verified in every server's certificate, and sent as SNI.
    pub server_name: String,
    /// The front-proxy pair with which users are asserted. Without it only tokens can be forwarded.
    pub client: Option<KeyPair>,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// HTTP/2 PING after this much silence; a server that does not answer within `ping_timeout` is dead.
    pub ping_interval: Duration,
    /// How long the answer to a PING may take before the connection counts as broken.
    pub ping_timeout: Duration,
    /// Which HTTP/2 implementation carries the requests.
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
    /// What it is called in routes, metrics and logs; no two servers have the same.
    pub name: String,
    /// Host (DNS name or address) and port of an `https://` URL.
    pub host: String,
    /// The TCP port of the URL; 443 if the URL names none.
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

/// Where the list of the other servers comes from. Both sources may be used at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers {
    /// `peers.static`: these servers, always.
    pub fixed: Vec<Endpoint>,
    /// Membership that the control plane itself publishes.
    pub kubernetes: KubernetesPeers,
}

/// The EndpointSlice `default/kubernetes` with the Leases and Nodes that name its addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubernetesPeers {
    /// Whether it is followed. Off by default.
    pub enabled: bool,
    /// `None` means in-cluster.
    pub kubeconfig: Option<PathBuf>,
}

/// `admin` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// The read-only port, without authentication.
    pub listen: SocketAddr,
    /// Names beside addresses, `localhost` and the node's name by which `listen` may be called.
    pub hosts: Vec<String>,
    /// For whatever changes something or speaks to servers: a Unix socket that its owner alone may open.
    pub socket: PathBuf,
}

/// Whether an optional part is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// If this node can do it.
    Auto,
    /// The agent does not start without it.
    On,
    /// It is not tried.
    Off,
}

/// What moves the bytes of a connection that is forwarded whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpliceMode {
    /// Whatever the self-test and the calibration at the start show to be best.
    Auto,
    /// A BPF program; the agent does not start if the self-test fails.
    Sockmap,
    /// The agent itself, through a pipe: splice(2).
    Splice,
    /// The agent itself: read and write.
    Copy,
}

/// `kernel` of the configuration: what the agent does with eBPF.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Whether the kernel gives connections for kube-apiserver's port to the agent.
    pub steering: Mode,
    /// What moves the bytes of connections that are forwarded whole.
    pub splice: SpliceMode,
    /// Whether the loopback leg to the local server bypasses TCP (`sk_msg`).
    pub shortcut: Mode,
    /// The folder on a BPF file system that keeps maps across a restart of the agent.
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
    /// Whether the state of the guard matters, and where the client is.
    pub mode: InspectMode,
    /// Counted as clients on this node, beside loopback and the addresses of its interfaces.
    pub local_sources: Vec<Network>,
    /// Networks whose clients do not count as clients on this node.
    pub except_sources: Vec<Network>,
}

/// When a connection is inspected.
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
    /// Any address of the network; the bits behind the prefix are ignored.
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

/// `relay` of the configuration: when connections are forwarded whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    /// `auto` or `off`; never `On`.
    pub mode: Mode,
    /// Forwarded requests of one client within `window`, then its next connection is relayed.
    pub after: u32,
    /// The span over which the requests are counted.
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
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of an HTTP/1.1 request to the end of its header; on HTTP/2, until the client's preface.
    pub header_timeout: Duration,
    /// Sum of all header fields, bytes.
    pub header_bytes: u32,
    /// The sum for the requests of one connection that have no answer yet, bytes.
    pub header_bytes_per_connection: usize,
    /// The sum for all requests that have no answer yet, bytes.
    pub header_bytes_total: usize,
    /// The most header fields of one request.
    pub header_count: usize,
    /// Concurrent HTTP/2 streams of one connection.
    pub streams_per_connection: u32,
    /// HTTP/2 streams a client may have reset before they are handled (CVE-2023-44487), and streams per minute that are reset for
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

/// `discovery` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// From the start of one poll of a server to the start of the next.
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

/// `drain` of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Drain {
    /// How long open connections may go on after the signal to end; then they are closed.
    pub deadline: Duration,
    /// After another agent has taken over and this one has drained: `true` waits for a signal instead of ending, so that a
    /// supervisor does not start it again, which would take over in its turn.
    pub wait_when_replaced: bool,
}
