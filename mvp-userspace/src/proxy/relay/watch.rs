//! Decides each second which forwarded connections are to end, and which servers are probed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::Relays;
use super::registry::{EndReason, ForwardedKind, WholeConnection};
use crate::api::ApiSet;
use crate::drain::DrainState;
use crate::proxy::Shared;
use crate::route::relay::{ProbeFacts, RelayFate, RelayedFacts, RetireReason, lost_key, retire};
use crate::route::{RouteTable, Server};

const TICK: Duration = Duration::from_secs(1);

/// Ends forwarded connections when a condition ceases. Runs until dropped.
pub async fn watch(shared: Arc<Shared>) {
    let mut losses = Losses::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        look(&shared, &mut losses, Instant::now());
    }
}

/// Probes servers for the names that are in use. Runs until dropped; at once if nothing is ever relayed.
pub async fn probe(shared: Arc<Shared>) {
    let Some(prober) = &shared.relays.prober else {
        return;
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let table = shared.table.load_full();
        let now = Instant::now();
        for name in shared.relays.names.in_use(now) {
            // Asking is what keeps them fresh.
            shared.relays.probes(&table, Some(&name), now);
        }
        let members = table.members().iter();
        let servers: Vec<_> = members.map(|m| m.server.endpoint.clone()).collect();
        prober.round(&servers, shared.relays.from()).await;
    }
}

/// For how long servers have lacked something that another serves.
#[derive(Default)]
struct Losses {
    generation: Option<u64>,
    of: Vec<Loss>,
}

/// One server and what it served when connections were relayed to it.
struct Loss {
    server: Arc<Server>,
    served: Arc<ApiSet>,
    lost_key: Option<Instant>,
    not_superset: Option<Instant>,
    /// Some connection still needs it.
    used: bool,
}

impl Losses {
    /// Brings the list up to this table and these connections. Sets are compared only when either is new.
    fn update(&mut self, table: &RouteTable, carried: &[Arc<WholeConnection>], now: Instant) {
        let renewed = self.generation.replace(table.generation()) != Some(table.generation());
        self.of.iter_mut().for_each(|loss| loss.used = false);
        for one in carried {
            let ForwardedKind::Relay { served } = &one.kind else {
                continue;
            };
            match self.of.iter_mut().find(|loss| loss.is(&one.server, served)) {
                Some(loss) => loss.used = true,
                None => {
                    let mut loss = Loss {
                        server: Arc::clone(&one.server),
                        served: Arc::clone(served),
                        lost_key: None,
                        not_superset: None,
                        used: true,
                    };
                    loss.compare(table, now);
                    self.of.push(loss);
                }
            }
        }
        self.of.retain(|loss| loss.used);
        if renewed {
            self.of.iter_mut().for_each(|loss| loss.compare(table, now));
        }
    }

    /// How long the server has lacked a key, and has not been a superset.
    fn of(
        &self,
        server: &Arc<Server>,
        served: &Arc<ApiSet>,
        now: Instant,
    ) -> [Option<Duration>; 2] {
        let loss = self.of.iter().find(|loss| loss.is(server, served));
        let since = |since: Option<Instant>| Some(now.saturating_duration_since(since?));
        [
            since(loss.and_then(|loss| loss.lost_key)),
            since(loss.and_then(|loss| loss.not_superset)),
        ]
    }
}

impl Loss {
    fn is(&self, server: &Arc<Server>, served: &Arc<ApiSet>) -> bool {
        Arc::ptr_eq(&self.server, server) && Arc::ptr_eq(&self.served, served)
    }

    fn compare(&mut self, table: &RouteTable, now: Instant) {
        let lost = lost_key(&self.server, &self.served, table);
        self.lost_key = lost.then(|| self.lost_key.unwrap_or(now));
        let superset = table
            .position(&self.server)
            .is_some_and(|index| table.is_superset(index));
        self.not_superset = (!superset).then(|| self.not_superset.unwrap_or(now));
    }
}

fn look(shared: &Shared, losses: &mut Losses, now: Instant) {
    let relays: &Relays = &shared.relays;
    let carried = relays.registry.all();
    let table = shared.table.load_full();
    losses.update(&table, &carried, now);
    let places = relays.registry.counts(&table);
    let open = shared.load.connections.load(Ordering::Relaxed);
    let mut relayed: Vec<(&WholeConnection, RelayedFacts<'_>)> = Vec::new();
    for one in &carried {
        match &one.kind {
            ForwardedKind::PassThrough => pass_through(shared, one),
            ForwardedKind::Relay { served } => {
                let facts = facts(relays, losses, one, served, now);
                relayed.push((one, facts));
            }
        }
    }
    let (carried, facts): (Vec<_>, Vec<_>) = relayed.into_iter().unzip();
    let verdicts = retire(&facts, &relays.view(shared, &table, &[], &places, open));
    for (one, verdict) in carried.into_iter().zip(verdicts) {
        match verdict {
            RelayFate::Keep => one.keep(),
            RelayFate::WhenSilent(reason) => one.retire(EndReason::Retired(reason)),
            RelayFate::Now(reason) => one.stop(EndReason::Retired(reason)),
        }
    }
}

fn facts<'a>(
    relays: &Relays,
    losses: &Losses,
    one: &'a WholeConnection,
    served: &'a Arc<ApiSet>,
    now: Instant,
) -> RelayedFacts<'a> {
    let [lost_key_for, not_superset_for] = losses.of(&one.server, served, now);
    let name = one.server_name.as_deref();
    let probe = relays
        .prober
        .as_ref()
        .and_then(|prober| prober.view(&one.server.name, name, now));
    RelayedFacts {
        server: &one.server,
        served,
        lost_key_for,
        not_superset_for,
        probe: probe.map(ProbeFacts::from),
        silent_for: one.look(now).1,
    }
}

fn pass_through(shared: &Shared, one: &WholeConnection) {
    if shared.drain.state() != DrainState::Running {
        one.retire(EndReason::Retired(RetireReason::Draining));
    } else if !shared.relays.pass_through.load(Ordering::Relaxed) {
        one.retire(EndReason::Inspected);
    } else {
        one.keep();
    }
}
