//! Label values that are known before anything has happened: such counters have their zero from the start. The rate of a series that
//! begins with 1 is nothing, so that nobody would be told of the first error.

use super::*;
use crate::route::relay::{InspectReason, RetireReason};

/// The values of a counter's only label. Empty: only events tell them.
pub fn words(spec: &Spec) -> Vec<&'static str> {
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
