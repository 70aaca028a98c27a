//! More and more watches of a type that only another server has, and events that are sent to all of them.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::subject::{BOTH, Subject, endpoint};
use super::{Bench, kib_each};
use crate::bench::report::Report;
use crate::bench::target::request;
use crate::bench::upstream::Upstream;
use crate::bench::watching::{PAUSE, Watches};
use crate::load::{Endpoint, Latency, Limit, Session};
use crate::sim::pki::Pki;

const SIZES: [usize; 3] = [100, 1_000, 10_000];
const QUICK: usize = 1_000;
/// Until memory is looked at.
const SETTLES: Duration = Duration::from_secs(1);

const QUANTILES: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// What one number of watches showed.
struct Seen {
    size: usize,
    delays: Latency,
    /// Of the agent: memory for each watch, and CPU in milliseconds per second without an event.
    agent: Option<(f64, f64)>,
}

pub(super) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(of_all(bench, report))
}

async fn of_all(bench: &Bench, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pki = Pki::generate(dir.path())?;
    let upstream = Upstream::start(&pki)?;
    let server = endpoint(upstream.peer, &pki)?;
    let direct = grown(bench, &upstream, &server, None);
    let direct = direct.await.context("direct")?;
    add(report, "direct", &direct);
    let servers = [
        ("local".to_owned(), upstream.local),
        ("peer".to_owned(), upstream.peer),
    ];
    for http2 in BOTH {
        let name = http2.subject;
        let settings = http2.settings();
        let agent = Subject::start(&bench.binary, &pki, dir.path(), &servers, &settings)?;
        let through = endpoint(agent.address, &pki)?;
        agent.wait_for_peer(&through, &request()?).await?;
        // Connections to the server, and what else the first requests need, are there before the first watch.
        let warm = Session::open(std::slice::from_ref(&through), 4).await?;
        let limit = Limit::duration(bench.duration);
        warm.run(&request()?, 4, limit).await;
        let seen = grown(bench, &upstream, &through, Some(&agent)).await;
        let seen = seen.with_context(|| format!("{name}: {}", agent.output()))?;
        add(report, name, &seen);
        for (seen, direct) in seen.iter().zip(&direct) {
            for (label, quantile) in QUANTILES {
                let ratio = seen.delays.micros(quantile) / direct.delays.micros(quantile);
                let metric = format!("watches_{}_delay_{label}_ratio", seen.size);
                report.add(&format!("{name}/direct"), &metric, "x", ratio);
            }
        }
        println!("{name}: watches");
    }
    Ok(())
}

async fn grown(
    bench: &Bench,
    upstream: &Upstream,
    endpoint: &Endpoint,
    agent: Option<&Subject>,
) -> Result<Vec<Seen>> {
    let headers = request()?.headers;
    let mut watches = Watches::none(upstream).await?;
    let bare = agent.map(Subject::memory).transpose()?;
    let mut all = Vec::new();
    for size in bench.sizes(&SIZES, QUICK) {
        let open = watches.grow(size, &headers, async || Ok(endpoint.connect().await?));
        open.await.with_context(|| format!("{size} watches"))?;
        sleep(SETTLES).await;
        let agent = match (agent, bare) {
            (Some(agent), Some(bare)) => {
                let memory = kib_each(agent.memory()?, bare, size);
                Some((memory, agent.cpu(bench.duration).await?))
            }
            _ => None,
        };
        let delays = watches
            .tell(Watches::events_in(bench.duration), PAUSE)
            .await;
        let delays = delays.with_context(|| format!("{size} watches"))?;
        all.push(Seen {
            size,
            delays,
            agent,
        });
    }
    Ok(all)
}

fn add(report: &mut Report, subject: &str, all: &[Seen]) {
    for seen in all {
        let metric = |what: &str| format!("watches_{}_{what}", seen.size);
        if let Some((kib_each, idle)) = seen.agent {
            report.add(subject, &metric("kib_each"), "KiB", kib_each);
            report.add(subject, &metric("idle_cpu_ms_per_s"), "ms/s", idle);
        }
        for (label, quantile) in QUANTILES {
            let delay = seen.delays.micros(quantile) / 1e3;
            report.add(subject, &metric(&format!("delay_{label}_ms")), "ms", delay);
        }
    }
}
