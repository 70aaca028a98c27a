//! The limit of open files, and what follows from it.

use crate::config::Limits;
use crate::net;

/// Lowers what the descriptors that this process may have are not enough for: what is promised is kept.
pub(super) fn fit(limits: &mut Limits) {
    let descriptors = net::raise_limit();
    let allowed = net::connections_for(descriptors, Some(limits.connections));
    if allowed < limits.connections {
        tracing::warn!(
            configured = limits.connections,
            allowed,
            descriptors,
            "limits.connections is lowered to what the limit of open files allows"
        );
        limits.connections = allowed;
    }
    limits.pending_handshakes = limits.pending_handshakes.min(limits.connections);
}
