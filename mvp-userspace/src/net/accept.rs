//! The accept loop: takes connections, asks [`Admission`] for their places, hands each to the data thread with the fewest.

use std::future::Future;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::admission::{Admission, AdmissionPermit, Shortage};
use super::close_waiting::{close_waiting, is_of_one_connection};
use super::descriptors;
use super::owned::OpenCount;

/// The interval of turns if there is nothing to call.
const IDLE_TICK: Duration = Duration::from_secs(3600);
/// A failure to accept counts for so long at least; then as long as descriptors cannot be had, which nobody would find out
/// about while nobody comes.
const FAILING: Duration = Duration::from_secs(1);
/// The time between two tries to accept, while that fails.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that may be open beyond the limit: those that were asked to end and have not been closed yet.
const ENDING: usize = 64;

/// One accepted connection. Holds its place in the limits until dropped.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking and not yet registered with a runtime.
    pub stream: StdTcpStream,
    /// The client's address and port, as the kernel has them.
    pub peer: SocketAddr,
    /// Its place within `limits.connections` and `limits.pendingHandshakes`; it says when the connection is to end for another.
    pub place: AdmissionPermit,
    /// Its place in the counts of open connections.
    pub slot: Slot,
}

/// A data thread's inbox, and how many connections it has.
#[derive(Clone, Debug)]
pub struct ThreadInbox {
    inbox: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// A connection's place in the counts of its thread and of the whole agent.
#[derive(Debug)]
pub struct Slot {
    _thread: OpenCount,
    _total: OpenCount,
}

/// Called by the accept loop itself, so that a call shows that it turns.
pub struct OnTick {
    /// From one call to the next.
    pub interval: Duration,
    /// What is called; it must not wait.
    pub call: Box<dyn FnMut(Turn<'_>) + Send>,
}

/// How the accept loop is doing.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// The listener that the loop accepts from.
    pub listener: &'a TcpListener,
    /// Connections that the limits still allow, [`Admission::room`].
    pub spare: usize,
    /// No connection could be accepted lately, though there was one: descriptors or memory have run out.
    pub failing: bool,
}

/// What the loop needs; [`Self::run`] consumes it.
#[derive(Debug)]
pub struct AcceptLoop {
    /// Connections come from here. The loop closes it at its end.
    pub listener: TcpListener,
    /// The inboxes of the data threads; at least one.
    pub sinks: Vec<ThreadInbox>,
    /// Open connections of the whole agent.
    pub total: Arc<AtomicUsize>,
    /// Their limit.
    pub limit: usize,
    /// The limits on what clients have.
    pub admission: Admission,
}

/// The state of a loop that cannot accept.
#[derive(Debug, Default)]
struct Failing {
    since: Option<Instant>,
    last: Option<Instant>,
    /// That not even closing succeeds.
    told: bool,
}

impl ThreadInbox {
    /// The inbox is unbounded in itself; what can be in it is bounded by the connection limit.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Accepted>) {
        let (inbox, receiver) = mpsc::unbounded_channel();
        (
            Self {
                inbox,
                load: Arc::default(),
            },
            receiver,
        )
    }

    /// Open connections of this thread.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// The count itself, for readers that must not keep the thread's inbox open.
    pub fn load_counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.load)
    }
}

impl Slot {
    fn take(thread: &Arc<AtomicUsize>, total: &Arc<AtomicUsize>) -> Self {
        Self {
            _thread: OpenCount::new(thread),
            _total: OpenCount::new(total),
        }
    }
}

impl AcceptLoop {
    /// Accepts until `stop` resolves, then closes the listener. `refused` is called with the limit for each connection that is
    /// refused, or ended for another.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        refused: impl Fn(&'static str),
        mut on_tick: Option<OnTick>,
    ) {
        tokio::pin!(stop);
        let interval = on_tick.as_ref().map_or(IDLE_TICK, |on| on.interval);
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = Failing::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept(), if !failing.pauses() => accepted,
                () = failing.pause(), if failing.pauses() => continue,
                () = &mut stop => return,
                _ = tick.tick() => {
                    if let Some(on_tick) = &mut on_tick {
                        (on_tick.call)(self.turn(&mut failing));
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, peer)) => {
                    failing.is_on();
                    self.take(stream, peer, &refused);
                }
                // Errors of a single connection.
                Err(error) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => {
                    // Out of descriptors or memory: a useless connection must end, and no client wait for nothing. What ended for the first failure
                    // has left its descriptor by the next.
                    self.admission.make_room();
                    if failing.begin() {
                        tracing::warn!(%error, "accept failed: connections are closed until it succeeds");
                    } else {
                        self.close_waiting(&mut failing, &refused);
                    }
                    if let Some(on_tick) = &mut on_tick {
                        (on_tick.call)(self.turn(&mut failing));
                    }
                }
            }
        }
    }

    fn turn<'a>(&'a self, failing: &mut Failing) -> Turn<'a> {
        let free = (self.limit + ENDING).saturating_sub(self.total.load(Ordering::Relaxed));
        Turn {
            listener: &self.listener,
            spare: self.admission.room(Instant::now()).min(free),
            failing: failing.is_on(),
        }
    }

    fn close_waiting(&self, failing: &mut Failing, refused: &impl Fn(&'static str)) {
        match close_waiting(&self.listener) {
            Ok(closed) => (0..closed).for_each(|_| refused("descriptors")),
            Err(error) if !std::mem::replace(&mut failing.told, true) => {
                tracing::warn!(%error, "connections that cannot be accepted cannot be closed either, and wait");
            }
            Err(_) => {}
        }
    }

    fn take(
        &self,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        refused: &impl Fn(&'static str),
    ) {
        if self.total.load(Ordering::Relaxed) >= self.limit + ENDING {
            refused(Shortage::Connections.as_str());
            return;
        }
        let ended = |why: Shortage| refused(why.as_str());
        match self.admission.admit(peer.ip(), Instant::now(), ended) {
            Ok(place) => self.hand_over(stream, peer, place),
            Err(why) => refused(why.as_str()),
        }
    }

    fn hand_over(&self, stream: tokio::net::TcpStream, peer: SocketAddr, place: AdmissionPermit) {
        let Some(sink) = self.sinks.iter().min_by_key(|sink| sink.load()) else {
            return;
        };
        // Registered with the accepting runtime; the data thread registers it with its own.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, %peer, "cannot hand a connection over");
                return;
            }
        };
        let slot = Slot::take(&sink.load, &self.total);
        let accepted = Accepted {
            stream,
            peer,
            place,
            slot,
        };
        if sink.inbox.send(accepted).is_err() {
            tracing::error!(%peer, "data thread is gone; connection dropped");
        }
    }
}

impl Failing {
    /// Notes a failure; true if it is the first of its kind.
    fn begin(&mut self) -> bool {
        let now = Instant::now();
        self.last = Some(now);
        self.since.replace(self.since.unwrap_or(now)).is_none()
    }

    /// Whether it still counts.
    fn is_on(&mut self) -> bool {
        let Some(last) = self.last else {
            return false;
        };
        if last.elapsed() >= FAILING {
            if descriptors::enough() {
                tracing::info!("connections are accepted again");
                *self = Self::default();
                return false;
            }
            self.last = Some(Instant::now());
        }
        true
    }

    /// Whether the next try to accept must wait.
    fn pauses(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < PAUSE)
    }

    async fn pause(&self) {
        let left = self.last.map(|last| PAUSE.saturating_sub(last.elapsed()));
        tokio::time::sleep(left.unwrap_or_default()).await;
    }
}
