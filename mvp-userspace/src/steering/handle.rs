//! The guard in the agent: one state that its loop, operators and the admin port share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::GuardView;
use super::signs::{FileWatch, standing};
use super::{Cluster, SteeringStats};
use super::{Guard, GuardReason, GuardReasons, Operator, Signs, State, Transition};
use crate::config::{Config, InspectMode};
use crate::discovery::DiscoveryHandle;

/// The guard, for all who use it. Cheap to clone.
#[derive(Clone)]
pub struct GuardHandle(Arc<Inner>);

struct Inner {
    guard: Mutex<Guard>,
    stats: Arc<SteeringStats>,
    /// Somebody changed the state; the keeper brings it into the kernel.
    wake: Notify,
    lease_changed: AtomicBool,
    /// `inspect: always`
    always: bool,
    /// The kernel does what it says.
    steers: AtomicBool,
}

/// Looks at everything that is a sign.
pub(super) struct Observer {
    handle: GuardHandle,
    discovery: DiscoveryHandle,
    manifest: FileWatch,
    steering_off: bool,
    /// `None`: agents cannot exchange signs.
    cluster: Option<Cluster>,
    /// The guard was idle once.
    settled: bool,
}

impl GuardHandle {
    /// A guard that is armed, as it is until all has been quiet for `kernel.settle`; with `inspect: always` it stays so.
    pub fn new(config: &Config, stats: Arc<SteeringStats>) -> Self {
        let now = Instant::now();
        let mut guard = Guard::new(config.kernel.settle, now);
        let always = config.inspect.mode == InspectMode::Always;
        if always {
            // It was armed already: no transition.
            let _ = guard.operator(Operator::Arm, now);
        }
        Self(Arc::new(Inner {
            guard: Mutex::new(guard),
            stats,
            wake: Notify::new(),
            lease_changed: AtomicBool::new(false),
            always,
            steers: AtomicBool::new(false),
        }))
    }

    /// Whether new connections are steered to the agent.
    pub fn is_armed(&self) -> bool {
        self.guard().is_armed()
    }

    /// The state after the last observation.
    pub fn state(&self) -> State {
        self.guard().state()
    }

    /// An operator's word. With `inspect: always` the configuration's own word takes the place of the signs.
    pub fn operator(&self, word: Operator) {
        let word = match word {
            Operator::Auto | Operator::ArmFor(_) if self.0.always => Operator::Arm,
            word => word,
        };
        tracing::info!(?word, "an operator changes the guard");
        let transition = self.guard().operator(word, Instant::now());
        self.note(transition);
        self.0.wake.notify_one();
    }

    /// From now on the guard's state is written into the kernel's maps.
    pub fn steers(&self) {
        self.0.steers.store(true, Ordering::Relaxed);
    }

    /// A server's identity Lease changed its holder.
    pub fn lease_changed(&self) {
        self.0.lease_changed.store(true, Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// Somebody else saw something; the observer looks at once.
    pub fn look_again(&self) {
        self.0.wake.notify_one();
    }

    /// Resolves when the state may have changed other than by an observation.
    pub async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// The guard as `mvp status` shows it.
    pub fn view(&self) -> GuardView {
        let (state, standing) = {
            let guard = self.guard();
            (guard.state(), guard.standing())
        };
        let (since, idle_at) = match state {
            State::Idle { since, .. } => (since, None),
            State::Armed { since, idle_at, .. } => (since, idle_at),
        };
        let names = |reasons: GuardReasons| {
            let names = reasons.iter().map(|reason| reason.as_str().to_owned());
            names.collect::<Vec<_>>()
        };
        GuardView {
            state: state.as_str().to_owned(),
            steers: self.0.steers.load(Ordering::Relaxed),
            reasons: names(state.reasons()),
            standing: names(standing),
            since_ms: millis(since.elapsed()),
            idle_in_ms: idle_at.map(|at| millis(at.saturating_duration_since(Instant::now()))),
        }
    }

    fn observe(&self, signs: Signs) {
        let transition = self.guard().observe(signs, Instant::now());
        self.note(transition);
    }

    fn note(&self, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        self.0.stats.transition(&transition);
        let reasons = transition.reasons.to_string();
        if transition.to_armed {
            tracing::info!(reasons, "the guard arms");
        } else {
            tracing::info!(reasons, "the guard is idle");
        }
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.0.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer {
    pub(super) fn new(
        handle: GuardHandle,
        discovery: DiscoveryHandle,
        config: &Config,
        steering_off: bool,
        cluster: Option<Cluster>,
    ) -> Self {
        Self {
            handle,
            discovery,
            manifest: FileWatch::new(config.kernel.manifest.clone()),
            steering_off,
            cluster,
            settled: false,
        }
    }

    /// Takes one look. `known`: every server was asked once; before, that nothing is known of one is no sign that it differs, and
    /// that nothing differs is none that all is quiet.
    pub(super) fn look(&mut self, known: bool) {
        let mut signs = if known {
            standing(&self.discovery.table(), &self.discovery.status())
        } else {
            Signs {
                starting: true,
                ..Signs::default()
            }
        };
        signs.steering_off = self.steering_off;
        signs.lease_changed = self.handle.0.lease_changed.swap(false, Ordering::Relaxed);
        signs.manifest_changed = self.manifest.changed();
        if let Some(cluster) = &self.cluster {
            self.settled |= !self.handle.is_armed();
            cluster.share(&mut signs, self.settled);
        }
        self.handle.observe(signs);
    }
}

/// Whether connections that clients made with kube-apiserver itself are to be retired: what makes servers differ must speak for
/// it, and not only that the agent has just started or has no steering.
pub(super) fn retires(state: State) -> bool {
    let State::Armed { reasons, .. } = state else {
        return false;
    };
    reasons
        .iter()
        .any(|reason| !matches!(reason, GuardReason::Starting | GuardReason::SteeringOff))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_alone_retires_nothing() {
        let now = Instant::now();
        let mut guard = Guard::new(Duration::from_secs(1), now);
        assert!(guard.is_armed() && !retires(guard.state()));
        guard.observe(Signs::default(), now);
        assert!(!retires(guard.state()));
        let signs = Signs {
            steering_off: true,
            ..Signs::default()
        };
        guard.observe(signs, now);
        assert!(!retires(guard.state()));
        let signs = Signs {
            versions_differ: true,
            ..signs
        };
        guard.observe(signs, now);
        assert!(retires(guard.state()));
        guard.operator(Operator::Disarm, now);
        assert!(!retires(guard.state()));
    }
}
