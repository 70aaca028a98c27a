//! A list of 5 MB, one after the other.

use anyhow::{Result, ensure};

use super::{About, Bench, Better, Values, of};
use crate::bench::compare::subjects::Running;
use crate::bench::target::SERVER_NAME;
use crate::bench::upstream::{LARGE, LARGE_BYTES};
use crate::load::{Get, Limit};

pub(super) const ABOUT: About = About {
    name: "list",
    title: "A list of 5 MB",
    how: "A list of 5 MB from the second server, one after the other on one connection.",
    metrics: &[
        of(
            "p50_ms",
            "median time for the whole list",
            "ms",
            Better::Lower,
        )
        .headline(),
        of("mb_per_second", "throughput", "MB/s", Better::Higher),
        of(
            "cpu_ms",
            "CPU of the proxy for each list",
            "ms",
            Better::Lower,
        )
        .headline(),
        of(
            "machine_cpu_ms",
            "CPU of the whole machine for each list",
            "ms",
            Better::Lower,
        ),
    ],
};

pub(super) async fn measure(running: &Running, bench: &Bench<'_>) -> Result<Values> {
    let get = Get {
        uri: format!("https://{SERVER_NAME}{LARGE}").parse()?,
        headers: bench.get.headers.clone(),
    };
    let session = running.session(1).await?;
    let duration = bench.settings.duration;
    session.run(&get, 1, Limit::duration(duration / 10)).await;
    let before = running.used()?;
    let outcome = session.run(&get, 1, Limit::duration(duration)).await;
    let after = running.used()?;
    let answers = outcome.answers;
    running.check("the list", answers.ok, answers.not_ok())?;
    ensure!(
        outcome.bytes == answers.ok * LARGE_BYTES as u64,
        "{}: {} lists had {} bytes together",
        running.subject.title(),
        answers.ok,
        outcome.bytes
    );
    let mut values = vec![
        ("p50_ms", outcome.latency.micros(0.5) / 1e3),
        (
            "mb_per_second",
            outcome.bytes as f64 / 1e6 / outcome.elapsed.as_secs_f64(),
        ),
        (
            "machine_cpu_ms",
            after.machine_micros_since(before, answers.ok) / 1e3,
        ),
    ];
    let cpu = after.own_micros_since(before, answers.ok);
    values.extend(cpu.map(|cpu| ("cpu_ms", cpu / 1e3)));
    Ok(values)
}
