//! Watches of the fast upstream's type: many of them, and the delays of events that are sent to all.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use h2::client::ResponseFuture;
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;

use super::target::SERVER_NAME;
use super::upstream::{Upstream, WATCH, sent_at};
use crate::load::Latency;

/// Streams on a connection: what most servers take at most.
const STREAMS: usize = 100;
/// From one event to the next, if the first one has arrived everywhere by then.
pub(crate) const PAUSE: Duration = Duration::from_millis(250);
const AGAIN: Duration = Duration::from_millis(20);
/// Whatever takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Server and clients are one process and have one clock.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Open watches; they end with it.
pub(crate) struct Watches<'a> {
    upstream: &'a Upstream,
    count: usize,
    tasks: JoinSet<()>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    events: u64,
    delays: Latency,
}

impl<'a> Watches<'a> {
    /// None yet. Waits until the server has none of before either.
    ///
    /// # Errors
    /// Earlier watches do not end.
    pub(crate) async fn none(upstream: &'a Upstream) -> Result<Self> {
        // A proxy may still have some of the earlier watches, and the server notices only when it has something to send that one has ended.
        let ended = async {
            while upstream.watches() > 0 {
                upstream.tell(0);
                sleep(AGAIN).await;
            }
        };
        let ended = timeout(PATIENCE, ended).await;
        ended.context("watches of before do not end")?;
        Ok(Self {
            upstream,
            count: 0,
            tasks: JoinSet::new(),
            seen: Arc::default(),
        })
    }

    /// Opens watches on new connections until there are `count`, and waits until the server has them all.
    ///
    /// # Errors
    /// A connection cannot be made, or the server does not get every watch.
    pub(crate) async fn grow(
        &mut self,
        count: usize,
        headers: &HeaderMap,
        connect: impl AsyncFn() -> Result<TlsStream<TcpStream>>,
    ) -> Result<()> {
        while self.count < count {
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 24)
                .handshake::<_, bytes::Bytes>(connect().await?)
                .await?;
            self.tasks.spawn(async move {
                // A watch on it sees that it broke.
                let _ = connection.await;
            });
            let more = (count - self.count).min(STREAMS);
            for _ in 0..more {
                let mut request =
                    http::Request::get(format!("https://{SERVER_NAME}{WATCH}")).body(())?;
                *request.headers_mut() = headers.clone();
                let (response, _) = sender.clone().ready().await?.send_request(request, true)?;
                self.tasks.spawn(follow(response, Arc::clone(&self.seen)));
            }
            self.count += more;
        }
        // The server knows best that they are open: nginx keeps an answer's header to itself until there is something of the body.
        let open = until(|| self.upstream.watches() == count);
        let open = timeout(PATIENCE, open).await;
        open.with_context(|| format!("{} of {count} watches are open", self.upstream.watches()))
    }

    /// Sends so many events to all watches, one after another, no two of them within `pause`, and gives their delays, from the server's sending to the client's reading.
    ///
    /// # Errors
    /// One does not arrive everywhere.
    pub(crate) async fn tell(&self, events: u32, pause: Duration) -> Result<Latency> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
        for number in 1..=events {
            self.upstream.tell(CLOCK.elapsed().as_nanos() as u64);
            let all = u64::from(number) * self.count as u64;
            let arrived = until(|| self.arrived() >= all);
            // The next event does not meet this one: a delay is not to be a queue's.
            let (arrived, ()) = tokio::join!(timeout(PATIENCE, arrived), sleep(pause));
            arrived.with_context(|| format!("{} of {all} events arrived", self.arrived()))?;
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(seen.delays.clone())
    }

    /// How many events [`Self::tell`] sends in about `duration`; a few at least.
    pub(crate) fn events_in(duration: Duration) -> u32 {
        const FEWEST: u32 = 4;
        (duration.div_duration_f64(PAUSE) as u32).max(FEWEST)
    }

    fn arrived(&self) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.events
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(1)).await;
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
