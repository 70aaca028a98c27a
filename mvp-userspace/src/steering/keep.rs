//! Keeps the kernel in step with the agent: the guard's state, the exempt addresses, the route table; and observes the signs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::handle::{Observer, retires};
use super::targets::Addresses;
use super::{Agents, Retiring, Schedule, Scope};
use super::{Cluster, GuardHandle, SharedSteering, SteeringStats};
use super::{GuardReason, State};
use crate::config::{Config, Endpoint, InspectMode};
use crate::discovery::DiscoveryHandle;
use crate::drain::{DrainSignal, DrainState};
use crate::kernel::{Error, Reason, RouteWriter, Targets};
use crate::net::AbortOnDrop;
use crate::readiness::{PassingBy, PassingReasons};
use crate::route::Knowledge;

/// A sign arms within twice this.
const LOOK: Duration = Duration::from_millis(50);
/// Names are resolved again so often: a server may get another address.
const RESOLVE: Duration = Duration::from_secs(30);

/// The loop's inputs.
pub(super) struct Keeper {
    pub config: Config,
    pub guard: GuardHandle,
    pub discovery: DiscoveryHandle,
    pub members: watch::Receiver<Arc<Vec<Endpoint>>>,
    pub drain: DrainSignal,
    /// The first round of discovery is over.
    pub known: Arc<AtomicBool>,
    pub stats: Arc<SteeringStats>,
    pub standing: PassingReasons,
    pub cluster: Option<Cluster>,
    /// `None`: no steering, only the guard.
    pub kernel: Option<Kept>,
}

/// What is kept.
pub(super) struct Kept {
    pub steering: SharedSteering,
    pub routes: RouteWriter,
}

/// Why this configuration never lets a connection pass whole, if it does not. `steered`: the kernel gives clients' connections to the
/// local server itself while the guard is idle, and what comes to the agent is to be inspected.
pub fn always_inspects(config: &Config, steered: bool) -> Option<&'static str> {
    if steered {
        Some("off: the kernel steers")
    } else if config.inspect.mode == InspectMode::Always {
        Some("off: inspect is always")
    } else if !config.interoperability_proxy {
        Some("off: everything is answered locally")
    } else if !config.sni.is_empty() {
        Some(
            "off: the agent has several certificates, and what the local server shows for each is not known",
        )
    } else {
        None
    }
}

impl Keeper {
    /// Runs until the agent drains.
    pub(super) async fn run(mut self) {
        let kernel = self.kernel.take();
        // An agent that clients connect to may look away as well, if its local server can stand in for it.
        let steering_off = kernel.is_none() && always_inspects(&self.config, false).is_some();
        let mut observer = Observer::new(
            self.guard.clone(),
            self.discovery.clone(),
            &self.config,
            steering_off,
            self.cluster.clone(),
        );
        let mut kept = kernel.map(|kernel| KernelKeeper::new(&self, kernel));
        let (told, mut targets) = watch::channel(None);
        let resolving = tokio::spawn(resolve(self.config.clone(), self.members.clone(), told));
        let _resolving = AbortOnDrop(resolving.abort_handle());
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.guard.woken() => {}
            }
            if self.drain.state() != DrainState::Running {
                return;
            }
            observer.look(self.known.load(Ordering::Relaxed));
            if let Some(kept) = &mut kept {
                kept.keep(&self, &mut targets);
            }
        }
    }
}

/// Follows the list of servers, and the addresses that their names have. Not in the loop, which must not wait for DNS.
async fn resolve(
    config: Config,
    mut members: watch::Receiver<Arc<Vec<Endpoint>>>,
    told: watch::Sender<Option<Targets>>,
) {
    let mut addresses = Addresses::default();
    loop {
        let now = Arc::clone(&members.borrow_and_update());
        let targets = addresses.targets(&config, &now).await;
        told.send_replace(Some(targets));
        tokio::select! {
            () = tokio::time::sleep(RESOLVE) => {}
            // An error: the list is fixed, and only names may change.
            Ok(()) = members.changed() => {}
        }
    }
}

/// What was last written into the kernel's maps.
struct KernelKeeper {
    steering: SharedSteering,
    applied: Option<(bool, Reason)>,
    targets: Option<Targets>,
    generation: Option<u64>,
    /// `None` while a table is being written.
    routes: Option<RouteWriter>,
    written: (
        tokio::sync::mpsc::Sender<RouteWriter>,
        tokio::sync::mpsc::Receiver<RouteWriter>,
    ),
    retiring: Retiring,
    failing: bool,
}

impl KernelKeeper {
    fn new(keeper: &Keeper, kernel: Kept) -> Self {
        Self {
            retiring: retiring(&keeper.config, &keeper.stats),
            steering: kernel.steering,
            applied: None,
            targets: None,
            generation: None,
            routes: Some(kernel.routes),
            written: tokio::sync::mpsc::channel(1),
            failing: false,
        }
    }

