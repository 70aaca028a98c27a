//! How long it takes until a change is seen through every agent: a new CustomResourceDefinition, and the types of a server
//! that came back as another version. Three servers with an agent each, under load.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures_util::future::try_join_all;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::agent;
use super::discovery::{discovery_call, etag, holds};
use super::report::Report;
use crate::demo::agents::Agents;
use crate::fixtures::{CONFIG_MAPS, DEFINITIONS, ONLY_36, definition, spec};
use crate::load::{Call, Client, Endpoint, Latency, bearer, tls};
use crate::sim::ControlPlane;

/// The arguments of `freshness`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Definitions to create, one after another
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub definitions: u32,
    /// Times that a server is restarted as the next version
    #[arg(long, default_value_t = 10)]
    pub restarts: u32,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
}

/// Whatever takes longer will not come.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks: finer than what is measured.
const LOOK: Duration = Duration::from_millis(1);
/// Requests under way at each agent.
const LOAD: usize = 2;

/// Runs the benchmark and prints its table.
pub fn run(options: &Options) -> Result<()> {
    println!(
        "freshness: three servers, an agent each, {LOAD} requests always under way at each agent"
    );
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing; use --release");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new("freshness");
    let outcome = runtime.block_on(measure(options, &mut report));
    // What was measured before a failure is reported as well.
    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    outcome
}

struct Bench {
    plane: ControlPlane,
    tls: Arc<ClientConfig>,
    agents: Vec<SocketAddr>,
}

async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let plane = ControlPlane::builder()
        .servers([spec(b'a', 35), spec(b'b', 35), spec(b'c', 35)])
        .start()
        .await?;
    let binary = agent::binary(options.mvp_binary.as_deref())?;
    let servers: Vec<_> = plane
        .servers()
        .iter()
        .map(|one| (one.name().to_owned(), one.addr()))
        .collect();
    let agents = Agents::start(&binary, &servers, plane.pki()).await?;
    let bench = Bench {
        tls: Arc::new(tls(plane.pki().read("ca.crt")?.as_bytes(), &["h2"])?),
        agents: agents
            .fronts()
            .into_iter()
            .map(|(_, address)| address)
            .collect(),
        plane,
    };
    let load = Load::start(&bench)?;
    let [visible, listed] = bench.definitions(options.definitions).await?;
    add(report, "definition_visible", &visible);
    add(report, "definition_listed", &listed);
    if options.restarts > 0 {
        let [visible, listed] = bench.restarts(options.restarts).await?;
        add(report, "upgrade_visible", &visible);
        add(report, "upgrade_listed", &listed);
    }
    let (requests, wrong) = load.stop().await;
    report.add("mvp", "load_requests", "count", requests as f64);
    report.add("mvp", "load_wrong_answers", "count", wrong as f64);
    Ok(())
}

impl Bench {
    /// Creates definitions at one server after another. Times are from the answer to the creation.
    async fn definitions(&self, count: u32) -> Result<[Latency; 2]> {
        let mut seen = [Latency::new(), Latency::new()];
        for number in 0..count {
            let server = &self.plane.servers()[number as usize % self.agents.len()];
            let direct = self.client(server.addr())?;
            let group = format!("g{number}.freshness.example");
            let object = definition(&group, "things", "Thing", json!({}));
            let made = direct.send(&Call::create(DEFINITIONS, &object)).await?;
            ensure!(made.status == 201, "creation: {}", made.status);
            let start = Instant::now();
            let path = format!("/apis/{group}/v1/namespaces/default/things");
            self.observe(start, group.as_bytes(), &path, &mut seen)
                .await?;
            let gone = Call::delete(&format!("{DEFINITIONS}/things.{group}"));
            ensure!(
                direct.send(&gone).await?.status == 200,
                "deletion of {group}"
            );
            if (number + 1) % 50 == 0 {
                println!("{} definitions", number + 1);
            }
        }
        Ok(seen)
    }

