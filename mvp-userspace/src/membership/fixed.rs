//! The list that the configuration gives.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{Membership, ReadBy};
use crate::config::Endpoint;

/// A list that never changes.
pub fn fixed(endpoints: Vec<Endpoint>) -> Membership {
    // Both senders are dropped: nothing will be told, which readers take for what it is.
    let (_, members) = watch::channel(Arc::new(endpoints));
    let (_, restarts) = mpsc::channel(1);
    Membership {
        members,
        restarts,
        read_by: ReadBy::default(),
    }
}
