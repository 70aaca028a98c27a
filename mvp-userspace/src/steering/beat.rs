//! The heartbeat: sent by the accept loop at its own turns, and only while connections that it accepts are served: while no reason
//! of [`PassingReasons`] holds.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::SteeringStats;
use crate::drain::{DrainState, DrainTrigger};
use crate::kernel::{self, queued, room};
use crate::net::LoopHeartbeat;
use crate::net::{OnTick, Turn};
use crate::readiness::Task;
use crate::readiness::{PassingBy, PassingReasons};

/// The kernel passes when none came for a second.
const INTERVAL: Duration = Duration::from_millis(100);
/// A data thread that has not turned for so long serves nobody.
const SILENT: Duration = Duration::from_millis(500);

/// Everything that a beat depends on.
pub(super) struct Beat {
    pub heartbeat: kernel::Heartbeat,
    pub threads: Vec<LoopHeartbeat>,
    pub standing: PassingReasons,
    pub drain: DrainTrigger,
    pub drain_deadline: Duration,
    pub stats: Arc<SteeringStats>,
    /// Done with the first beat: from then on the kernel steers to this agent.
    pub first: Option<Task>,
}

impl Beat {
    /// What [`crate::net::AcceptLoop::run`] calls at its turns.
    pub(super) fn on_tick(mut self) -> OnTick {
        let mut refused = false;
        let mut told = None;
        let mut granted = false;
        OnTick {
            interval: INTERVAL,
            call: Box::new(move |turn| {
                self.look(&turn);
                // Whether the kernel takes a beat is only found out by a beat.
                let own = refused.then_some(PassingBy::Kernel);
                match withheld(self.standing.reasons().iter().map(|(why, _)| *why), own) {
                    Some(why) => {
                        self.stats.withheld(why);
                        // What was granted is taken back, once. A map that cannot be written shows in the next beat.
                        if std::mem::take(&mut granted) && why != PassingBy::Draining {
                            let _ = self.heartbeat.grant_nothing();
                        }
                    }
                    None => {
                        granted = true;
                        refused = !self.try_to_beat(&turn);
                    }
                }
                self.tell(&mut told);
            }),
        }
    }

    /// The reasons that are found here and nowhere else.
    fn look(&self, turn: &Turn<'_>) {
        if self.drain.state() != DrainState::Running {
            // Only if nobody has said more of it.
            let known = self.standing.reasons();
            if known.iter().all(|(why, _)| *why != PassingBy::Draining) {
                self.standing.set(PassingBy::Draining, "the agent drains");
            }
        }
        let failing = turn.failing.then(|| {
            "connections could not be accepted in the last second: look at the limit of open files".to_owned()
        });
        self.standing.put(PassingBy::Accept, failing);
        self.standing.put(PassingBy::Full, full(grant(turn)));
        let oldest = self.threads.iter().map(LoopHeartbeat::age).max();
        self.standing.put(PassingBy::Thread, silent(oldest));
    }

    /// False if the kernel refuses the beat.
    fn try_to_beat(&mut self, turn: &Turn<'_>) -> bool {
        match self.beat(turn) {
            Ok(()) => {
                self.first = None;
                self.standing.clear(PassingBy::Kernel);
                true
            }
            Err(kernel::Error::Replaced) => {
                self.standing
                    .set(PassingBy::Draining, "another agent has taken over");
                if self.drain.replaced(self.drain_deadline) {
                    tracing::info!("another agent has taken over: this one drains");
                }
                true
            }
            Err(error) => {
                let detail = format!("the kernel refuses the heartbeat: {error}");
                self.standing.set(PassingBy::Kernel, detail);
                false
            }
        }
    }

    /// One line in the log for each change of what is to be looked at first.
    fn tell(&self, told: &mut Option<PassingBy>) {
        let reasons = self.standing.reasons();
        let first = reasons.first();
        let now = first.map(|(why, _)| *why);
        if std::mem::replace(told, now) == now {
            return;
        }
        match first {
            None => tracing::info!("the agent takes connections while the guard is armed"),
            Some((why @ (PassingBy::Starting | PassingBy::Draining), detail)) => {
                tracing::info!(
                    reason = why.as_str(),
                    detail,
                    "new connections pass to kube-apiserver"
                );
            }
            Some((why, detail)) => {
                tracing::warn!(
                    reason = why.as_str(),
                    detail,
                    "new connections pass to kube-apiserver"
                );
            }
        }
    }

    fn beat(&mut self, turn: &Turn<'_>) -> Result<(), kernel::Error> {
        self.heartbeat.beat(grant(turn))
    }
}

/// How many connections the kernel may steer until the next beat: what the accept queue has room for, and no more than there is
/// room for once those are accepted that wait in it already. A listener whose state cannot be read has no room.
fn grant(turn: &Turn<'_>) -> u32 {
    let listener = turn.listener.as_fd();
    let (Ok(room), Ok(queued)) = (room(&[listener]), queued(listener)) else {
        return 0;
    };
    let spare = u32::try_from(turn.spare).unwrap_or(u32::MAX);
    room.min(spare.saturating_sub(queued))
}

/// Said of an agent that may grant so many connections.
fn full(grant: u32) -> Option<String> {
    (grant == 0).then(|| {
        "there is no room for another connection: limits.connections, limits.pendingHandshakes or the accept queue is used up"
            .to_owned()
    })
}

/// The first reason that holds, but for `own`, which the last beat found and only the next one can clear.
fn withheld(
    mut reasons: impl Iterator<Item = PassingBy>,
    own: Option<PassingBy>,
) -> Option<PassingBy> {
    reasons.find(|why| Some(*why) != own)
}

/// `oldest`: since the data thread turned that has not turned for the longest time.
fn silent(oldest: Option<Duration>) -> Option<String> {
    let age = oldest.filter(|age| *age > SILENT)?;
    Some(format!(
        "a data thread has made no progress for {} ms",
        age.as_millis()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beats_only_while_no_reason_holds() {
        for reason in PassingBy::ALL {
            assert_eq!(withheld([reason].into_iter(), None), Some(reason));
        }
        assert_eq!(withheld([].into_iter(), None), None);
    }

    #[test]
    fn a_refused_beat_is_tried_again_and_hides_no_other_reason() {
        let own = Some(PassingBy::Kernel);
        assert_eq!(withheld([PassingBy::Kernel].into_iter(), own), None);
        let both = [PassingBy::Full, PassingBy::Kernel].into_iter();
        assert_eq!(withheld(both, own), Some(PassingBy::Full));
    }

    #[test]
    fn a_thread_is_silent_after_half_a_second() {
        assert_eq!(silent(None), None);
        assert_eq!(silent(Some(SILENT)), None);
        assert!(silent(Some(SILENT + Duration::from_millis(1))).is_some());
    }
}
