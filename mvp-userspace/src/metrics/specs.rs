//! Every metric. `docs/metrics.md` and the scraped output are checked against [`ALL`].

use std::fmt::Write;

/// One metric family as it is scraped.
#[derive(Debug)]
pub struct Spec {
    /// The name, with `_total` for counters.
    pub name: &'static str,
    /// How the values develop, and are scraped.
    pub kind: MetricKind,
    /// The names of the labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// The help text, without a full stop at its end: the encoder adds one.
    pub help: &'static str,
}

/// The types of the exposition format that are used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts of durations by bucket, in seconds.
    Histogram,
}

impl Spec {
    /// The name without the suffix the encoder adds.
    pub fn base(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

impl MetricKind {
    /// The word behind `# TYPE NAME`.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

macro_rules! specs {
    ($($ident:ident, $kind:ident, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
        #[doc = $help]
        pub static $ident: Spec = Spec {
            name: $name,
            kind: MetricKind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        /// Every family of the agent's own, in the order of `docs/metrics.md`.
        pub static ALL: &[&Spec] = &[$(&$ident),*];
    };
}

// The first six have the names and labels (the first three also the texts) of kube-apiserver 1.36 (apiserver/pkg/util/peerproxy/metrics and
// apiserver/pkg/endpoints/discovery/aggregated/metrics.go), so that dashboards made for the native proxy work.
specs! {
    REROUTED, Counter, "apiserver_rerouted_request_total", ["code", "group", "version", "resource"],
        "Total number of requests that were proxied to a peer kube-apiserver because the local apiserver was not capable of serving it, broken down by 'group', 'version', and 'resource' indicating the GVR of the request. If all three are empty (\"\"), the request is a discovery request";
    PEER_PROXY_ERRORS, Counter, "apiserver_peer_proxy_errors_total", ["type", "group", "version", "resource"],
        "Total number of errors encountered while proxying requests to a peer kube apiserver";
    PEER_DISCOVERY_SYNC_ERRORS, Counter, "apiserver_peer_discovery_sync_errors_total", ["type"],
        "Total number of errors encountered while syncing discovery information from a peer kube-apiserver";
    PEER_AGGREGATED_CACHE_HITS, Counter, "aggregator_discovery_peer_aggregated_cache_hits_total", [],
        "Number of times discovery was served from the cache of the merged document";
    PEER_AGGREGATED_CACHE_MISSES, Counter, "aggregator_discovery_peer_aggregated_cache_misses_total", [],
        "Number of times the merged discovery document was built anew";
    NOPEER_REQUESTS, Counter, "aggregator_discovery_nopeer_requests_total", [],
        "Number of discovery requests that asked for the local server's document only";
    BUILD_INFO, Gauge, "mvp_build_info", ["version"],
        "Always 1; the label is the agent's version";
    READY, Gauge, "mvp_ready", [],
        "1 while /readyz answers 200: every server was asked once, the local server is proved, and the agent does not drain; otherwise 0";
    REQUESTS, Counter, "mvp_requests_total", ["decision", "server", "code"],
        "Requests, by why they went where, the server that answered (empty: the agent itself) and the status code; 499: the client went away before its answer";
    ADDED, Histogram, "mvp_added_seconds", [],
        "Time the agent added to a request: from its header to the answer's header, without the server's share";
    SERVER_TIME, Histogram, "mvp_server_seconds", ["server"],
        "Time from a request sent to a server to its answer's header";
    DISCOVERY_AGE, Gauge, "mvp_discovery_age_seconds", ["server"],
        "Time since a server last confirmed what it serves";
    SERVER_AVAILABLE, Gauge, "mvp_server_available", ["server"],
        "1 if requests may be sent to the server, 0 if it is skipped";
    SERVER_PROVED, Gauge, "mvp_server_proved", ["server", "class"],
        "1 while the server was shown to accept this agent: requests of this identity class (asserted: users with certificates, token: the rest) may be sent to it";
    PROOF_AGE, Gauge, "mvp_server_proof_age_seconds", ["server", "class"],
        "Time since that was last found out, either way; a server is proved once per minute";
    OUTSTANDING, Gauge, "mvp_outstanding_requests", ["server"],
        "Requests sent to a server and not finished, watches included";
    POOL_CONNECTIONS, Gauge, "mvp_pool_connections", ["server", "class"],
        "Open connections to a server, by identity class";
    RETRIES, Counter, "mvp_retries_total", ["reason"],
        "Second attempts at a request, by why the first one failed";
    LET_GO, Counter, "mvp_watches_let_go_total", ["server"],
        "Watches ended between two events because their server was about to stop; their clients resume them on another";
    EJECTIONS, Counter, "mvp_ejections_total", ["server"],
        "Times a server was found failing and skipped";
    CLIENT_CONNECTIONS_OPEN, Gauge, "mvp_client_connections_open", [],
        "Open client connections";
    CLIENT_CONNECTIONS, Counter, "mvp_client_connections_total", [],
        "Client connections accepted";
    REFUSED, Counter, "mvp_refused_total", ["limit"],
        "Connections, streams and requests refused because of a limit";
    HEADERS_STRIPPED, Counter, "mvp_headers_stripped_total", ["kind"],
        "Headers removed because the client had no right to send them";
    HOP_MARKERS_FORGED, Counter, "mvp_hop_markers_forged_total", [],
        "Requests with x-kubernetes-peer-proxied from a client that is no front proxy";
    HANDSHAKE_FAILURES, Counter, "mvp_tls_handshake_failures_total", ["reason"],
        "TLS handshakes with clients that failed";
    CERTIFICATE_EXPIRY, Gauge, "mvp_certificate_expiry_seconds", ["file"],
        "Time until the first certificate of a chain, or the last of a CA bundle, expires; negative after that";
    RELOAD_FAILURES, Counter, "mvp_certificate_reload_failures_total", ["file"],
        "Changed certificate or key files that could not be used; the old ones stay in use";
    RESTART_NEEDED, Gauge, "mvp_restart_needed", [],
        "1 if kube-apiserver's manifest has changed in what takes effect only when the agent is started again";
    REFRESHES, Counter, "mvp_discovery_refreshes_total", ["result"],
        "Refreshes of discovery asked for by a request whose type nobody knew";
    UPGRADES_OPEN, Gauge, "mvp_upgrades_open", [],
        "Open upgraded connections (exec, attach, port-forward)";
    TUNNEL_BYTES, Counter, "mvp_tunnel_bytes_total", ["direction"],
        "Bytes carried by upgraded connections, to servers and to clients";
    RELAYED_CONNECTIONS, Gauge, "mvp_relayed_connections", ["server"],
        "Open client connections that are forwarded to a server whole";
    RELAY_DECISIONS, Counter, "mvp_relay_decisions_total", ["decision"],
        "Client connections by what became of them before TLS: relayed, dial_failed, or why they were inspected";
    RELAY_ASKED, Counter, "mvp_relay_asked_total", [],
        "Clients asked to reconnect because their next connection would be relayed";
    RELAY_RETIRED, Counter, "mvp_relay_retired_total", ["reason"],
        "Connections forwarded whole that the agent ended";
    RELAY_CLIENTS, Gauge, "mvp_relay_clients", [],
        "Clients remembered because their requests were forwarded";
    SPLICED_CONNECTIONS, Counter, "mvp_spliced_connections_total", ["mode"],
        "Connections forwarded whole that have ended, by what moved their bytes";
    SPLICED_FALLBACKS, Counter, "mvp_spliced_fallbacks_total", ["reason"],
        "Connections forwarded whole that were not, or not to their end, moved by the kernel though it was chosen";
    SPLICED_CHANGES, Counter, "mvp_spliced_changes_total", ["to"],
        "Times that a connection forwarded whole changed to the mode for bulk, or back to the one for messages";
    SPLICED_BROKEN, Counter, "mvp_spliced_broken_total", [],
        "Connections forwarded whole that a side broke off";
    SPLICED_STOPPED, Counter, "mvp_spliced_stopped_total", [],
        "Connections forwarded whole that the agent closed";
    SPLICED_BYTES, Counter, "mvp_spliced_bytes_total", ["direction"],
        "Bytes of connections forwarded whole that have ended, to servers and to clients";
    GUARD_STATE, Gauge, "mvp_guard_state", ["state"],
        "1 for the guard's state, 0 for the other: idle connections go to kube-apiserver itself, armed ones to the agent";
    GUARD_TRANSITIONS, Counter, "mvp_guard_transitions_total", ["to", "reason"],
        "Changes of the guard's state, by the new state and each reason for it";
    CLUSTER_WORDS, Counter, "mvp_cluster_words_total", ["kind"],
        "Signs and operators' commands that agents exchange through their Lease: those that this agent wrote (told) or could not write (failed), and signs of others that it read (heard)";
    KERNEL_STEERING, Gauge, "mvp_kernel_steering", [],
        "1 if the kernel gives new connections to the agent whenever the guard is armed: the program is attached, this agent controls it, its heartbeat is recent and no reason to pass by holds; otherwise 0";
    PASSING_BY, Gauge, "mvp_passing_by", ["reason"],
        "1 for each reason for which new connections pass to kube-apiserver itself, 0 for the others; docs/metrics.md lists them";
    KERNEL_EVENTS, Counter, "mvp_kernel_events_total", ["event"],
        "What the BPF programs counted; docs/metrics.md lists the events";
    HEARTBEATS_WITHHELD, Counter, "mvp_kernel_heartbeats_withheld_total", ["reason"],
        "Heartbeats not sent, so that the kernel passes new connections to kube-apiserver, by the first reason of mvp_passing_by";
    RETIRED, Counter, "mvp_retired_connections_total", ["outcome"],
        "Connections made before the agent took them that were to be retired, by what became of them: destroyed in a quiet moment, destroyed late where a request may have been cut, active or gone";
    CONNECTIONS_OF_BEFORE, Gauge, "mvp_connections_of_before", [],
        "Open connections that clients made with the local server itself and that are being retired; 0 while nothing is retired";
    RETIRING_AVAILABLE, Gauge, "mvp_retiring_available", ["reason"],
        "1 if connections made before the guard armed can be ended, so that their clients come to the agent; 0 if they stay with kube-apiserver, with the reason: capability, refused, not_built, destroy_not_built, not_loaded, not_there, survived or failed";
    RESET_FLOODS, Counter, "mvp_http2_reset_floods_total", [],
        "Client connections closed because of too many HTTP/2 resets";
}

/// The table of `docs/metrics.md`.
pub fn markdown_table() -> String {
    let mut out = String::from("| Name | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for spec in ALL {
        let labels: Vec<String> = spec.labels.iter().map(|l| format!("`{l}`")).collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {}. |",
            spec.name,
            spec.kind.as_str(),
            labels.join(", "),
            spec.help
        );
    }
    out
}
