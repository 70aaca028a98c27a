//! Starts what runs while the agent does.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;
use tokio::time::Instant;

use super::beat::Beat;
use super::keep::{Keeper, Kept};
use super::{Cluster, GuardHandle, Kernel, LINGER, SharedSteering, SteeringStats, Watch};
use crate::config::{Config, Endpoint, Mode};
use crate::discovery::DiscoveryHandle;
use crate::drain::{DrainSignal, DrainTrigger};
use crate::kernel::PinnedTable;
use crate::metrics::Metrics;
use crate::net::LoopHeartbeat;
use crate::net::OnTick;
use crate::proxy::Relays;
use crate::readiness::Readiness;
use crate::readiness::{PassingBy, PassingReasons};

/// What it needs of the agent.
pub struct Wiring<'a> {
    /// The configuration; the sections that matter are `kernel`, `inspect` and `retire`.
    pub config: &'a Config,
    /// What was installed.
    pub kernel: Kernel,
    /// The state machine, which others read and operators change.
    pub guard: GuardHandle,
    /// `None`: agents cannot exchange signs.
    pub cluster: Option<Cluster>,
    /// What the servers report, from which signs are made.
    pub discovery: DiscoveryHandle,
    /// The list of servers, and whenever it changes.
    pub members: watch::Receiver<Arc<Vec<Endpoint>>>,
    /// Every server was asked once.
    pub known: Arc<AtomicBool>,
    /// Where transitions and heartbeats are counted.
    pub stats: Arc<SteeringStats>,
    /// Where the counters of the kernel part are registered.
    pub metrics: &'a Metrics,
    /// The heartbeats of the data threads.
    pub threads: Vec<LoopHeartbeat>,
    /// The agent's end, as asked for.
    pub drain: (DrainTrigger, DrainSignal),
    /// The end of accepting and of open connections, which comes later with steering.
    pub data: DrainTrigger,
    /// Where it is said that the kernel part is in place.
    pub readiness: &'a Readiness,
    /// Why connections are not taken.
    pub standing: PassingReasons,
    /// Whole connections, for what is handed to the local server.
    pub relays: Arc<Relays>,
}

/// What the agent needs of it.
pub struct Steered {
    /// What the accept loop calls.
    pub on_tick: Option<OnTick>,
    /// The line in `mvp status`.
    pub line: String,
    /// Reads what happens to new connections.
    pub watch: Watch,
}

/// Spawns the loops on the current runtime. The guard runs without steering too: connections that come to the agent may pass through it.
pub fn run(wiring: Wiring<'_>) -> Steered {
    let Wiring {
        config,
        kernel,
        guard,
        cluster,
        discovery,
        members,
        known,
        stats,
        metrics,
        threads,
        drain: (trigger, signal),
        data,
        readiness,
        standing,
        relays,
    } = wiring;
    let (kept, on_tick, line, shared) = match kernel {
        Kernel::Off(why) => {
            if config.kernel.steering != Mode::Off {
                standing.set(PassingBy::NotSteering, why.clone());
            }
            (None, None, format!("steering off: {why}"), None)
        }
        Kernel::On(installed) => {
            if installed
                .pinned
                .is_some_and(|table| seed(&discovery, &table))
            {
                standing.clear(PassingBy::Starting);
            }
            let beat = Beat {
                heartbeat: installed.heartbeat,
                threads,
                standing: standing.clone(),
                drain: trigger,
                drain_deadline: config.drain.deadline,
                stats: Arc::clone(&stats),
                first: Some(readiness.register("kernel: first heartbeat")),
            };
            if let Some(log) = installed.log {
                tokio::spawn(async move {
                    if let Err(error) = log.run().await {
                        tracing::warn!(%error, "the BPF programs' log is lost");
                    }
                });
            }
            guard.steers();
            tokio::spawn(leave(signal.clone(), data, installed.shared.clone()));
            let kept = Kept {
                steering: installed.shared.clone(),
                routes: installed.routes,
            };
            let line = format!("steering on: {}", installed.start);
            (
                Some(kept),
                Some(beat.on_tick()),
                line,
                Some(installed.shared),
            )
        }
    };
    let watch = Watch {
        standing: standing.clone(),
        guard: guard.clone(),
        steering: shared.clone(),
        relays,
    };
    Arc::clone(&stats).register(
        metrics,
        guard.clone(),
        cluster.clone(),
        watch.clone(),
        shared,
    );
    tokio::spawn(drains(signal.clone(), standing.clone()));
    let keeper = Keeper {
        config: config.clone(),
        guard,
        discovery,
        members,
        drain: signal,
        known,
        stats,
        standing,
        cluster,
        kernel: kept,
    };
    tokio::spawn(keeper.run());
    Steered {
        on_tick,
        line,
        watch,
    }
}

async fn drains(mut signal: DrainSignal, standing: PassingReasons) {
    signal.draining().await;
    standing.set(PassingBy::Draining, "the agent drains");
}

/// Routes by what the agent before this one knew, until the servers have been asked. True if it knew anything of the local
/// server.
fn seed(discovery: &DiscoveryHandle, table: &PinnedTable) -> bool {
    let mut local = false;
    for (index, server) in table.servers.iter().enumerate() {
        if server.known && discovery.seed(&server.host, server.port, table.apis(index)) {
            local |= server.local;
            tracing::info!(
                server = server.name,
                "routes by the pinned table until the server answers"
            );
        }
    }
    local
}

/// With steering the end begins with the kernel: new connections go to kube-apiserver, those whose handshakes are under way are
/// still accepted, and only then the listener closes and open connections are asked to end.
async fn leave(mut signal: DrainSignal, data: DrainTrigger, steering: SharedSteering) {
    let deadline = signal.draining().await;
    steering.leave();
    tracing::info!("new connections go to kube-apiserver");
    tokio::select! {
        () = tokio::time::sleep(LINGER) => {}
        () = signal.forced() => {}
    }
    data.drain(deadline.saturating_duration_since(Instant::now()));
    signal.forced().await;
    data.force();
}
