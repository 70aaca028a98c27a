//! Requests on their way to a server and answers on their way back.

mod access;
mod attempt;
mod body;
mod connect;
mod connection;
mod counts;
mod cut_targets;
pub mod discovery;
mod error;
mod events;
mod forward;
mod header_timeout;
mod headers;
mod interpret;
mod negotiate;
mod pool;
mod preface;
mod probe;
mod relay;
mod response;
mod service;
mod status;
mod upgrade;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;

use crate::app::DrainSignal;
use crate::config::Limits;
use crate::discovery::{DiscoveryHandle, View};
use crate::identity::TrustCell;
use crate::metrics::Metrics;
use crate::route::RouteTable;
use crate::steering::Standing;
use crate::tls::ServerTls;

pub use connect::ConnectSettings;
pub use connection::serve;
pub use counts::PoolCounts;
pub use interpret::Unknowns;
pub use pool::Pool;
pub use probe::probe;
pub use relay::{
    Explained, RelaySettings, Relays, Technique, probe as probe_for_relay, watch as watch_relays,
};

/// What all data threads share: read-mostly, swapped whole.
pub struct Shared {
    pub table: Arc<ArcSwap<RouteTable>>,
    /// What all servers serve together.
    pub view: Arc<ArcSwap<View>>,
    pub discovery: DiscoveryHandle,
    pub server_tls: Arc<ServerTls>,
    pub trust: Arc<TrustCell>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// False: everything is answered by the local server.
    pub interoperability: bool,
    pub drain: DrainSignal,
    pub load: Load,
    /// Why new connections are not taken. Whoever finds a reason sets it.
    pub standing: Standing,
    /// Connections forwarded whole.
    pub relays: Arc<Relays>,
    /// Types that nobody serves.
    pub unknowns: Unknowns,
    /// The label of answers that the agent made itself.
    pub no_server: Arc<str>,
}

/// Counts of what is open right now.
#[derive(Debug, Default)]
pub struct Load {
    pub connections: Arc<AtomicUsize>,
    pub handshakes: Arc<AtomicUsize>,
    pub requests: Arc<AtomicUsize>,
    pub pools: PoolCounts,
}

/// One data thread: what it shares with the others, and its own connections to servers.
pub struct Thread {
    pub shared: Arc<Shared>,
    pub pool: Arc<Pool>,
}
