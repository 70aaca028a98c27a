//! What steering counts, read at each scrape.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::Transition;
use super::{Cluster, GuardHandle, GuardReason, SharedSteering, Watch};
use super::{Ended, Retirable, RetireTally};
use crate::kernel::Counters;
use crate::metrics::{
    CLUSTER_WORDS, CONNECTIONS_OF_BEFORE, GUARD_STATE, GUARD_TRANSITIONS, HEARTBEATS_WITHHELD,
    KERNEL_EVENTS, KERNEL_STEERING, Metrics, PASSING_BY, RETIRED, RETIRING_AVAILABLE,
};
use crate::readiness::PassingBy;
use crate::splice::ShortcutPart;

/// Counts that only grow.
#[derive(Default)]
pub struct SteeringStats {
    transitions: Mutex<Transitions>,
    withheld: [AtomicU64; PassingBy::ALL.len()],
    /// What happened to connections of before.
    pub retired: RetireTally,
    shortcut: OnceLock<Arc<ShortcutPart>>,
    retirable: Retirable,
}

/// By the new state and the reason, each from the start.
struct Transitions(BTreeMap<(&'static str, &'static str), u64>);

impl Default for Transitions {
    fn default() -> Self {
        let all = GuardReason::transitions();
        Self(all.map(|(to, why)| ((to, why.as_str()), 0)).collect())
    }
}

impl SteeringStats {
    /// Its programs count for themselves.
    pub fn set_shortcut(&self, shortcut: &Arc<ShortcutPart>) {
        let _ = self.shortcut.set(Arc::clone(shortcut));
    }

    /// Whether connections of before can be ended here.
    pub fn retirable(&self) -> &Retirable {
        &self.retirable
    }

    /// Counts a transition under each of its reasons.
    pub fn transition(&self, transition: &Transition) {
        let to = if transition.to_armed { "armed" } else { "idle" };
        let mut transitions = self
            .transitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for reason in transition.reasons.iter() {
            *transitions.0.entry((to, reason.as_str())).or_default() += 1;
        }
    }

    /// A heartbeat was not sent for this reason.
    pub fn withheld(&self, why: PassingBy) {
        if let Some(count) = self.withheld.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Registers everything here and, with steering, the kernel's own counters.
    pub fn register(
        self: Arc<Self>,
        metrics: &Metrics,
        guard: GuardHandle,
        cluster: Option<Cluster>,
        watch: Watch,
        steering: Option<SharedSteering>,
    ) {
        metrics.register_source(Box::new(move |sink| {
            let armed = guard.is_armed();
            for (state, on) in [("armed", armed), ("idle", !armed)] {
                sink.set(&GUARD_STATE, &[state], f64::from(u8::from(on)));
            }
            let transitions = self
                .transitions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for ((to, reason), count) in &transitions.0 {
                sink.set(&GUARD_TRANSITIONS, &[to, reason], *count as f64);
            }
            drop(transitions);
            let words = cluster
                .as_ref()
                .map_or_else(Cluster::no_counts, Cluster::counts);
            for (kind, count) in words {
                sink.set(&CLUSTER_WORDS, &[kind], count as f64);
            }
            let stance = watch.stance();
            let steers = steering.is_some() && stance.reasons().is_empty();
            sink.set(&KERNEL_STEERING, &[], f64::from(u8::from(steers)));
            for reason in PassingBy::ALL {
                let holds = stance.reasons().iter().any(|(why, _)| *why == reason);
                sink.set(&PASSING_BY, &[reason.as_str()], f64::from(u8::from(holds)));
            }
            // Without steering all that follows is zero, and is there all the same.
            for (reason, count) in PassingBy::ALL.iter().zip(&self.withheld) {
                let count = count.load(Ordering::Relaxed);
                sink.set(&HEARTBEATS_WITHHELD, &[reason.as_str()], count as f64);
            }
            for (outcome, name) in Ended::ALL {
                sink.set(&RETIRED, &[name], self.retired.counted(outcome) as f64);
            }
            let open = self.retired.still_open();
            sink.set(&CONNECTIONS_OF_BEFORE, &[], open as f64);
            if steering.is_some()
                && let Some((works, reason)) = self.retirable.sample()
            {
                sink.set(&RETIRING_AVAILABLE, &[reason], f64::from(u8::from(works)));
            }
            // They cannot be read only if the kernel has no reason to refuse and does; then they are not there.
            let steered = match &steering {
                None => Ok(Counters::default()),
                Some(steering) => steering.lock().counters(),
            };
            let shortcut = self.shortcut.get().and_then(|shortcut| shortcut.counters());
            let spliced = watch.spliced();
            let Ok(steered) = steered else { return };
            for (counter, value) in steered.iter() {
                let others = [&shortcut, &spliced].into_iter().flatten();
                let value = others.fold(value, |sum, part| sum.saturating_add(part.get(counter)));
                sink.set(&KERNEL_EVENTS, &[counter.name()], value as f64);
            }
        }));
    }
}
