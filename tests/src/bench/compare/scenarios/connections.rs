//! New TLS connections: full handshakes, a GET on each, and its end.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use tokio::task::LocalSet;

use super::{About, Bench, Better, Values, of};
use crate::bench::compare::subjects::Running;
use crate::bench::target::answered_by;
use crate::load::Latency;

pub(super) const ABOUT: About = About {
    name: "connections",
    title: "New TLS connections",
    how: "Eight clients, each of which makes a connection (full handshake, no session resumed), sends one GET on it, ends it, and begins anew.",
    metrics: &[
        of("rate", "connections each second", "1/s", Better::Higher).headline(),
        of("p50_ms", "median until the answer", "ms", Better::Lower),
        of("p99_ms", "99 % within", "ms", Better::Lower),
        of(
            "cpu_us",
            "CPU of the proxy for each connection",
            "us",
            Better::Lower,
        )
        .headline(),
        of(
            "machine_cpu_us",
            "CPU of the whole machine for each connection",
            "us",
            Better::Lower,
        ),
    ],
};

const CLIENTS: usize = 8;

pub(super) async fn measure(running: &Running, bench: &Bench<'_>) -> Result<Values> {
    let endpoint = Rc::new(running.without_resumption());
    let get = Rc::new(bench.get.clone());
    let before = running.used()?;
    let start = Instant::now();
    let until = start + bench.settings.duration;
    let clients = LocalSet::new();
    let mut tasks = Vec::new();
    for _ in 0..CLIENTS {
        let (endpoint, get) = (Rc::clone(&endpoint), Rc::clone(&get));
        tasks.push(clients.spawn_local(async move {
            let mut seen = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                answered_by(&endpoint, &get).await?;
                seen.push(begun.elapsed());
            }
            anyhow::Ok(seen)
        }));
    }
    clients.await;
    let elapsed = start.elapsed();
    let after = running.used()?;
    let mut latency = Latency::new();
    for task in tasks {
        task.await??
            .into_iter()
            .for_each(|took| latency.record(took));
    }
    let count = latency.count();
    running.check("new connections", count, 0)?;
    let mut values = vec![
        ("rate", count as f64 / elapsed.as_secs_f64()),
        ("p50_ms", latency.micros(0.5) / 1e3),
        ("p99_ms", latency.micros(0.99) / 1e3),
        ("machine_cpu_us", after.machine_micros_since(before, count)),
    ];
    let cpu = after.own_micros_since(before, count);
    values.extend(cpu.map(|cpu| ("cpu_us", cpu)));
    Ok(values)
}
