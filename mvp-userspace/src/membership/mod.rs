//! Which servers exist: a static list, or Kubernetes' own EndpointSlices and Leases.

mod fixed;
mod kubernetes;
mod roster;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use fixed::fixed;
pub use kubernetes::{client, follow};
pub use roster::{LINGER, MAX_MEMBERS, Roster, is_own_address};

use crate::config::{Endpoint, Peers};
use crate::discovery::SyncCounters;

/// The inputs of [`crate::discovery::Discovery::start`].
pub struct Membership {
    /// Every known server; the local one may or may not be among them.
    pub members: watch::Receiver<Arc<Vec<Endpoint>>>,
    /// A server whose process was started, stopped or replaced; `None` if it is not known which.
    pub restarts: mpsc::Receiver<Option<Endpoint>>,
}

/// Why there is no list of servers. All are the configuration's fault.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("peers.kubernetes.kubeconfig: {path}: {reason}")]
    Kubeconfig { path: PathBuf, reason: String },
    #[error(
        "peers.kubernetes: no kubeconfig is given, and the agent does not run in a cluster: {0}"
    )]
    InCluster(String),
    #[error("peers.kubernetes: no client can be made of what the kubeconfig says: {0}")]
    Client(String),
}

/// Restarts reported and not yet taken; more than a control plane has servers are of no use.
const RESTARTS: usize = 16;

impl Membership {
    /// Starts to follow the servers that `peers` names. Where both lists have an address, the static one's name stands.
    pub async fn start(
        peers: &Peers,
        local: &Endpoint,
        counters: Arc<SyncCounters>,
    ) -> Result<Self, MembershipError> {
        if !peers.kubernetes.enabled {
            return Ok(fixed(peers.fixed.clone()));
        }
        let client = client(peers.kubernetes.kubeconfig.as_deref()).await?;
        let roster = Roster::new(local.clone(), peers.fixed.clone(), is_own_address);
        let (sender, members) = watch::channel(Arc::new(peers.fixed.clone()));
        let (restarted, restarts) = mpsc::channel(RESTARTS);
        tokio::spawn(follow(client, roster, sender, restarted, counters));
        Ok(Self { members, restarts })
    }
}
