//! Every key of the configuration file. The loader takes types, ranges and defaults from this table, and
//! `docs/configuration.md` is checked against it, so that the three cannot differ.

use std::fmt::Write;

/// One key. Elements of a list of mappings are written `peers.static[].name`.
#[derive(Debug)]
pub struct ConfigKey {
    /// The path of the key in the file, its parts joined by dots.
    pub name: &'static str,
    /// What values it takes.
    pub kind: ValueType,
    /// Whether it may be absent, and what that means.
    pub need: Need,
    /// The sentence in `docs/configuration.md`, in Markdown.
    pub meaning: &'static str,
}

/// What the value of a key may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueType {
    /// Any text that is not blank.
    Text,
    /// A list of texts, none of them blank.
    TextList,
    /// Relative to the file's folder.
    Path,
    /// `ip:port`.
    Address,
    /// `https://host:port`.
    Url,
    /// `true` or `false`.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Least and greatest, milliseconds.
    Duration(u64, u64),
    /// Least and greatest.
    Count(u64, u64),
    /// `auto`, or a count.
    AutoCount(u64, u64),
    /// A number above 0, at most 1.
    Share,
}

/// Whether a key must be in the file, and what its absence means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Need {
    /// Without it the agent does not start.
    Required,
    /// Required as soon as another key of the same mapping (or list element) is there.
    WithSection,
    /// Nothing, unless set; the text says what that means.
    Optional(&'static str),
    /// Absence means this value, written as in the file.
    Default(&'static str),
}

use Need::*;
use ValueType::*;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const GIB: u64 = 1 << 30;

/// Every key there is. The parser, `docs/configuration.md` and `mvp config` are held to this table.
#[rustfmt::skip]
pub const KEYS: &[ConfigKey] = &[
    key("apiVersion", Choice(&["mvp/v1"]), Required, "Version of this file's format."),
    key("node", Text, Optional("the host's name"), "Name of the local server in routes, metrics and logs."),
    key("listen", Address, Required, "Where clients connect."),
    key("serving.certFile", Path, Required, "Certificate chain shown to clients: kube-apiserver's `--tls-cert-file`."),
    key("serving.keyFile", Path, Required, "Its key: `--tls-private-key-file`."),
    key("serving.http2", Choice(&["h2wire", "h2"]), Default("h2wire"), "What speaks HTTP/2 to clients: the agent's own server, which reads every header once, or the h2 library."),
    key("sni[].certFile", Path, WithSection, "A further chain, chosen by the name a client asks for: `--tls-sni-cert-key`."),
    key("sni[].keyFile", Path, WithSection, "Its key."),
    key("sni[].names", TextList, Optional("the names in the certificate"), "Names to answer for; `*.` stands for one label."),
    key("clientCAFile", Path, Optional("no client certificate is accepted"), "CA of client certificates: `--client-ca-file`."),
    key("requestHeader.clientCAFile", Path, WithSection, "CA of front proxies that may assert users: `--requestheader-client-ca-file`."),
    key("requestHeader.allowedNames", TextList, Optional("any certificate of that CA"), "Common names allowed to assert users: `--requestheader-allowed-names`."),
    key("requestHeader.usernameHeaders", TextList, Default("X-Remote-User"), "Headers with the user's name, first match wins. Never accepted from clients."),
    key("requestHeader.uidHeaders", TextList, Default("X-Remote-Uid"), "Headers with the user's UID. Never accepted from clients."),
    key("requestHeader.groupHeaders", TextList, Default("X-Remote-Group"), "Headers with the user's groups. Never accepted from clients."),
    key("requestHeader.extraHeaderPrefixes", TextList, Default("X-Remote-Extra-"), "Prefixes of headers with extra values. Never accepted from clients."),
    key("upstream.caFile", Path, Required, "CA of every kube-apiserver's serving certificate: `--peer-ca-file`."),
    key("upstream.serverName", Text, Default("kubernetes.default.svc"), "Name verified in every server's certificate, and sent as SNI."),
    key("upstream.clientCertFile", Path, Optional("only tokens can be forwarded"), "Front-proxy certificate with which users are asserted: `--proxy-client-cert-file`."),
    key("upstream.clientKeyFile", Path, Optional("only tokens can be forwarded"), "Its key: `--proxy-client-key-file`."),
    key("upstream.connectTimeout", Duration(10, MINUTE), Default("2s"), "TCP and TLS set-up with a server."),
    key("upstream.pingInterval", Duration(100, HOUR), Default("5s"), "HTTP/2 PING after this much silence of a server."),
    key("upstream.pingTimeout", Duration(100, HOUR), Default("5s"), "A server that does not answer a PING within this time is dead."),
    key("upstream.http2", Choice(&["h2wire", "h2"]), Default("h2wire"), "What speaks HTTP/2 to servers: the agent's own client, which encodes no header twice, or the h2 library."),
    key("upstream.connections", Count(1, 1024), Default("2"), "HTTP/2 connections per thread, server and identity class before streams share them more densely."),
    key("local.url", Url, Required, "The local kube-apiserver."),
    key("local.advertise", Address, Optional("`local.url`"), "Where other nodes reach the local server, its address in EndpointSlices: `--peer-advertise-ip` and `--peer-advertise-port`."),
    key("peers.static[].name", Text, WithSection, "Name of another kube-apiserver."),
    key("peers.static[].url", Url, WithSection, "Its address."),
    key("peers.kubernetes.enabled", Bool, Default("false"), "Find peers in EndpointSlice `default/kubernetes` and the identity Leases in `kube-system`."),
    key("peers.kubernetes.kubeconfig", Path, Optional("in-cluster"), "Fallback for reading them where the front-proxy pair cannot (as `system:mvp`, with the rights in deploy/rbac.yaml); `mvp status` says when it is used."),
    key("admin.listen", Address, Default("127.0.0.1:9440"), "Readiness, metrics and status, read-only. It has no authentication: open it only to those who may know them."),
    key("admin.hosts", TextList, Optional("addresses, `localhost` and `node`"), "Further names by which `admin.listen` may be called; others are refused, so that no web page reads it under a name of its own."),
    key("admin.socket", Path, Default("/run/mvp/admin.sock"), "Unix socket of mode 0600 for whatever changes something or speaks to servers; the `mvp` command uses it."),
    key("kernel.steering", Choice(&["auto", "on", "off"]), Default("off"), "Steer connections of kube-apiserver's port to the agent in the kernel."),
    key("kernel.splice", Choice(&["auto", "sockmap", "splice", "copy"]), Default("auto"), "How whole connections are joined."),
    key("kernel.shortcut", Choice(&["auto", "on", "off"]), Default("auto"), "Short-cut the loopback leg to the local server in the kernel."),
    key("kernel.pinPath", Path, Default("/sys/fs/bpf/mvp"), "Folder on a bpffs for state that outlives the agent."),
    key("kernel.settle", Duration(1000, HOUR), Default("60s"), "So long every server must be ready, of one version and serve the same before the guard goes idle."),
    key("kernel.ownSource", Text, Default("127.66.0.1"), "Loopback address that only the agent uses, from which it reaches this node's IPv4 addresses past its own steering."),
    key("kernel.peerPorts", Text, Default("700-999"), "Source ports from which agents reach other nodes' servers past their steering; the same on every node. Ports below 1024 need CAP_NET_BIND_SERVICE."),
    key("kernel.manifest", Path, Default("/etc/kubernetes/manifests/kube-apiserver.yaml"), "The local kube-apiserver's static-pod manifest: its change arms the guard. It need not exist."),
    key("inspect.mode", Choice(&["auto", "armed", "always"]), Default("auto"), "`armed`: connections are inspected while the guard is armed. `auto`: those of clients on this node also while it is idle, since they act on a 404. `always`: all of them, at all times. `inspect: auto` is short for it."),
    key("inspect.localSources", TextList, Optional("loopback and the addresses of this node"), "Further addresses or networks (`10.0.0.0/24`) whose clients count as clients on this node."),
    key("inspect.exceptSources", TextList, Optional("nothing is excepted"), "Addresses or networks whose clients do not count as clients on this node, for example that of a load balancer on the node."),
    key("retire.within", Duration(0, HOUR), Default("30s"), "Once the guard arms, connections that clients made with kube-apiserver itself are ended within this time, each in its best moment; those that never had one, within twice of it. `0`: only those that are silent for 5 s are."),
    key("relay.mode", Choice(&["auto", "off"]), Default("auto"), "Relay connections that keep being forwarded as a whole."),
    key("relay.after", Count(1, 1_000_000), Default("20"), "Forwarded requests of one client within `relay.window`, then its next connection is relayed."),
    key("relay.window", Duration(100, HOUR), Default("10s"), "See `relay.after`."),
    key("relay.maxShare", Share, Default("0.5"), "Largest share of this node's connections that is relayed."),
    key("relay.withoutServerName", Bool, Default("false"), "Relay also clients that name no server in TLS."),
    key("threads", AutoCount(1, 1024), Default("auto"), "Data threads; `auto`: one for each core, at most 4."),
    key("limits.connections", AutoCount(1, 10_000_000), Default("auto"), "Open client connections; `auto`: as many as the hard limit of open files is enough for, at most 20000. A number above that is lowered to it."),
    key("limits.pendingHandshakes", Count(1, 1_000_000), Default("1024"), "TLS handshakes under way. Above it the oldest silent connection of the address with most ends."),
    key("limits.handshakeTimeout", Duration(100, HOUR), Default("10s"), "Time for one TLS handshake."),
    key("limits.headerTimeout", Duration(100, HOUR), Default("10s"), "From the first byte of an HTTP/1.1 request to the end of its header; on HTTP/2, until the client's preface."),
    key("limits.headerBytes", Count(8 * 1024, 16 << 20), Default("1048576"), "Sum of all header fields of a request, bytes; the default is kube-apiserver's."),
    key("limits.headerBytesPerConnection", Count(8 * 1024, 1 << 30), Default("2097152"), "Header fields of one connection's requests that have no answer yet, bytes."),
    key("limits.headerBytesTotal", Count(8 * 1024, 64 << 30), Default("16777216"), "The same of all connections; a quarter is kept for requests below 8 KiB."),
    key("limits.headerCount", Count(16, 100_000), Default("20000"), "Header fields of a request, of which HTTP/1.1 takes 20000 at most. kube-apiserver limits their bytes only."),
    key("limits.streamsPerConnection", Count(1, 100_000), Default("250"), "Concurrent HTTP/2 streams of one connection."),
    key("limits.pendingResets", Count(1, 1_000_000), Default("100"), "HTTP/2 streams a client may have reset before they are handled (CVE-2023-44487), and streams per minute that are reset for errors of its own; then GOAWAY."),
    key("limits.cancellations", Count(1, 1_000_000), Default("400"), "Requests under way that one client (address and user) may cancel at once; a tenth comes back each second. Above it: 429."),
    key("limits.tunnelsPerClient", Count(1, 1_000_000), Default("64"), "Upgraded connections (exec, attach, port-forward, WebSocket watches) of one client (address and user), each of which takes a connection to a server. Above it: 429."),
    key("limits.idleTimeout", Duration(100, HOUR), Default("90s"), "After this time an HTTP/2 connection without an open stream is ended by GOAWAY; kube-apiserver does the same."),
    key("limits.responseTimeout", Duration(100, 24 * HOUR), Default("65s"), "Time until the response head of a request that is not long-running; kube-apiserver gives up after 60s by itself."),
    key("discovery.interval", Duration(100, HOUR), Default("1s"), "Between two polls of one server."),
    key("discovery.idleInterval", Duration(100, HOUR), Default("5s"), "The same while nothing differs and events report changes: `/readyz` is still queried every `discovery.interval`, and after an event, a lost connection or a server that is not ready everything is queried at once."),
    key("discovery.timeout", Duration(100, HOUR), Default("5s"), "Deadline of one poll."),
    key("discovery.refresh", Duration(1, MINUTE), Default("250ms"), "How long one client's request may wait for a refresh."),
    key("discovery.staleAfter", Duration(100, 24 * HOUR), Default("10s"), "Knowledge a reachable server has not confirmed for so long is stale."),
    key("discovery.maxBytes", Count(64 * 1024, GIB), Default("16777216"), "Largest discovery document accepted, bytes."),
    key("discovery.retain", Duration(0, 24 * HOUR), Default("10m"), "How long discovery still lists what only a server serves that cannot be asked any more, marked as stale."),
    key("drain.deadline", Duration(0, HOUR), Default("30s"), "After this much draining, connections still open are closed."),
    key("drain.waitWhenReplaced", Bool, Default("false"), "An agent that another one has replaced waits for a signal instead of ending when it has drained: for supervisors that start both and would start it again, as a DaemonSet with maxSurge does."),
];

/// The table of `docs/configuration.md`.
pub fn markdown_table() -> String {
    let mut out = String::from("| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let default = match key.need {
            Required => "required".to_owned(),
            WithSection => "required in its section".to_owned(),
            Optional(absent) => format!("none: {absent}"),
            Default(value) => format!("`{value}`"),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            key.name,
            describe(key.kind),
            default,
            key.meaning
        );
    }
    out
}

