//! Requests on their way to a server and answers on their way back.

mod access;
mod apart;
mod attempt;
mod blame;
mod body;
mod cancels;
mod checkout;
mod connect;
mod connection;
mod counts;
mod error;
mod events;
mod exchange;
mod first_proof;
mod flood;
mod forward;
mod frames;
#[cfg(test)]
mod future_sizes;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::indexing_slicing,
    reason = "only tests and fuzz targets run it"
)]
mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz_wire;
mod head_checks;
mod header_budget;
mod header_limits;
mod header_timeout;
mod headers;
mod http2;
mod idle;
mod interpret;
mod keep_alive;
mod lane;
mod let_go;
mod negotiate;
mod newer;
pub mod one_view;
mod outgoing;
mod pipe;
mod pool;
mod preface;
mod probe;
mod quarantine;
mod rate;
mod relay;
mod response;
mod response_timeout;
mod rides;
mod service;
mod status;
mod streams;
mod trace;
mod tunnels;
mod upgrade;
mod watched;
mod websocket;
mod whole_user;
mod windows;
mod wire_body;
mod with_head;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::config::{Http2, Limits};
use crate::discovery::{DiscoveryHandle, View};
use crate::drain::DrainSignal;
use crate::history::Tally;
use crate::identity::{Hasher, TrustCell};
use crate::metrics::Metrics;
use crate::net::Turns;
use crate::readiness::PassingReasons;
use crate::route::RouteTable;
use crate::tls::ServerTls;

pub use blame::markdown_table as blame_table;
pub use cancels::Cancels;
pub use connect::ConnectSettings;
pub use connection::serve;
pub use counts::PoolCounts;
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_requests;
pub use header_budget::HeaderBudget;
pub use interpret::Unknowns;
pub use pool::Pool;
pub use probe::probe;
pub(crate) use relay::Technique;
pub use relay::{
    Explained, RelaySettings, Relays, probe as probe_for_relay, watch as watch_relays,
};
pub use response_timeout::ResponseTimeout;
pub use tunnels::Tunnels;

/// What all data threads share: read-mostly, swapped whole.
pub struct Shared {
    /// Who serves what, as discovery last knew it.
    pub table: Arc<ArcSwap<RouteTable>>,
    /// What all servers serve together.
    pub view: Arc<ArcSwap<View>>,
    /// For refreshes, and for what single servers say.
    pub discovery: DiscoveryHandle,
    /// What clients are shown, and how their certificates are asked for.
    pub server_tls: Arc<ServerTls>,
    /// Who is believed about identities, as the files say now.
    pub trust: Arc<TrustCell>,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// `limits` of the configuration.
    pub limits: Limits,
    /// What speaks HTTP/2 to clients.
    pub serving_http2: Http2,
    /// `limits.responseTimeout`, which may change while the agent runs.
    pub response_timeout: Arc<ResponseTimeout>,
    /// False: everything is answered by the local server.
    pub interoperability: bool,
    /// How far the end of the agent has come.
    pub drain: DrainSignal,
    /// True while clients are to go to kube-apiserver itself.
    pub leave: watch::Receiver<bool>,
    /// What is open right now.
    pub load: Load,
    /// The limit on the header fields of requests under way.
    pub header_budget: HeaderBudget,
    /// Why new connections are not taken. Whoever finds a reason sets it.
    pub standing: PassingReasons,
    /// Connections forwarded whole.
    pub relays: Arc<Relays>,
    /// How often each client cancels.
    pub cancels: Cancels,
    /// Upgraded connections.
    pub tunnels: Tunnels,
    /// Tells callers and tokens apart without keeping them.
    pub hasher: Hasher,
    /// Types that nobody serves.
    pub unknowns: Unknowns,
    /// What requests that another server answered would have met without the agent.
    pub tally: Arc<Tally>,
    /// When the agent began to listen and, with steering, took its listener's place in the kernel: clients may come since then.
    pub open_since: std::time::Instant,
    /// The server's label in the metrics of answers that the agent made itself.
    pub no_server: Arc<str>,
}

/// Counts of what is open right now.
#[derive(Debug, Default)]
pub struct Load {
    /// Connections of clients, over all data threads.
    pub connections: Arc<AtomicUsize>,
    /// Requests under way, over all data threads.
    pub requests: Arc<AtomicUsize>,
    /// Connections to servers.
    pub pools: PoolCounts,
}

/// One data thread: what it shares with the others, and its own connections to servers.
pub struct Worker {
    /// What all data threads have in common.
    pub shared: Arc<Shared>,
    /// This thread's connections to servers.
    pub pool: Arc<Pool>,
    /// Distributes the thread's time among handshakes.
    pub turns: Turns,
}
