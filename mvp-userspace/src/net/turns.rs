//! Costly steps, such as those of a TLS handshake, spread over the turns of a thread's event loop.
//!
//! A current-thread runtime polls whatever is ready in the order in which it became ready. Hundreds of handshakes that become ready at
//! once would hold up everybody else on the thread for the sum of what they cost. So only a few are polled in one turn, and the others
//! wait in a queue of their own; what else is ready comes between.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Steps in one turn. A handshake's costly step is a signature and its verification, about 0.3 ms together.
const A_TURN: usize = 1;

/// With more steps waiting than this, there are pauses between them: whoever makes hundreds of connections at once leaves the processor to
/// requests for half of the time.
const CROWD: usize = 16;
/// For so long a crowd's steps are taken, and then none for as long. The runtime's timers are no finer.
const SPELL: Duration = Duration::from_millis(1);

/// The turns of one thread. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Turns(Option<Arc<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// A step has to wait, or the turn's last was taken.
    wanted: Notify,
}

#[derive(Debug)]
struct State {
    /// Steps that may still be taken in this turn.
    left: usize,
    waiting: VecDeque<Waker>,
    /// Numbers below this may take their step. They are given in the order of the queue.
    admitted: u64,
    next: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            left: A_TURN,
            waiting: VecDeque::new(),
            admitted: 0,
            next: 0,
        }
    }
}

/// Wakes the task that is polled after the thread's sockets were looked at. A task that merely wakes itself is polled again before
/// that, up to 61 times (`event_interval` of tokio's runtime), and a request that arrives meanwhile waits for all of them.
pub fn next_turn(cx: &mut Context<'_>) {
    // It yields at its first poll, whose waker the runtime keeps until then (`task::yield_now` of tokio).
    let _pending = std::pin::pin!(tokio::task::yield_now()).as_mut().poll(cx);
}

impl Turns {
    /// For a thread whose runtime also drives [`Self::run`].
    pub fn of_thread() -> Self {
        Self(Some(Arc::default()))
    }

    /// For a runtime that serves no clients: nothing waits.
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// Each poll of `steps` is one step.
    pub fn limit<F: Future + Unpin>(&self, steps: F) -> Limited<F> {
        Limited {
            turns: self.clone(),
            steps,
            number: None,
        }
    }