    fn keep(&mut self, keeper: &Keeper, targets: &mut watch::Receiver<Option<Targets>>) {
        let state = keeper.guard.state();
        let done = self.apply(state).and(self.configure(targets, state));
        self.note(done, &keeper.standing);
        self.write_routes(keeper);
        let (local, peers) = match &self.targets {
            Some(targets) => (&targets.local_sources[..], &targets.peers[..]),
            None => (&[][..], &[][..]),
        };
        let scope = match state.is_armed() {
            _ if retires(state) => Scope::Everybody,
            false if !local.is_empty() => Scope::Local(local.to_vec()),
            _ => Scope::Nobody,
        };
        // What would come back to kube-apiserver itself stays where it is for as long.
        self.retiring.hold(keeper.standing.first().is_some());
        self.retiring.set(scope, peers);
        if imminent(state, &keeper.discovery) {
            self.retiring.urge();
        }
    }

    fn apply(&mut self, state: State) -> Result<(), Error> {
        let wanted = (state.is_armed(), reason(state));
        if self.applied == Some(wanted) {
            return Ok(());
        }
        let mut steering = self.steering.lock();
        match wanted {
            (true, reason) => steering.arm(reason)?,
            (false, reason) => steering.disarm(reason)?,
        }
        self.applied = Some(wanted);
        Ok(())
    }

    /// Whom the kernel steers and whom never. An operator who disarms the guard means the clients on this node as well.
    fn configure(
        &mut self,
        told: &mut watch::Receiver<Option<Targets>>,
        state: State,
    ) -> Result<(), Error> {
        let Some(mut targets) = told.borrow_and_update().clone() else {
            return Ok(());
        };
        let mut reasons = state.reasons().iter();
        if !state.is_armed() && reasons.any(|reason| reason == GuardReason::OperatorDisarmed) {
            targets.local_sources.clear();
        }
        // If it fails it is tried again at the next turn, since `self.targets` stays as it was.
        if self.targets.as_ref() != Some(&targets) {
            self.steering.lock().configure(&targets)?;
            self.targets = Some(targets);
        }
        Ok(())
    }

    fn write_routes(&mut self, keeper: &Keeper) {
        if let Ok(writer) = self.written.1.try_recv() {
            self.routes = Some(writer);
        }
        let table = keeper.discovery.table();
        let generation = keeper.discovery.generation();
        // A table of servers that nobody has asked yet must not replace what the agent before knew.
        if !keeper.known.load(Ordering::Relaxed) || self.generation == Some(generation) {
            return;
        }
        let Some(mut writer) = self.routes.take() else {
            return;
        };
        self.generation = Some(generation);
        let done = self.written.0.clone();
        tokio::task::spawn_blocking(move || {
            match writer.write(&table) {
                Ok(written) if written.omitted > 0 => {
                    tracing::warn!(omitted = written.omitted, "not every route could be pinned");
                }
                Ok(_) | Err(Error::Replaced) => {}
                Err(error) => tracing::warn!(%error, "the route table cannot be pinned"),
            }
            // Only this task sends, and there is room for one.
            let _ = done.try_send(writer);
        });
    }

    /// Logs a failure once. While the maps cannot be written no heartbeat is sent: what was written last may be wrong by now.
    fn note(&mut self, done: Result<(), Error>, standing: &PassingReasons) {
        match done {
            Ok(()) | Err(Error::Replaced) => {
                if std::mem::replace(&mut self.failing, false) {
                    standing.clear(PassingBy::Kernel);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the kernel's maps cannot be written");
                }
                let detail =
                    format!("servers and guard cannot be written into the kernel's maps: {error}");
                standing.set(PassingBy::Kernel, detail);
            }
        }
    }
}

/// Whether false 404s are possible, or will be in some seconds: servers differ in what they serve, or one has ended, whose next version
/// is about to start.
fn imminent(state: State, discovery: &DiscoveryHandle) -> bool {
    let differ = || state.reasons().contains(GuardReason::SetsDiffer);
    // The servers are asked for last, since this is called many times per second and seldom needs them.
    let ended = || {
        let mut servers = discovery.status().into_iter();
        servers.any(|server| server.knowledge == Knowledge::Down)
    };
    state.is_armed() && (differ() || ended())
}

fn retiring(config: &Config, stats: &SteeringStats) -> Retiring {
    let agents = Agents {
        own_source: config.kernel.own_source.into(),
        peer_ports: config.kernel.peer_ports.clone(),
    };
    let schedule = Schedule {
        within: config.retire.within,
    };
    Retiring::new(
        config.local.port,
        agents,
        schedule,
        stats.retired.clone(),
        stats.retirable().clone(),
    )
}

/// The first reason, in the kernel's words.
fn reason(state: State) -> Reason {
    let first = state.reasons().iter().next();
    match first {
        Some(GuardReason::Starting) => Reason::Starting,
        Some(GuardReason::SetsDiffer) => Reason::RoutesDiffer,
        Some(GuardReason::VersionsDiffer) => Reason::VersionsDiffer,
        Some(GuardReason::ServerBroken | GuardReason::ServerNotReady) => Reason::ServerLost,
        Some(GuardReason::LeaseChanged) => Reason::LeaseChanged,
        Some(GuardReason::ManifestChanged) => Reason::ManifestChanged,
        Some(GuardReason::AgentArmed) => Reason::AgentArmed,
        Some(
            GuardReason::ClusterArmed | GuardReason::OperatorArmed | GuardReason::OperatorDisarmed,
        ) => Reason::Operator,
        Some(GuardReason::Settled) => Reason::Settled,
        Some(GuardReason::SteeringOff) | None => Reason::None,
    }
}
