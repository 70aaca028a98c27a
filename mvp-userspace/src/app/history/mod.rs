//! Keeps the record of what happens: looks at the agent's own status, reads its counters, and writes the file that a restarted agent
//! goes on with.

mod changes;
mod node_events;
mod sample;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use self::changes::Changes;
pub(super) use self::node_events::NodeEvents;
use self::sample::Sampler;
use super::views::{Sources, status};
use crate::drain::{DrainState, DrainTrigger};
use crate::history::{Event, History, Keep, Kept, Kind, unix_millis};

/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(500);
/// Between two samples of the counters.
const SAMPLE: Duration = Duration::from_secs(1);
/// What was counted is in the file after at most this time. Events are in it after the next sample.
const SAVE: Duration = Duration::from_secs(10);
/// How long an agent that takes over waits for the last words of the one before it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Without an agent for so long, something may have happened that nobody noted.
const GAP_MS: u64 = 60_000;

/// Writes the record. Cheap to clone; whoever ends the agent has it closed.
#[derive(Clone)]
pub(super) struct Keeper(Arc<Inner>);

struct Inner {
    history: History,
    sampler: Mutex<Sampler>,
    keep: Keep,
    /// `None`: Kubernetes is not asked for anything.
    node: Option<NodeEvents>,
    drain: DrainTrigger,
    /// The record of before is part of this one.
    adopted: AtomicBool,
    /// The last words are written.
    closed: AtomicBool,
}

impl Keeper {
    /// Begins to follow the agent on this runtime. `another`: an agent runs here, whose place this one takes.
    pub(super) fn start(
        sources: &Arc<Sources>,
        node: Option<NodeEvents>,
        drain: DrainTrigger,
        another: bool,
    ) -> Self {
        let keeper = Self(Arc::new(Inner {
            history: sources.history.clone(),
            sampler: Mutex::new(Sampler::new(
                Arc::clone(&sources.shared.metrics),
                Arc::clone(&sources.shared.tally),
                sources.retired.clone(),
                sources.config.local.name.clone(),
            )),
            keep: Keep::beside(&sources.config.admin.socket),
            node,
            drain,
            adopted: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }));
        tokio::spawn(keeper.clone().run(Arc::clone(sources), another));
        keeper
    }

    /// Writes all of it for the last time. Blocks on file I/O.
    pub(super) fn close(&self) {
        if self.0.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.count(unix_millis());
        self.adopt();
        self.save(true);
    }

    fn count(&self, now_ms: u64) {
        let sampler = self.0.sampler.lock();
        let mut sampler = sampler.unwrap_or_else(PoisonError::into_inner);
        let counted = sampler.sample(now_ms);
        self.0.history.count(counted, sampler.added());
    }

    async fn run(self, sources: Arc<Sources>, another: bool) {
        let started_ms = unix_millis();
        let gap = self.read_before(another).await;
        let kind = match another {
            true => Kind::AgentTookOver,
            false => Kind::AgentStarted,
        };
        let version = env!("CARGO_PKG_VERSION");
        let detail = format!("version {version}{gap}");
        let started = Event::new(started_ms, kind, "", &detail, version);
        self.0.history.note(started);
        let mut changes = Changes::default();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut saving = Saving::default();
        let mut sampled = Instant::now();
        let mut ends = false;
        loop {
            tick.tick().await;
            let now_ms = unix_millis();
            for event in changes.look(status(&sources), now_ms) {
                if let Some(node) = &self.0.node {
                    node.tell(&event);
                }
                self.0.history.note(event);
                saving.noted = true;
            }
            if self.0.drain.state() != DrainState::Running && !std::mem::replace(&mut ends, true) {
                let why = match self.0.drain.is_replaced() {
                    true => "another agent has taken over",
                    false => "it drains",
                };
                self.note(Kind::AgentEnds, why, "");
            }
            if sampled.elapsed() < SAMPLE && !ends {
                continue;
            }
            sampled = Instant::now();
            self.count(now_ms);
            if self.0.drain.is_replaced() {
                // The file belongs to the other one from now on.
                let keeper = self.clone();
                let _ = tokio::task::spawn_blocking(move || keeper.close()).await;
                return;
            }
            if saving.is_due() {
                let keeper = self.clone();
                // An error: the runtime ends, and `close` is called.
                let _ = tokio::task::spawn_blocking(move || keeper.save(false)).await;
            }
        }
    }

    /// The agent before this one wrote what it knew; one that still runs is about to. Says for how long there was none.
    async fn read_before(&self, another: bool) -> String {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            let keeper = self.clone();
            let read = tokio::task::spawn_blocking(move || keeper.0.keep.read(unix_millis())).await;
            let closed = match &read {
                Ok(Kept::Record(document)) => document.closed,
                _ => true,
            };
            if !another || closed || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(LOOK / 5).await;
        }
        let keeper = self.clone();
        let gap = tokio::task::spawn_blocking(move || keeper.adopt()).await;
        match gap {
            Ok(gap) if gap > GAP_MS => {
                let gap = crate::text::table::age(gap);
                format!("; nothing was recorded for {gap} before")
            }
            _ => String::new(),
        }
    }

    /// Makes the record of before a part of this one, once. Returns how old it is, in milliseconds.
    fn adopt(&self) -> u64 {
        if self.0.adopted.swap(true, Ordering::Relaxed) {
            return 0;
        }
        let now_ms = unix_millis();
        match self.0.keep.read(now_ms) {
            Kept::Nothing => 0,
            Kept::Record(document) => {
                let gap = now_ms.saturating_sub(document.saved_ms);
                self.0.history.adopt(*document, now_ms);
                gap
            }
            Kept::Unusable(why) => {
                let path = self.0.keep.path().display();
                tracing::warn!(%path, why, "what happened before this agent's start is not known: its record cannot be read");
                0
            }
        }
    }

    fn save(&self, closed: bool) {
        let document = self.0.history.document(unix_millis(), closed);
        if let Err(error) = self.0.keep.write(&document) {
            let path = self.0.keep.path().display();
            tracing::debug!(%path, %error, "the record is not written: it does not outlive this agent");
        }
    }

    fn note(&self, kind: Kind, detail: &str, value: &str) {
        let event = Event::new(unix_millis(), kind, "", detail, value);
        self.0.history.note(event);
    }
}

/// When the file is to be written.
struct Saving {
    last: Instant,
    noted: bool,
}

impl Default for Saving {
    fn default() -> Self {
        Self {
            last: Instant::now(),
            noted: true,
        }
    }
}

impl Saving {
    fn is_due(&mut self) -> bool {
        let due = self.noted || self.last.elapsed() >= SAVE;
        if due {
            *self = Self {
                last: Instant::now(),
                noted: false,
            };
        }
        due
    }
}
