//! Which servers exist: a static list, or Kubernetes' own EndpointSlice, Nodes and Leases.

mod fixed;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::indexing_slicing,
    reason = "only tests and fuzz targets run it"
)]
mod fuzz;
mod kubernetes;
mod line;
mod reader;
mod roster;
mod storage_versions;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use fixed::fixed;
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_roster;
pub use kubernetes::{Clients, MembershipChannels, client, events, follow, storage_versions};
pub use line::{MembershipFacts, MembershipLine, MembershipSource};
pub use reader::{ReadBy, Reader};
pub use roster::{LINGER, MAX_MEMBERS, Roster};

use crate::config::{Endpoint, Peers};
use crate::discovery::{Dialer, SyncCounters};
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
    /// By which way the list is read; empty for a fixed one.
    pub read_by: ReadBy,
    /// The line in the status.
    pub line: MembershipLine,
    /// For other objects that are read by the same way, with a status of their own; `None` for a fixed list.
    pub reader: Option<Reader>,
}

/// Why there is no list of servers. All are the configuration's fault.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// It was configured and cannot be used; no other source is tried instead.
    #[error("peers.kubernetes.kubeconfig: {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The parser's or the system's message.
        reason: String,
    },
    /// Nothing is left to read with; the text says what the in-cluster configuration lacks.
    #[error(
        "peers.kubernetes: there is no front-proxy pair (upstream.clientCertFile) and no kubeconfig, and the agent does not run in a cluster: {0}"
    )]
    InCluster(String),
    /// A certificate, key or URL of the kubeconfig is bad.
    #[error("peers.kubernetes: no client can be made of what the kubeconfig says: {0}")]
    Client(String),
}

/// What [`ReadBy`] calls the list in the log.
const LIST: &str = "the list of servers";
/// Restarts reported and not yet taken; more than a control plane has servers are of no use.
const RESTARTS: usize = 16;

impl Membership {
    /// Starts to follow the servers that `peers` names. With a `dialer`, which has the front-proxy pair, they are read as
    /// `system:mvp`. Where both lists have an address, the static one's name stands. `advertise` is `local.advertise`.
    pub async fn start(
        peers: &Peers,
        local: &Endpoint,
        advertise: Option<SocketAddr>,
        dialer: Option<Dialer>,
        counters: Arc<SyncCounters>,
    ) -> Result<Self, MembershipError> {
        if !peers.kubernetes.enabled {
            return Ok(fixed(peers.fixed.clone(), local));
        }
        let fallback = fallback(peers.kubernetes.kubeconfig.as_deref(), dialer.is_some()).await?;
        let roster = Roster::new(local.clone(), peers.fixed.clone(), is_this_node)
            .advertised(advertise)
            .reached(counters.reached.clone());
        let (sender, members) = watch::channel(Arc::new(peers.fixed.clone()));
        let (restarted, restarts) = mpsc::channel(RESTARTS);
        let read_by = ReadBy::of(LIST);
        let reader = Reader {
            dialer,
            local: local.clone(),
            members: sender.clone(),
            fallback,
            read_by: read_by.clone(),
            departures: counters.departures.clone(),
        };
        let line = MembershipLine::default();
        line.set(MembershipFacts {
            peers: peers.fixed.len(),
            source: MembershipSource::Awaited,
            ..MembershipFacts::default()
        });
        let channels = MembershipChannels {
            members: sender,
            restarts: restarted,
            line: line.clone(),
        };
        let other = Reader {
            read_by: ReadBy::of("the agents' Lease"),
            ..reader.clone()
        };
        let clients = Clients {
            // Nothing depends on them, so that no other way is gone for them.
            storage_versions: reader.apart().client(),
            members: reader.client(),
        };
        tokio::spawn(follow(clients, roster, channels, counters));
        Ok(Self {
            members,
            restarts,
            read_by,
            line,
            reader: Some(other),
        })
    }
}

/// What there is beside the front-proxy pair. A kubeconfig that cannot be used is the configuration's fault; that there is none is one
/// only without that pair.
async fn fallback(
    kubeconfig: Option<&Path>,
    optional: bool,
) -> Result<Option<(String, kube::Client)>, MembershipError> {
    let name = match kubeconfig {
        Some(path) => path.display().to_string(),
        None => "the pod's service account".to_owned(),
    };
    match client(kubeconfig).await {
        Ok(client) => Ok(Some((name, client))),
        Err(MembershipError::InCluster(_)) if optional => Ok(None),
        Err(error) => Err(error),
    }
}
