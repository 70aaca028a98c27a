//! Many watches without an event, and then events, each of which is sent to all watches.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use h2::client::ResponseFuture;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{About, Bench, Better, Values, of};
use crate::bench::compare::subjects::Running;
use crate::bench::compare::usage;
use crate::bench::target::SERVER_NAME;
use crate::bench::upstream::{WATCH, sent_at};
use crate::load::Latency;

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

/// Streams on a connection: what most servers take at most.
const STREAMS: usize = 100;
/// Until memory is looked at.
const SETTLES: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(250);
const AGAIN: Duration = Duration::from_millis(20);
const FEWEST: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(20);

/// Server and clients are one process and have one clock.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Default)]
struct Seen {
    events: u64,
    delays: Latency,
}

pub(super) async fn measure(running: &Running, bench: &Bench<'_>) -> Result<Values> {
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
    let seen = Arc::new(Mutex::new(Seen::default()));
    let count = bench.settings.watches;
    let watches = Watches::open(running, bench, &seen).await?;
    sleep(SETTLES).await;
    let full = match bare {
        Some(_) => Some(usage::memory(&processes)?),
        None => None,
    };
    let events = (bench.settings.duration.div_duration_f64(PAUSE) as u32).max(FEWEST);
    let before = running.used()?;
    for number in 1..=events {
        bench.upstream.tell(CLOCK.elapsed().as_nanos() as u64);
        let all = u64::from(number) * count as u64;
        let arrived = until(|| seen_of(&seen, |seen| seen.events) >= all);
        // The next event does not meet this one: a delay is not to be a queue's.
        let (arrived, ()) = tokio::join!(timeout(PATIENCE, arrived), sleep(PAUSE));
        arrived.with_context(|| {
            let got = seen_of(&seen, |seen| seen.events);
            format!("{}: {got} of {all} events arrived", running.subject.title())
        })?;
    }
    let after = running.used()?;
    watches.end();
    let told = u64::from(events) * count as u64;
    let mut values = vec![
        (
            "delay_p50_ms",
            seen_of(&seen, |seen| seen.delays.micros(0.5)) / 1e3,
        ),
        (
            "delay_p99_ms",
            seen_of(&seen, |seen| seen.delays.micros(0.99)) / 1e3,
        ),
    ];
    let cpu = after.own_micros_since(before, told);
    values.extend(cpu.map(|cpu| ("cpu_us", cpu)));
    if let (Some(bare), Some(full)) = (bare, full) {
        let more = full.saturating_sub(bare) as f64;
        values.push(("kib_per_watch", more / 1024.0 / count as f64));
    }
    Ok(values)
}

fn seen_of<T>(seen: &Mutex<Seen>, value: impl FnOnce(&Seen) -> T) -> T {
    value(&seen.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Open watches; they end with it.
struct Watches {
    tasks: JoinSet<()>,
}

impl Watches {
    async fn open(running: &Running, bench: &Bench<'_>, seen: &Arc<Mutex<Seen>>) -> Result<Self> {
        let (get, count) = (&bench.get, bench.settings.watches);
        let mut tasks = JoinSet::new();
        let mut left = count;
        let upstream = bench.upstream;
        // A proxy may still have some of the earlier watches, and the server notices only when it has something to send that one has ended.
        let ended = async {
            while upstream.watches() > 0 {
                upstream.tell(0);
                sleep(AGAIN).await;
            }
        };
        let ended = timeout(PATIENCE, ended).await;
        ended.context("watches of before do not end")?;
        while left > 0 {
            let io = running.connect().await?;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 24)
                .handshake::<_, bytes::Bytes>(io)
                .await?;
            tasks.spawn(async move {
                // A watch on it sees that it broke.
                let _ = connection.await;
            });
            for _ in 0..left.min(STREAMS) {
                let mut request =
                    http::Request::get(format!("https://{SERVER_NAME}{WATCH}")).body(())?;
                *request.headers_mut() = get.headers.clone();
                let (response, _) = sender.clone().ready().await?.send_request(request, true)?;
                tasks.spawn(follow(response, Arc::clone(seen)));
            }
            left = left.saturating_sub(STREAMS);
        }
        // The server knows best that they are open: nginx keeps an answer's header to itself until there is something of the body.
        let open = timeout(PATIENCE, until(|| upstream.watches() == count)).await;
        open.with_context(|| {
            let (title, open) = (running.subject.title(), upstream.watches());
            format!("{title}: {open} of {count} watches are open")
        })?;
        Ok(Self { tasks })
    }

    fn end(mut self) {
        self.tasks.abort_all();
    }
}

/// Events are lines, whatever the frames are.
async fn follow(response: ResponseFuture, seen: Arc<Mutex<Seen>>) {
    // One that is refused has no events, which is noticed.
    let Ok(response) = response.await else { return };
    let mut body = response.into_body();
    let mut left = BytesMut::new();
    while let Some(Ok(chunk)) = body.data().await {
        let now = CLOCK.elapsed().as_nanos() as u64;
        let _ = body.flow_control().release_capacity(chunk.len());
        left.extend_from_slice(&chunk);
        while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
            let line = left.split_to(end + 1);
            let Some(sent) = sent_at(&line) else { continue };
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.events += 1;
            seen.delays
                .record(Duration::from_nanos(now.saturating_sub(sent)));
        }
    }
}
