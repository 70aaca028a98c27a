//! Connections that are forwarded whole. `route::relay` decides, and `splice` joins the two sockets; this is what lies between.
//!
//! `offer` looks at a new connection and forwards it whole or gives it back; `memory` watches the requests of an inspected
//! connection for a client that should reconnect; `registry` has the connections that are forwarded whole; `watch` ends them
//! once a condition ceases.

mod memory;
mod names;
mod offer;
mod record;
mod registry;
mod splicing;
mod watch;

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Shared;
use crate::config::{Config, Mode as ConfigMode};
use crate::drain::DrainState;
use crate::net::DialFrom;
use crate::route::RouteTable;
use crate::route::relay::{
    AboutThisServer, ClientHelloFacts, HotSettings, HotTable, InspectReason, ProbeFacts,
    RelayConditions, RelayDecision, decide, explain, impossible,
};
use crate::tls::Prober;
use names::PublishedServerNames;
use registry::{Registry, RelayedCounts};

pub(super) use memory::Memory;
pub(super) use offer::{Offered, offer};
pub(super) use splicing::Splicing;
pub(crate) use splicing::Technique;
pub use watch::{probe, watch};

/// From the configuration.
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// `relay.mode` is not `off`.
    pub enabled: bool,
    /// From when on a client's next connection is relayed: `relay.after` and `relay.window`.
    pub hot: HotSettings,
    /// The largest share of this node's connections that is relayed: `relay.maxShare`.
    pub max_share: f64,
    /// Relay also clients that name no server in TLS: `relay.withoutServerName`.
    pub without_server_name: bool,
    /// For how long a server's certificate must have been the same.
    pub certificate_age: Duration,
    /// For a connection to a server.
    pub connect_timeout: Duration,
}

/// All that concerns whole connections. Shared by all threads.
pub struct Relays {
    settings: RelaySettings,
    hot: HotTable,
    about: AboutThisServer,
    /// `None`: nothing is ever relayed.
    prober: Option<Prober>,
    names: PublishedServerNames,
    registry: Registry,
    splicing: Splicing,
    pass_through: AtomicBool,
    from: OnceLock<DialFrom>,
}

/// The answer to `mvp explain --connection`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explained {
    /// The server's name, if the connection would be relayed.
    pub server: Option<String>,
    /// Why it would be inspected, if it would.
    pub reason: Option<InspectReason>,
    /// Everything in one line.
    pub line: String,
}

impl From<&Config> for RelaySettings {
    fn from(config: &Config) -> Self {
        let relay = &config.relay;
        Self {
            enabled: relay.mode != ConfigMode::Off,
            hot: relay.into(),
            max_share: relay.max_share,
            without_server_name: relay.without_server_name,
            certificate_age: relay.certificate_age,
            connect_timeout: config.upstream.connect_timeout,
        }
    }
}

impl Relays {
    /// Without a prober nothing is known of any server's certificate, and no connection is relayed.
    pub fn new(settings: RelaySettings, prober: Option<Prober>) -> Self {
        Self {
            hot: HotTable::new(settings.hot, Instant::now()),
            about: AboutThisServer::default(),
            settings,
            prober,
            names: PublishedServerNames::default(),
            registry: Registry::default(),
            splicing: Splicing::default(),
            pass_through: AtomicBool::new(false),
            from: OnceLock::new(),
        }
    }

    /// Where connections to servers come from. Without a call before the first connection, the kernel chooses. Steering must
    /// know the agent's own connections by it: others would come back to an agent.
    pub fn dial_from(&self, from: DialFrom) {
        // Only the first call counts.
        let _ = self.from.set(from);
    }

    /// How the bytes of forwarded connections are moved.
    pub fn splicing(&self) -> &Splicing {
        &self.splicing
    }

    /// While true, new connections go to the local server whole, without a look. For an agent that clients connect to directly
    /// and that has nothing to route. Once false, those that are there end in a silent moment.
    /// Whether connections are handed to the local server whole for the time being.
    pub fn passes_through(&self) -> bool {
        self.pass_through.load(Ordering::Relaxed)
    }

    /// From now on connections are handed to the local server whole, or are terminated.
    pub fn pass_through(&self, on: bool) {
        self.pass_through.store(on, Ordering::Relaxed);
    }

    /// A request that is about this very server came from `address`: its connections are not relayed for a while.
    pub fn asked_about_server(&self, address: IpAddr) {
        self.about.asked(address, Instant::now());
    }

    /// Connections that are forwarded whole now, by server: to peers, and passed through to the local server.
    pub fn open(&self) -> Vec<(String, usize)> {
        self.registry.by_server()
    }

    /// Clients remembered because their requests were forwarded.
    pub fn clients(&self) -> usize {
        self.hot.len()
    }

    /// What would happen to a new connection from `address` that asks for `server_name`. Asking has the servers probed for
    /// that name, as a connection would.
    pub fn explain(
        &self,
        shared: &Shared,
        address: IpAddr,
        server_name: Option<&str>,
    ) -> Explained {
        let table = shared.table.load_full();
        let now = Instant::now();
        let client = self.hot.find(address, server_name);
        let hello = ClientHelloFacts {
            readable: true,
            server_name,
            asks_about_server: self.about.lately(address, now),
            hot: client.as_ref().is_some_and(|client| client.is_hot(now)),
            client: client.as_deref(),
        };
        let probes = self.probes(&table, server_name, now);
        let counts = self.registry.counts(&table);
        // The count that it would have if it were open already.
        let open = shared.load.connections.load(Ordering::Relaxed) + 1;
        let view = self.view(shared, &table, &probes, &counts, open);
        let (server, reason) = match decide(&hello, &view) {
            RelayDecision::Relay { server } => {
                let member = table.member(server);
                (member.map(|member| member.server.name.to_string()), None)
            }
            RelayDecision::Inspect(reason) => (None, Some(reason)),
        };
        Explained {
            server,
            reason,
            line: explain(address, &hello, &view),
        }
    }

    /// Why a new connection need not be looked at. Cheap.
    fn impossible(&self, shared: &Shared, table: &RouteTable) -> Option<InspectReason> {
        if !self.settings.enabled {
            Some(InspectReason::RelayOff)
        } else if !shared.interoperability {
            Some(InspectReason::InteroperabilityOff)
        } else if shared.drain.state() != DrainState::Running {
            Some(InspectReason::Draining)
        } else {
            impossible(table)
        }
    }

    fn from(&self) -> &DialFrom {
        self.from.get_or_init(DialFrom::anywhere)
    }

    fn probes(
        &self,
        table: &RouteTable,
        server_name: Option<&str>,
        now: Instant,
    ) -> Vec<Option<ProbeFacts>> {
        let Some(prober) = &self.prober else {
            return Vec::new();
        };
        let members = table.members().iter();
        members
            .map(|member| {
                if member.server.local {
                    return None;
                }
                let view = prober.view(&member.server.name, server_name, now);
                view.map(ProbeFacts::from)
            })
            .collect()
    }

    fn view<'a>(
        &self,
        shared: &Shared,
        table: &'a RouteTable,
        probes: &'a [Option<ProbeFacts>],
        places: &'a RelayedCounts,
        open: usize,
    ) -> RelayConditions<'a> {
        RelayConditions {
            enabled: self.settings.enabled,
            interoperability: shared.interoperability,
            draining: shared.drain.state() != DrainState::Running,
            without_server_name: self.settings.without_server_name,
            max_share: self.settings.max_share,
            certificate_age: self.settings.certificate_age,
            table,
            probes,
            relayed: &places.by_member,
            relayed_total: places.total,
            open,
        }
    }
}
