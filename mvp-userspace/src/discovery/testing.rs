//! Servers for tests, as discovery shows them.

use std::time::Duration;

use super::{PollTrouble, Polls, ServerStatus};
use crate::identity::proof::Proofs;
use crate::route::Knowledge;

/// A peer of this name that answered a moment ago; nothing else is known of it.
pub(crate) fn status(name: &str) -> ServerStatus {
    ServerStatus {
        name: name.into(),
        url: String::new(),
        local: false,
        version: None,
        ready: None,
        stopping: false,
        knowledge: Knowledge::Confirmed,
        age: Some(Duration::from_millis(7)),
        source: None,
        keys: 0,
        published: 0,
        stale: Vec::new(),
        refused: 0,
        etag: None,
        last_error: None,
        trouble: PollTrouble::None,
        proofs: Proofs::default(),
        polls: Polls::default(),
    }
}
