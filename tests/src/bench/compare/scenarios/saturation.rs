//! As many GETs as pass, by this program's closed loop and, to check that one, by h2load.

use anyhow::Result;

use super::{About, Bench, Better, Values, h2load, of};
use crate::bench::compare::subjects::{Running, SATURATION};
use crate::load::Limit;

pub(super) const ABOUT: About = About {
    name: "saturation",
    title: "Saturation",
    how: "The same GET on 16 connections with 4 requests under way on each, as fast as answers come. Client, proxy and servers share the \
          machine's cores. The rate that h2load sees stands beside: a client that is slower than the proxy measures itself.",
    metrics: &[
        of("rate", "requests each second", "1/s", Better::Higher).headline(),
        of(
            "h2load_rate",
            "the same, as h2load sees it",
            "1/s",
            Better::Higher,
        ),
        of(
            "cpu_us",
            "CPU of the proxy for each request",
            "us",
            Better::Lower,
        )
        .headline(),
        of(
            "machine_cpu_us",
            "CPU of the whole machine for each request",
            "us",
            Better::Lower,
        ),
        of("p50_us", "median latency", "us", Better::Lower),
        of("p99_us", "99 % within", "us", Better::Lower),
    ],
};

pub(super) async fn measure(running: &Running, bench: &Bench<'_>) -> Result<Values> {
    let session = running.session(SATURATION.connections).await?;
    let (streams, duration) = (SATURATION.streams, bench.settings.duration);
    session
        .run(&bench.get, streams, Limit::duration(duration / 10))
        .await;
    let before = running.used()?;
    let outcome = session
        .run(&bench.get, streams, Limit::duration(duration))
        .await;
    let after = running.used()?;
    drop(session);
    let answers = outcome.answers;
    running.check("saturation", answers.ok, answers.not_ok())?;
    let mut values = vec![
        ("rate", outcome.requests_per_second()),
        (
            "machine_cpu_us",
            after.machine_micros_since(before, answers.total()),
        ),
        ("p50_us", outcome.latency.micros(0.5)),
        ("p99_us", outcome.latency.micros(0.99)),
    ];
    let cpu = after.own_micros_since(before, answers.total());
    values.extend(cpu.map(|cpu| ("cpu_us", cpu)));
    if let Some(rate) = h2load::rate(running.address, &bench.get, duration)? {
        values.push(("h2load_rate", rate));
    }
    Ok(values)
}
