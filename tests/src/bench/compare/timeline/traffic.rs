//! The load: an open loop of GETs on a few connections of clients that behave as client-go does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::seconds::{Sample, Verdict};
use crate::fixtures::{ONLY_36, admin, policy, policy_key};
use crate::load::{Answer, Call, Client, Endpoint, Failure, Persistent, Reply, open_loop};
use crate::nodes::Cluster;
use crate::upgrade::News;

pub(super) struct Traffic {
    /// The first request is due.
    pub(super) start: Instant,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Seen>,
}

/// All requests, and the first few failures in words.
type Seen = (Vec<Sample>, Vec<String>);

/// Clients, spread over where they connect.
const CLIENTS: usize = 6;
const EXAMPLES: usize = 5;
/// An object that is always there.
const OLD: &str = "/api/v1/namespaces/default";
/// The object of the new type that is looked up.
const KNOWN: &str = "timeline";
/// An answer that has not come so long after the load's end does not come.
const PATIENCE: Duration = Duration::from_secs(30);

impl Traffic {
    /// Connects the clients, and begins.
    pub(super) fn start(
        cluster: &Cluster,
        fronts: &[SocketAddr],
        rate: f64,
        news: &Arc<News>,
    ) -> Result<Self> {
        let plane = Arc::clone(&cluster.plane);
        let tls = plane.pki().client_config(admin(&plane), &["h2"])?;
        let tls = Arc::new(tls);
        let clients = (0..CLIENTS).map(|number| {
            let endpoint = Endpoint {
                address: fronts[number % fronts.len()],
                server_name: "kubernetes".try_into().context("server name")?,
                tls: Arc::clone(&tls),
            };
            anyhow::Ok(Arc::new(Persistent::new(Client::new(endpoint, None))))
        });
        let clients: Vec<_> = clients.collect::<Result<_>>()?;
        let ready = clients.clone();
        cluster.clients.on(async move {
            let created = plane
                .store()
                .create(&policy_key(KNOWN), policy(KNOWN))
                .await;
            created.map_err(|error| anyhow::anyhow!("store: {error:?}"))?;
            for client in ready {
                let sent = client.send(&Call::get(OLD)).await;
                let reply = sent.outcome.context("before the load")?;
                ensure!(reply.status == 200, "before the load: {}", reply.status);
            }
            anyhow::Ok(())
        })?;
        let (stop, stopped) = oneshot::channel();
        let start = Instant::now();
        let load = run(clients, rate, Arc::clone(news), start, stopped);
        Ok(Self {
            start,
            stop,
            task: cluster.clients.spawn(load),
        })
    }

    /// Ends the load and returns all of it.
    pub(super) fn finish(self, cluster: &Cluster) -> Result<Seen> {
        // It ends without this as well, if it must.
        let _ = self.stop.send(());
        let task = self.task;
        let samples = cluster.clients.on(task);
        samples.context("the load")
    }
}

async fn run(
    clients: Vec<Arc<Persistent>>,
    rate: f64,
    news: Arc<News>,
    start: Instant,
    stopped: oneshot::Receiver<()>,
) -> Seen {
    let samples = Arc::new(Mutex::new((BTreeMap::new(), Vec::new())));
    let mut under_way = JoinSet::new();
    let mut due_at = Vec::new();
    open_loop(rate, async { drop(stopped.await) }, |due| {
        while under_way.try_join_next().is_some() {}
        due_at.push(due.at);
        let client = Arc::clone(&clients[due.number as usize % clients.len()]);
        // Each client asks for both, whatever their number is.
        let turn = due.number as usize / clients.len();
        let path = match news.are_out() && turn.is_multiple_of(2) {
            true => format!("{ONLY_36}/{KNOWN}"),
            false => OLD.to_owned(),
        };
        let samples = Arc::clone(&samples);
        under_way.spawn(async move {
            let sent = client.send(&Call::get(&path)).await;
            let took = due.at.elapsed();
            let (verdict, words) = judge(&path, sent.outcome);
            let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
            let sample = Sample {
                due: due.at.saturating_duration_since(start),
                took,
                verdict,
            };
            samples.0.insert(due.number, sample);
            if let Some(words) = words
                && samples.1.len() < EXAMPLES
            {
                samples.1.push(words);
            }
        });
    })
    .await;
    let all = async { while under_way.join_next().await.is_some() {} };
    let _ = timeout(PATIENCE, all).await;
    under_way.shutdown().await;
    let (mut samples, examples) =
        std::mem::take(&mut *samples.lock().unwrap_or_else(PoisonError::into_inner));
    // What was given up is left out least of all.
    for (number, at) in (0..).zip(due_at) {
        samples.entry(number).or_insert_with(|| Sample {
            due: at.saturating_duration_since(start),
            took: PATIENCE,
            verdict: Verdict::Error,
        });
    }
    (samples.into_values().collect(), examples)
}

/// What became of a request, and that in words if it failed.
fn judge(path: &str, outcome: Result<Reply, Failure>) -> (Verdict, Option<String>) {
    let (verdict, words) = match outcome {
        Ok(reply) => match Answer::classify(reply.status, &reply.body) {
            Answer::Ok => return (Verdict::Ok, None),
            Answer::NoSuchType => (Verdict::False404, reply.status.to_string()),
            _ => {
                let body = String::from_utf8_lossy(&reply.body).into_owned();
                (Verdict::Error, format!("{} {}", reply.status, body.trim()))
            }
        },
        Err(failure) => (Verdict::Error, failure.to_string()),
    };
    (verdict, Some(format!("GET {path}: {words}")))
}