const fn key(name: &'static str, kind: ValueType, need: Need, meaning: &'static str) -> ConfigKey {
    ConfigKey {
        name,
        kind,
        need,
        meaning,
    }
}

fn describe(kind: ValueType) -> String {
    match kind {
        Text => "text".into(),
        TextList => "list of text".into(),
        Path => "path".into(),
        Address => "ip:port".into(),
        Url => "https URL".into(),
        Bool => "true, false".into(),
        Choice(names) => names.join(", "),
        Duration(min, max) => format!("duration, {} to {}", millis(min), millis(max)),
        Count(min, max) => format!("number, {min} to {max}"),
        AutoCount(min, max) => format!("auto, or number, {min} to {max}"),
        Share => "number above 0, at most 1".into(),
    }
}

pub(super) fn millis(ms: u64) -> String {
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(HOUR) => format!("{}h", ms / HOUR),
        _ if ms.is_multiple_of(MINUTE) => format!("{}m", ms / MINUTE),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = KEYS.iter().map(|k| k.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_documentation_has_this_very_table() {
        let docs = include_str!("../../../docs/configuration.md");
        assert!(
            docs.contains(&markdown_table()),
            "docs/configuration.md differs from KEYS; its table must be:\n{}",
            markdown_table()
        );
    }
}
