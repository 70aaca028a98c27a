//! The accept loop: takes connections, keeps their limit, hands each to the data thread with the fewest.

use std::future::Future;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Without anybody to call.
const IDLE_TICK: Duration = Duration::from_secs(3600);
/// A failure to accept counts for so long; while nobody comes, nobody would find out that it is over.
const FAILING: Duration = Duration::from_secs(1);

/// One accepted connection. Holds its place in the limit until dropped.
#[derive(Debug)]
pub struct Accepted {
    pub stream: StdTcpStream,
    pub peer: SocketAddr,
    pub slot: Slot,
}

/// A data thread's inbox, and how many connections it has.
#[derive(Clone, Debug)]
pub struct Sink {
    inbox: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// A connection's place in the counts of its thread and of the whole agent.
#[derive(Debug)]
pub struct Slot {
    thread: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
}

/// Called by the accept loop itself, so that a call shows that it turns.
pub struct OnTick {
    pub interval: Duration,
    pub call: Box<dyn FnMut(Turn<'_>) + Send>,
}

/// How the accept loop is doing.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    pub listener: &'a TcpListener,
    /// Connections that the limit still allows.
    pub spare: usize,
    /// No connection could be accepted lately, though there was one: descriptors or memory have run out.
    pub failing: bool,
}

#[derive(Debug)]
pub struct AcceptLoop {
    pub listener: TcpListener,
    pub sinks: Vec<Sink>,
    /// Open connections of the whole agent.
    pub total: Arc<AtomicUsize>,
    /// Connections above this are closed at once.
    pub limit: usize,
}

impl Sink {
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
        thread.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(1, Ordering::Relaxed);
        Self {
            thread: Arc::clone(thread),
            total: Arc::clone(total),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.thread.fetch_sub(1, Ordering::Relaxed);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AcceptLoop {
    /// Accepts until `stop` resolves, then closes the listener. `refused` is called for each connection above the limit.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        refused: impl Fn(),
        mut on_tick: Option<OnTick>,
    ) {
        tokio::pin!(stop);
        let interval = on_tick.as_ref().map_or(IDLE_TICK, |on| on.interval);
        let mut tick = tokio::time::interval(interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut stop => return,
                _ = tick.tick() => {
                    if let Some(on_tick) = &mut on_tick {
                        (on_tick.call)(Turn {
                            listener: &self.listener,
                            spare: self.limit.saturating_sub(self.total.load(Ordering::Relaxed)),
                            failing: failed.is_some_and(|at| at.elapsed() < FAILING),
                        });
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, peer)) => {
                    if self.total.load(Ordering::Relaxed) >= self.limit {
                        refused();
                        continue;
                    }
                    self.hand_over(stream, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    // Out of file descriptors or memory: the connections that are open must get a chance to end.
                    // Errors of a single connection (ECONNABORTED) need no pause.
                    if !matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) {
                        failed = Some(Instant::now());
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }

    fn hand_over(&self, stream: tokio::net::TcpStream, peer: SocketAddr) {
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
        if sink.inbox.send(Accepted { stream, peer, slot }).is_err() {
            tracing::error!(%peer, "data thread is gone; connection dropped");
        }
    }
}
