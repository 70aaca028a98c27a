//! Data threads: one current-thread runtime each. A connection and its upstream pool stay on one of them, so that a request
//! crosses no thread and wakes nobody else.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::views::ThreadSource;
use crate::net::{Accepted, LoopHeartbeat, ThreadInbox, Turns};
use crate::proxy::{self, ConnectSettings, Pool, PoolCounts, Shared, Worker};
use crate::tls::ClientTls;

/// The time between two looks for connections that nobody needs.
const TIDY: Duration = Duration::from_secs(10);

/// A running data thread, as the rest of the agent sees it.
pub(super) struct DataThread {
    name: String,
    pub sink: ThreadInbox,
    heartbeat: LoopHeartbeat,
    handle: JoinHandle<()>,
}

/// What a data thread needs to make its pool.
#[derive(Clone)]
pub(super) struct PoolSettings {
    pub tls: Arc<ClientTls>,
    pub connect: ConnectSettings,
    pub connections: usize,
    pub counts: PoolCounts,
}

impl PoolSettings {
    /// `turns`: of the thread that the pool is for.
    pub(super) fn pool(&self, turns: Turns) -> Arc<Pool> {
        let connect = ConnectSettings {
            turns,
            ..self.connect.clone()
        };
        Arc::new(Pool::new(
            Arc::clone(&self.tls),
            connect,
            self.connections,
            self.counts.clone(),
        ))
    }
}

impl DataThread {
    pub(super) fn spawn(
        index: usize,
        shared: Arc<Shared>,
        pool: PoolSettings,
        tick: Duration,
    ) -> io::Result<Self> {
        let (sink, inbox) = ThreadInbox::new();
        let heartbeat = LoopHeartbeat::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let beat = heartbeat.clone();
        let name = format!("data-{index}");
        let handle = Builder::new().name(name.clone()).spawn(move || {
            runtime.block_on(run(shared, pool, inbox, beat, tick));
        })?;
        Ok(Self {
            name,
            sink,
            heartbeat,
            handle,
        })
    }

    /// What the admin port shows of it.
    pub(super) fn source(&self) -> ThreadSource {
        ThreadSource {
            name: self.name.clone(),
            load: self.sink.load_counter(),
            heartbeat: self.heartbeat.clone(),
        }
    }

    /// When it last turned.
    pub(super) fn heartbeat(&self) -> LoopHeartbeat {
        self.heartbeat.clone()
    }

    /// Waits for the thread's end; its sink's senders must be gone or the drain forced.
    pub(super) fn join(self) {
        drop(self.sink);
        if self.handle.join().is_err() {
            tracing::error!("a data thread panicked");
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    settings: PoolSettings,
    mut inbox: mpsc::UnboundedReceiver<Accepted>,
    heartbeat: LoopHeartbeat,
    tick: Duration,
) {
    let turns = Turns::of_thread();
    let thread = Arc::new(Worker {
        shared: Arc::clone(&shared),
        pool: settings.pool(turns.clone()),
        turns: turns.clone(),
    });
    // Ends with the runtime.
    tokio::spawn(async move { turns.run().await });
    let mut connections = JoinSet::new();
    let mut tick = tokio::time::interval(tick);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidied = Instant::now();
    loop {
        tokio::select! {
            accepted = inbox.recv() => match accepted {
                Some(accepted) => {
                    connections.spawn(proxy::serve(Arc::clone(&thread), accepted));
                }
                None => break,
            },
            Some(_ended) = connections.join_next() => {}
            _ = tick.tick() => {
                heartbeat.beat();
                if tidied.elapsed() >= TIDY {
                    tidied = Instant::now();
                    tidy(&thread);
                }
            }
        }
    }
    let mut drain = shared.drain.clone();
    // The listener is closed. Connections end by themselves, or when the drain's deadline forces them.
    loop {
        tokio::select! {
            ended = connections.join_next() => if ended.is_none() { return },
            () = drain.forced() => return,
            _ = tick.tick() => heartbeat.beat(),
        }
    }
}

fn tidy(thread: &Worker) {
    let table = thread.shared.table.load();
    thread
        .pool
        .tidy(|server| table.position(server).is_some(), Instant::now());
}
