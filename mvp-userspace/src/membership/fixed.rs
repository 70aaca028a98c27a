//! The list that the configuration gives.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::{
    LIST, MAX_MEMBERS, Membership, MembershipFacts, MembershipLine, MembershipSource, ReadBy,
};
use crate::config::Endpoint;

/// A list that never changes.
pub fn fixed(endpoints: Vec<Endpoint>, local: &Endpoint) -> Membership {
    let others = endpoints
        .iter()
        .filter(|e| (&e.host, e.port) != (&local.host, local.port))
        .count();
    let facts = MembershipFacts {
        peers: others.min(MAX_MEMBERS),
        ignored: others.saturating_sub(MAX_MEMBERS),
        source: MembershipSource::Static,
        ..MembershipFacts::default()
    };
    if facts.warns() {
        warn!("{}", facts.line());
    }
    let line = MembershipLine::default();
    line.set(facts);
    // Both senders are dropped: nothing will be sent any more, and readers notice that.
    let (_, members) = watch::channel(Arc::new(endpoints));
    let (_, restarts) = mpsc::channel(1);
    Membership {
        members,
        restarts,
        read_by: ReadBy::of(LIST),
        line,
        reader: None,
    }
}
