//! The heartbeat: sent by the accept loop at its own turns, and only while connections that it accepts are served.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::SteeringStats;
use super::stats::Withheld;
use crate::app::threads::Heartbeat as ThreadHeartbeat;
use crate::app::{DrainState, DrainTrigger, Task};
use crate::kernel::{self, room};
use crate::net::{OnTick, Turn};

/// The kernel passes when none came for a second.
const INTERVAL: Duration = Duration::from_millis(100);
/// A data thread that has not turned for so long serves nobody.
const SILENT: Duration = Duration::from_millis(500);

/// Everything that a beat depends on.
pub struct Beat {
    pub heartbeat: kernel::Heartbeat,
    pub threads: Vec<ThreadHeartbeat>,
    /// Something is known of the servers.
    pub ready: Arc<AtomicBool>,
    pub drain: DrainTrigger,
    pub drain_deadline: Duration,
    pub stats: Arc<SteeringStats>,
    /// Done with the first beat: from then on the kernel steers to this agent.
    pub first: Option<Task>,
}

impl Beat {
    /// For [`crate::net::AcceptLoop::run`].
    pub fn on_tick(mut self) -> OnTick {
        let mut broken = false;
        OnTick {
            interval: INTERVAL,
            call: Box::new(move |turn| {
                if let Some(why) = self.withheld(&turn) {
                    self.stats.withheld(why);
                    return;
                }
                match self.beat(&turn) {
                    Ok(()) => {
                        self.first = None;
                        broken = false;
                    }
                    Err(kernel::Error::Replaced) => {
                        if self.drain.drain(self.drain_deadline) {
                            tracing::info!("another agent has taken over: this one drains");
                        }
                    }
                    Err(error) if !broken => {
                        broken = true;
                        tracing::error!(%error, "no heartbeat: the kernel passes connections to kube-apiserver");
                    }
                    Err(_) => {}
                }
            }),
        }
    }

    fn withheld(&self, turn: &Turn<'_>) -> Option<Withheld> {
        let running = self.drain.state() == DrainState::Running;
        let ready = self.ready.load(Ordering::Relaxed);
        let ages = self.threads.iter().map(ThreadHeartbeat::age);
        withheld(running, ready, turn.failing, ages)
    }

    fn beat(&mut self, turn: &Turn<'_>) -> Result<(), kernel::Error> {
        // A listener that tells nothing has no room.
        let room = room(&[turn.listener.as_fd()]).unwrap_or(0);
        let spare = u32::try_from(turn.spare).unwrap_or(u32::MAX);
        self.heartbeat.beat(room.min(spare))
    }
}

/// Why not to beat; `ages`: since each data thread last turned.
fn withheld(
    running: bool,
    ready: bool,
    failing: bool,
    mut ages: impl Iterator<Item = Duration>,
) -> Option<Withheld> {
    if !running {
        Some(Withheld::Draining)
    } else if !ready {
        Some(Withheld::Starting)
    } else if failing {
        Some(Withheld::Accept)
    } else {
        ages.any(|age| age > SILENT).then_some(Withheld::Thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_beats_only_for_an_agent_that_serves() {
        let ages = |second: u64| [10, second].map(Duration::from_millis).into_iter();
        assert_eq!(withheld(true, true, false, ages(500)), None);
        assert_eq!(
            withheld(true, true, false, ages(501)),
            Some(Withheld::Thread)
        );
        assert_eq!(withheld(true, true, true, ages(0)), Some(Withheld::Accept));
        assert_eq!(
            withheld(true, false, false, ages(0)),
            Some(Withheld::Starting)
        );
        assert_eq!(
            withheld(false, true, false, ages(0)),
            Some(Withheld::Draining)
        );
    }
}
