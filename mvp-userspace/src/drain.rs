//! How the agent ends: it begins to drain, has until a deadline, and then everything that is still open is closed.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Running -> Draining -> Forced; never back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DrainState {
    /// New connections are taken.
    Running,
    /// No new connections; open ones are asked to end (GOAWAY) and may do so until then.
    Draining(Instant),
    /// Close now.
    Forced,
}

/// Makes the two ends.
#[derive(Debug)]
pub struct Drain;

/// Tells everybody. Cheap to clone, usable from any thread and runtime.
#[derive(Clone, Debug)]
pub struct DrainTrigger {
    state: Arc<watch::Sender<DrainState>>,
    replaced: Arc<AtomicBool>,
}

/// The side that receives the signal. Cheap to clone, usable from any thread and runtime.
#[derive(Clone, Debug)]
pub struct DrainSignal(watch::Receiver<DrainState>);

impl Drain {
    /// The triggers are to be kept: when the last one is gone without having drained, the signal stays silent for ever.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> (DrainTrigger, DrainSignal) {
        let (sender, receiver) = watch::channel(DrainState::Running);
        {
            let trigger = DrainTrigger {
                state: Arc::new(sender),
                replaced: Arc::default(),
            };
            (trigger, DrainSignal(receiver))
        }
    }
}

impl DrainTrigger {
    /// Starts draining. False if it had started before; the first deadline stays, so that a second signal cannot
    /// prolong the first.
    pub fn drain(&self, deadline: Duration) -> bool {
        self.state.send_if_modified(|state| {
            let starts = *state == DrainState::Running;
            if starts {
                *state = DrainState::Draining(Instant::now() + deadline);
            }
            starts
        })
    }

    /// As [`Self::drain`], because another agent has taken over.
    pub fn replaced(&self, deadline: Duration) -> bool {
        self.replaced.store(true, Ordering::Relaxed);
        self.drain(deadline)
    }

    /// Whether another agent has taken over.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Everything closes now.
    pub fn force(&self) {
        self.state.send_if_modified(|state| {
            let changes = *state != DrainState::Forced;
            *state = DrainState::Forced;
            changes
        });
    }

    /// The state as it was set; the deadline is for [`DrainSignal::state`] to notice.
    pub fn state(&self) -> DrainState {
        *self.state.borrow()
    }
}

impl DrainSignal {
    /// The state now: draining whose deadline has passed is forced.
    pub fn state(&self) -> DrainState {
        match *self.0.borrow() {
            DrainState::Draining(deadline) if Instant::now() >= deadline => DrainState::Forced,
            state => state,
        }
    }

    /// Waits until draining starts, and gives its deadline.
    pub async fn draining(&mut self) -> Instant {
        loop {
            match *self.0.borrow_and_update() {
                DrainState::Running => {}
                DrainState::Draining(deadline) => return deadline,
                DrainState::Forced => return Instant::now(),
            }
            self.changed().await;
        }
    }

    /// Waits until everything is to be closed: the deadline has passed, or somebody forced it.
    pub async fn forced(&mut self) {
        loop {
            let state = *self.0.borrow_and_update();
            match state {
                DrainState::Running => self.changed().await,
                DrainState::Forced => return,
                DrainState::Draining(deadline) => tokio::select! {
                    () = tokio::time::sleep_until(deadline) => return,
                    () = self.changed() => {}
                },
            }
        }
    }

    async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    #[test]
    fn other_runtimes_are_told_and_the_deadline_forces() {
        let (trigger, signal) = Drain::new();
        assert_eq!(signal.state(), DrainState::Running);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let mut signal = signal.clone();
                std::thread::spawn(move || {
                    runtime().block_on(async {
                        let deadline = signal.draining().await;
                        signal.forced().await;
                        Instant::now() >= deadline
                    })
                })
            })
            .collect();
        assert!(trigger.drain(Duration::from_millis(20)));
        for thread in waiting {
            assert!(thread.join().unwrap());
        }
        assert_eq!(signal.state(), DrainState::Forced);
    }

    #[test]
    fn a_second_drain_prolongs_nothing_and_force_ends_it() {
        let (trigger, mut signal) = Drain::new();
        assert!(trigger.drain(Duration::from_secs(3600)));
        let first = trigger.state();
        assert!(!trigger.clone().drain(Duration::from_secs(7200)));
        assert_eq!(trigger.state(), first);
        trigger.force();
        runtime().block_on(signal.forced());
        assert!(!trigger.drain(Duration::ZERO));
        assert_eq!(trigger.state(), DrainState::Forced);
    }

    #[test]
    fn a_signal_that_comes_late_is_told_at_once() {
        let (trigger, signal) = Drain::new();
        trigger.force();
        let mut late = signal.clone();
        runtime().block_on(async {
            late.draining().await;
            late.forced().await;
        });
    }
}
