//! Label values that are known before anything has happened: such counters have their zero from the start. The rate of a series that
//! begins with 1 is nothing, so that nobody would be told of the first error.

use super::*;
use crate::route::relay::{InspectReason, RetireReason};

/// Answers of the agent itself, by decision, with the status codes that they have.
pub(super) const OWN_ANSWERS: &[(&str, &[u16])] = &[
    ("refused_unauthorized", &[401]),
    ("refused_malformed", &[400, 414, 500, 501]),
    ("refused_header", &[431]),
    ("capable_server_unreachable", &[503]),
    ("knowledge_unconfirmed", &[503]),
    ("refused_cancellations", &[429]),
    ("refused_tunnels", &[429]),
    ("agent_failed", &[503]),
    ("server_failed", &[502, 503]),
    ("server_timeout", &[504]),
    ("client_gone", &[499]),
];

/// The native proxy's types of `apiserver_peer_proxy_errors_total`.
pub(super) const PROXY_ERRORS: &[&str] = &["endpoint_resolution", "proxy_transport"];

/// The values of a counter's only label. Empty: only events tell them.
pub(super) fn words(spec: &Spec) -> Vec<&'static str> {
    match spec.name {
        name if name == PEER_DISCOVERY_SYNC_ERRORS.name => {
            vec!["lease_list", "hostport_resolution", "fetch_discovery"]
        }
        name if name == RETRIES.name => vec![
            "broken",
            "connect",
            "malformed",
            "own_limit",
            "query",
            "shortage",
            "unprocessed",
            "unproved",
        ],
        name if name == REFUSED.name => vec![
            "cancellations",
            "connections",
            "descriptors",
            "header_bytes",
            "header_bytes_per_connection",
            "header_bytes_total",
            "header_count",
            "header_timeout",
            "pending_handshakes",
            "tunnels_per_client",
        ],
        name if name == HEADERS_STRIPPED.name => {
            vec!["username", "uid", "group", "extra", "other", "hop"]
        }
        name if name == HANDSHAKE_FAILURES.name => vec!["error", "timeout"],
        name if name == REFRESHES.name => vec!["complete", "incomplete"],
        name if name == RELAY_DECISIONS.name => {
            let reasons = InspectReason::ALL.iter().map(|reason| reason.as_str());
            reasons.chain(["relayed", "dial_failed"]).collect()
        }
        name if name == RELAY_RETIRED.name => {
            let reasons = RetireReason::ALL.iter().map(|reason| reason.as_str());
            reasons.chain(["inspection_needed"]).collect()
        }
        _ => Vec::new(),
    }
}
