//! One half of the demo: a fresh control plane, load, and the upgrade of one server after another.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::RATE;
use super::agents::{Agents, Measured};
use super::operation::{CONFIG_MAPS, POLICIES};
use super::plane::{NAMES, Plane};
use super::progress::Progress;
use super::tally::{Seen, Tally};
use super::traffic::{Profile, Traffic};
use super::watcher::Watcher;
use crate::load::open_loop;
use crate::sim::pki::Pki;

pub(super) struct Phase {
    /// The agent's binary; `None`: clients talk to the servers.
    pub agent: Option<PathBuf>,
}

/// What one half saw.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub seen: Seen,
    /// Events of confirmed creations that a watch never delivered.
    pub missed_events: u64,
    pub agents: Option<Measured>,
}

/// Load before the first server stops, and after the last one is back.
const QUIET: Duration = Duration::from_millis(2000);
/// How long a server is away.
const AWAY: Duration = Duration::from_millis(2000);
/// Between two servers.
const BETWEEN: Duration = Duration::from_millis(4000);
/// For answers and events that are still under way at the end.
const GRACE: Duration = Duration::from_secs(12);

impl Phase {
    pub(super) async fn run(self) -> Result<Outcome> {
        let plane = Plane::start().await?;
        let mut agents = match &self.agent {
            Some(binary) => Some(Agents::start(binary, &plane.servers(), plane.pki()).await?),
            None => None,
        };
        let fronts = agents
            .as_ref()
            .map_or_else(|| plane.servers(), Agents::fronts);
        let tally = Arc::new(Tally::default());
        let label = if agents.is_some() {
            "with agents"
        } else {
            "without agents"
        };
        let progress = Progress::new(label, tally.clone());
        let line = tokio::spawn(progress.clone().run());

        let mut watches = Watches::new(tally.clone());
        watches.add(&fronts, plane.pki(), CONFIG_MAPS)?;
        watches.wait_established().await?;
        let new_keys = Arc::new(AtomicBool::new(false));
        let traffic = Traffic::new(&fronts, plane.pki(), tally.clone(), new_keys.clone())?;
        let upgrade = upgrade(&plane, &fronts, &new_keys, &mut watches, &progress);
        load(&traffic, upgrade).await??;
        let created = tally.seen().created;
        let missed_events = watches.finish(&created).await;
        line.abort();
        progress.finish();

        let measured = match &mut agents {
            Some(agents) => Some(agents.measure().await?),
            None => None,
        };
        Ok(Outcome {
            seen: tally.seen(),
            missed_events,
            agents: measured,
        })
    }
}

impl Outcome {
    /// # Errors
    /// A client saw a false 404 or an error, or a watch lost an event; the message has the first ones.
    pub(super) fn check(&self) -> Result<()> {
        let (false_404, errors) = (self.seen.false_404(), self.errors());
        ensure!(
            false_404 == 0 && errors == 0,
            "the agents let {false_404} false 404s and {errors} errors through:\n  {}",
            self.seen.examples.join("\n  ")
        );
        Ok(())
    }

    /// A watch that goes on without an event is a watch that did not resume.
    pub(super) fn errors(&self) -> u64 {
        self.seen.errors() + self.missed_events
    }
}

/// Sends while `work` runs, then waits for the answers.
async fn load<T>(traffic: &Traffic, work: impl Future<Output = T>) -> Result<T> {
    let mut result = None;
    let mut tasks = Vec::new();
    let until = async { result = Some(work.await) };
    open_loop(RATE, until, |due| tasks.push(traffic.send(due))).await;
    for task in tasks {
        timeout(GRACE, task)
            .await
            .context("a request has no end")??;
    }
    result.context("the clock of the load ended early")
}

async fn upgrade(
    plane: &Plane,
    fronts: &[(String, SocketAddr)],
    new_keys: &AtomicBool,
    watches: &mut Watches,
    progress: &Progress,
) -> Result<()> {
    progress.step("three servers of 1.35".into());
    sleep(QUIET).await;
    for (index, name) in NAMES.iter().enumerate() {
        progress.step(format!("{name} stops"));
        plane.stop(index).await?;
        sleep(AWAY).await;
        progress.step(format!("{name} starts as 1.36"));
        plane.start_upgraded(index).await?;
        if index == 0 {
            // From here on a 404 for the new resources is false.
            plane.seed_new(index).await?;
            new_keys.store(true, Ordering::SeqCst);
            watches.add(fronts, plane.pki(), POLICIES)?;
        }
        progress.step(format!("{name} is ready"));
        sleep(BETWEEN).await;
    }
    sleep(QUIET).await;
    Ok(())
}

/// The watches of one half.
struct Watches {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    running: JoinSet<Watched>,
    established: Vec<watch::Receiver<bool>>,
}

struct Watched {
    collection: String,
    added: BTreeSet<String>,
}

impl Watches {
    fn new(tally: Arc<Tally>) -> Self {
        Self {
            tally,
            stop: watch::Sender::new(false),
            running: JoinSet::new(),
            established: Vec::new(),
        }
    }

    /// Two watches at every front, one of them over HTTP/1.1.
    fn add(&mut self, fronts: &[(String, SocketAddr)], pki: &Pki, collection: &str) -> Result<()> {
        for (front, address) in fronts {
            for profile in [Profile::Http2Certificate, Profile::Http1Token] {
                let established = watch::Sender::new(false);
                self.established.push(established.subscribe());
                let mut watcher = Watcher {
                    front: front.clone(),
                    client: profile.client(pki, *address)?,
                    collection: collection.into(),
                    tally: self.tally.clone(),
                    established,
                    added: BTreeSet::new(),
                };
                let stop = self.stop.subscribe();
                self.running.spawn(async move {
                    watcher.run(stop).await;
                    Watched {
                        collection: watcher.collection,
                        added: watcher.added,
                    }
                });
            }
        }
        Ok(())
    }

    async fn wait_established(&mut self) -> Result<()> {
        for established in &mut self.established {
            timeout(Duration::from_secs(10), established.wait_for(|yes| *yes))
                .await
                .with_context(|| {
                    format!(
                        "a watch cannot be established: {:?}",
                        self.tally.seen().examples
                    )
                })??;
        }
        Ok(())
    }

    /// Ends the watches when events have come to rest, and returns how many additions of `created` none delivered.
    async fn finish(mut self, created: &BTreeSet<String>) -> u64 {
        let mut before = None;
        for _ in 0..20 {
            let events = Some(self.tally.seen().watch_events);
            if before == events {
                break;
            }
            before = events;
            sleep(Duration::from_millis(300)).await;
        }
        self.stop.send_replace(true);
        let mut missed = 0;
        while let Some(watched) = self.running.join_next().await {
            if let Ok(Watched { collection, added }) = watched
                && collection == CONFIG_MAPS
            {
                missed += created.difference(&added).count() as u64;
            }
        }
        missed
    }
}
