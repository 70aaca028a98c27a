//! Many watches without an event, and then events, each of which is sent to all watches.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use super::{About, Bench, Better, Values, of};
use crate::bench::compare::subjects::Running;
use crate::bench::usage;
use crate::bench::watching::{PAUSE, Watches};

pub(super) const ABOUT: About = About {
    name: "watches",
    title: "Watches",
    how: "1,000 watches, 100 on a connection, of a type that only the second server has. Memory is that of the proxy's processes with the \
          watches less that before; events are told to all watches at once, and a delay goes from the server's telling to the client's reading.",
    metrics: &[
        of(
            "kib_per_watch",
            "memory of the proxy for each idle watch",
            "KiB",
            Better::Lower,
        )
        .headline(),
        of(
            "delay_p50_ms",
            "median delay of an event",
            "ms",
            Better::Lower,
        ),
        of(
            "delay_p99_ms",
            "99 % of the events within",
            "ms",
            Better::Lower,
        )
        .headline(),
        of(
            "cpu_us",
            "CPU of the proxy for each event and watch",
            "us",
            Better::Lower,
        ),
    ],
};

/// Until memory is looked at.
const SETTLES: Duration = Duration::from_millis(500);

pub(super) async fn measure(running: &Running, bench: &Bench<'_>) -> Result<Values> {
    let title = running.subject.title();
    let processes = running.processes();
    let bare = match processes.is_empty() {
        true => None,
        false => {
            let now = usage::memory(&processes)?;
            Some(
                *bench
                    .bare
                    .borrow_mut()
                    .entry(running.subject)
                    .or_insert(now),
            )
        }
    };
    let count = bench.settings.watches;
    let mut watches = Watches::none(bench.upstream).await?;
    let open = watches.grow(count, &bench.get.headers, || running.connect());
    open.await.context(title)?;
    sleep(SETTLES).await;
    let full = match bare {
        Some(_) => Some(usage::memory(&processes)?),
        None => None,
    };
    let events = Watches::events_in(bench.settings.duration);
    let before = running.used()?;
    let delays = watches.tell(events, PAUSE).await.context(title)?;
    let after = running.used()?;
    drop(watches);
    let told = u64::from(events) * count as u64;
    let mut values = vec![
        ("delay_p50_ms", delays.micros(0.5) / 1e3),
        ("delay_p99_ms", delays.micros(0.99) / 1e3),
    ];
    let cpu = after.own_micros_since(before, told);
    values.extend(cpu.map(|cpu| ("cpu_us", cpu)));
    if let (Some(bare), Some(full)) = (bare, full) {
        let more = full.saturating_sub(bare) as f64;
        values.push(("kib_per_watch", more / 1024.0 / count as f64));
    }
    Ok(values)
}