    /// Admits those that wait, turn by turn, for as long as it is polled.
    pub async fn run(&self) {
        let Some(inner) = &self.0 else {
            return std::future::pending().await;
        };
        loop {
            inner.wanted.notified().await;
            let mut spell = Instant::now();
            loop {
                // Whatever else is ready is polled before this goes on.
                tokio::task::yield_now().await;
                if !inner.lock().is_crowded() {
                    spell = Instant::now();
                } else if spell.elapsed() >= SPELL {
                    tokio::time::sleep(SPELL).await;
                    spell = Instant::now();
                }
                let admitted = inner.lock().turn();
                if admitted.is_empty() {
                    break;
                }
                admitted.into_iter().for_each(Waker::wake);
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_crowded(&self) -> bool {
        self.waiting.len() > CROWD
    }

    /// Begins the next turn, and admits the first of those that wait.
    fn turn(&mut self) -> Vec<Waker> {
        let count = self.waiting.len().min(A_TURN);
        self.left = A_TURN - count;
        self.admitted += count as u64;
        self.waiting.drain(..count).collect()
    }

    /// Whether the step with this number may be taken now; without one, whether it need not wait. Gives the number that waits, else.
    fn take(&mut self, number: Option<u64>, waker: &Waker) -> Result<(), u64> {
        match number {
            Some(number) if number < self.admitted => Ok(()),
            Some(number) => {
                // The task may have been moved, or be woken by another part of it.
                let index = usize::try_from(number - self.admitted).unwrap_or(usize::MAX);
                if let Some(place) = self.waiting.get_mut(index) {
                    place.clone_from(waker);
                }
                Err(number)
            }
            None if self.left > 0 && self.waiting.is_empty() => {
                self.left -= 1;
                Ok(())
            }
            None => {
                let number = self.next;
                self.next += 1;
                self.waiting.push_back(waker.clone());
                Err(number)
            }
        }
    }
}

/// See [`Turns::limit`].
#[derive(Debug)]
pub struct Limited<F> {
    turns: Turns,
    steps: F,
    /// While it waits.
    number: Option<u64>,
}

impl<F: Future + Unpin> Future for Limited<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if let Some(inner) = &this.turns.0 {
            let mut state = inner.lock();
            if let Err(number) = state.take(this.number, cx.waker()) {
                this.number = Some(number);
                drop(state);
                inner.wanted.notify_one();
                return Poll::Pending;
            }
            this.number = None;
            if state.left == 0 {
                drop(state);
                inner.wanted.notify_one();
            }
        }
        Pin::new(&mut this.steps).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Ready at its second poll; notes the turn of the loop in which it was.
    struct Steps {
        polls: usize,
        turn: Arc<AtomicUsize>,
        done: Arc<Mutex<Vec<usize>>>,
    }

    impl Future for Steps {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.done
                .lock()
                .unwrap()
                .push(self.turn.load(Ordering::Relaxed));
            self.polls += 1;
            if self.polls == 2 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn no_turn_has_more_steps_than_a_few_and_none_is_forgotten() {
        let turns = Turns::of_thread();
        let turn = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(Mutex::new(Vec::new()));
        let driver = turns.clone();
        let driver = tokio::spawn(async move { driver.run().await });
        let steps: Vec<_> = (0..20)
            .map(|_| {
                let steps = Steps {
                    polls: 0,
                    turn: Arc::clone(&turn),
                    done: Arc::clone(&done),
                };
                tokio::spawn(turns.limit(steps))
            })
            .collect();
        // Another task that is always ready: it sees every turn.
        let counted = Arc::clone(&turn);
        let clock = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        for one in steps {
            one.await.unwrap();
        }
        clock.abort();
        driver.abort();
        let done = done.lock().unwrap();
        assert_eq!(done.len(), 40);
        let most = done.chunk_by(|a, b| a == b).map(<[_]>::len).max().unwrap();
        // The clock may stand before or after the driver in a turn, so that two turns of steps may fall into one of its own.
        assert!(most <= 2 * A_TURN, "{done:?}");
    }

    /// A step that takes a fifth of a millisecond.
    struct Costly;

    impl Future for Costly {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            let begun = Instant::now();
            while begun.elapsed() < SPELL / 5 {
                std::hint::spin_loop();
            }
            Poll::Ready(())
        }
    }

    #[tokio::test]
    async fn a_crowd_leaves_half_of_the_time_to_others() {
        let turns = Turns::of_thread();
        let driver = turns.clone();
        let driver = tokio::spawn(async move { driver.run().await });
        let begun = Instant::now();
        let steps = (0..CROWD + 40).map(|_| tokio::spawn(turns.limit(Costly)));
        for one in steps.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        let others = begun
            .elapsed()
            .saturating_sub(SPELL / 5 * (CROWD as u32 + 40));
        driver.abort();
        // Of the forty steps that have a crowd behind them, five fill a spell. A sleep never ends early.
        assert!(others >= SPELL * 4, "{others:?}");
    }

    #[tokio::test]
    async fn one_that_gives_up_holds_up_nobody() {
        let turns = Turns::of_thread();
        let driver = turns.clone();
        let driver = tokio::spawn(async move { driver.run().await });
        let forever = || turns.limit(std::future::pending::<()>());
        let mut waiting: Vec<_> = (0..10).map(|_| forever()).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one).is_pending());
        }
        drop(waiting);
        turns.limit(std::future::ready(())).await;
        driver.abort();
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let turns = Turns::unlimited();
        for _ in 0..100 {
            assert!(futures_util::poll!(turns.limit(std::future::ready(()))).is_ready());
        }
    }
}
