//! Which servers exist: a static list, or Kubernetes' own EndpointSlice, Nodes and Leases.

mod fixed;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod kubernetes;
mod line;
mod reached;
mod roster;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use fixed::fixed;
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_roster;
pub use kubernetes::{Told, client, follow};
pub use line::{Facts, MembershipLine, Source};
pub use reached::Reached;
pub use roster::{LINGER, MAX_MEMBERS, Roster};

use crate::config::{Endpoint, Peers};
use crate::discovery::SyncCounters;
use crate::net::is_this_node;

/// The EndpointSlice that kube-apiservers reconcile their addresses into (`pkg/controlplane/reconcilers/endpointsadapter.go`).
pub const SLICE_NAMESPACE: &str = "default";
/// Its name.
pub const SLICE_NAME: &str = "kubernetes";

/// The inputs of [`crate::discovery::Discovery::start`].
pub struct Membership {
    /// Every known server; the local one may or may not be among them.
    pub members: watch::Receiver<Arc<Vec<Endpoint>>>,
    /// A server whose process was started, stopped or replaced; `None` if it is not known which.
    pub restarts: mpsc::Receiver<Option<Endpoint>>,
    /// For the status.
    pub line: MembershipLine,
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
    /// `advertise` is `local.advertise`.
    pub async fn start(
        peers: &Peers,
        local: &Endpoint,
        advertise: Option<SocketAddr>,
        counters: Arc<SyncCounters>,
    ) -> Result<Self, MembershipError> {
        if !peers.kubernetes.enabled {
            return Ok(fixed(peers.fixed.clone(), local));
        }
        let client = client(peers.kubernetes.kubeconfig.as_deref()).await?;
        let roster = Roster::new(local.clone(), peers.fixed.clone(), is_this_node)
            .advertised(advertise)
            .reached(counters.reached.clone());
        let (sender, members) = watch::channel(Arc::new(peers.fixed.clone()));
        let (restarted, restarts) = mpsc::channel(RESTARTS);
        let line = MembershipLine::default();
        line.set(Facts {
            peers: peers.fixed.len(),
            source: Source::Awaited,
            ..Facts::default()
        });
        let told = Told {
            members: sender,
            restarts: restarted,
            line: line.clone(),
        };
        tokio::spawn(follow(client, roster, told, counters));
        Ok(Self {
            members,
            restarts,
            line,
        })
    }
}