    /// Restarts the last server as 1.36, and back. Times are from its first ready answer.
    async fn restarts(&self, count: u32) -> Result<[Latency; 2]> {
        let mut seen = [Latency::new(), Latency::new()];
        let new = ONLY_36.rsplit('/').next().unwrap_or_default().as_bytes();
        let server = self.plane.servers().last().context("no servers")?;
        for number in 0..count {
            server.restart(36).await?;
            self.until("the server is ready", || async {
                let client = self.client(server.addr())?;
                Ok(client
                    .send(&Call::get("/readyz"))
                    .await
                    .is_ok_and(|reply| reply.status == 200))
            })
            .await?;
            let start = Instant::now();
            self.observe(start, new, ONLY_36, &mut seen).await?;
            server.restart(35).await?;
            // No agent may know it from last time.
            for address in &self.agents {
                let client = self.client(*address)?;
                self.until("the old version again", || async {
                    let reply = client.send(&discovery_call(None)?).await;
                    Ok(reply.is_ok_and(|reply| reply.status == 200 && !holds(&reply.body, new)))
                })
                .await?;
            }
            println!("restart {} of {count}", number + 1);
        }
        Ok(seen)
    }

    /// Records when the last agent shows `name` in discovery, and when the last one answers `path`.
    async fn observe(
        &self,
        start: Instant,
        name: &[u8],
        path: &str,
        seen: &mut [Latency; 2],
    ) -> Result<()> {
        let visible = try_join_all(
            self.agents
                .iter()
                .map(|address| self.until_visible(*address, name, start)),
        );
        let listed = try_join_all(
            self.agents
                .iter()
                .map(|address| self.until_listed(*address, path, start)),
        );
        let (visible, listed) = tokio::try_join!(visible, listed)?;
        for (latency, times) in seen.iter_mut().zip([visible, listed]) {
            latency.record(times.into_iter().max().unwrap_or_default());
        }
        Ok(())
    }

    async fn until_visible(
        &self,
        agent: SocketAddr,
        name: &[u8],
        start: Instant,
    ) -> Result<Duration> {
        let client = self.client(agent)?;
        let mut known = None;
        while start.elapsed() < LIMIT {
            let reply = client.send(&discovery_call(known.as_deref())?).await?;
            if reply.status == 200 {
                if holds(&reply.body, name) {
                    return Ok(start.elapsed());
                }
                known = etag(&reply);
            }
            sleep(LOOK).await;
        }
        bail!(
            "{} is not listed through {agent} after {LIMIT:?}",
            String::from_utf8_lossy(name)
        )
    }

    async fn until_listed(
        &self,
        agent: SocketAddr,
        path: &str,
        start: Instant,
    ) -> Result<Duration> {
        let client = self.client(agent)?;
        while start.elapsed() < LIMIT {
            if client.send(&Call::get(path)).await?.status == 200 {
                return Ok(start.elapsed());
            }
            sleep(LOOK).await;
        }
        bail!("{path} is not answered through {agent} after {LIMIT:?}")
    }

    async fn until<F: Future<Output = Result<bool>>>(
        &self,
        what: &str,
        mut condition: impl FnMut() -> F,
    ) -> Result<()> {
        let start = Instant::now();
        while !condition().await? {
            ensure!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn client(&self, address: SocketAddr) -> Result<Client> {
        let endpoint = Endpoint {
            address,
            server_name: ServerName::try_from("kubernetes.default.svc")?,
            tls: self.tls.clone(),
        };
        Ok(Client::new(endpoint, Some(bearer("admin-token")?)))
    }
}

/// Lists, over and over, through every agent.
struct Load {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    wrong: Arc<AtomicU64>,
}

impl Load {
    fn start(bench: &Bench) -> Result<Self> {
        let mut load = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            requests: Arc::default(),
            wrong: Arc::default(),
        };
        for address in &bench.agents {
            for _ in 0..LOAD {
                let client = bench.client(*address)?;
                let (stop, requests, wrong) =
                    (load.stop.clone(), load.requests.clone(), load.wrong.clone());
                load.tasks.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let reply = client.send(&Call::get(CONFIG_MAPS)).await;
                        requests.fetch_add(1, Ordering::Relaxed);
                        if !reply.is_ok_and(|reply| reply.status == 200) {
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                        sleep(LOOK).await;
                    }
                });
            }
        }
        Ok(load)
    }

    /// Requests, and those without a 200.
    async fn stop(mut self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        (
            self.requests.load(Ordering::Relaxed),
            self.wrong.load(Ordering::Relaxed),
        )
    }
}

fn add(report: &mut Report, metric: &str, latency: &Latency) {
    for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let value = latency.micros(quantile) / 1000.0;
        report.add("mvp", &format!("{metric}_{label}"), "ms", value);
    }
}
