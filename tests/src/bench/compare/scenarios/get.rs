//! A small GET that only the second server can answer, sent at fixed moments whatever the answers do.

use anyhow::Result;

use super::{About, Bench, Better, Values, of};
use crate::bench::compare::subjects::Running;

pub(super) const ABOUT: About = About {
    name: "get",
    title: "A forwarded GET",
    how: "A GET of 1 KiB that only the second server can answer, at a fixed rate on four connections. Latency counts from the moment at \
          which a request was due, so that a stall is not hidden by a client that waits for it.",
    metrics: &[
        of("p50_us", "median latency", "us", Better::Lower).headline(),
        of("p99_us", "99 % within", "us", Better::Lower).headline(),
        of("p999_us", "99.9 % within", "us", Better::Lower),
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
        of("rate", "requests each second", "1/s", Better::Neither),
    ],
};

const CONNECTIONS: usize = 4;

pub(super) async fn measure(running: &Running, bench: &Bench<'_>) -> Result<Values> {
    let session = running.session(CONNECTIONS).await?;
    let (rate, duration) = (bench.settings.rate, bench.settings.duration);
    session.open_loop(&bench.get, rate, duration / 10).await;
    let before = running.used()?;
    // A thousandth is to be more than one request.
    let outcome = session.open_loop(&bench.get, rate, duration * 2).await;
    let after = running.used()?;
    let answers = outcome.answers;
    running.check("the GET", answers.ok, answers.not_ok())?;
    let latency = |quantile| outcome.latency.micros(quantile);
    let mut values = vec![
        ("p50_us", latency(0.5)),
        ("p99_us", latency(0.99)),
        ("p999_us", latency(0.999)),
        (
            "machine_cpu_us",
            after.machine_micros_since(before, answers.total()),
        ),
        ("rate", outcome.requests_per_second()),
    ];
    let cpu = after.own_micros_since(before, answers.total());
    values.extend(cpu.map(|cpu| ("cpu_us", cpu)));
    Ok(values)
}
