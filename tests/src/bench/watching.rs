//! Watches of the fast upstream, and how long an event takes to them.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
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
const AGAIN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(20);

/// Server and clients are one process and have one clock.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Open watches, all of the same; they end with it.
pub(super) struct Watching<'a> {
    upstream: &'a Upstream,
    count: usize,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    events: u64,
    delays: Latency,
}

impl<'a> Watching<'a> {
    /// Opens so many watches over connections that `connect` makes, once all earlier ones have ended.
    ///
    /// # Errors
    /// The upstream does not have them all within 20 s.
    pub(super) async fn open(
        upstream: &'a Upstream,
        headers: &HeaderMap,
        count: usize,
        connect: impl AsyncFn() -> Result<TlsStream<TcpStream>>,
    ) -> Result<Self> {
        // A proxy may still have some of the earlier watches, and the server notices only when it has something to send that one has ended.
        let ended = async {
            while upstream.watches() > 0 {
                upstream.tell(0);
                sleep(AGAIN).await;
            }
        };
        let ended = timeout(PATIENCE, ended).await;
        ended.context("watches of before do not end")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = JoinSet::new();
        let mut left = count;
        while left > 0 {
            let io = connect().await?;
            let (sender, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(1 << 24)
                .handshake::<_, Bytes>(io)
                .await?;
            tasks.spawn(async move {
                // A watch on it sees that it broke.
                let _ = connection.await;
            });
            for _ in 0..left.min(STREAMS) {
                let uri = format!("https://{SERVER_NAME}{WATCH}");
                let mut request = http::Request::get(uri).body(())?;
                *request.headers_mut() = headers.clone();
                let (response, _) = sender.clone().ready().await?.send_request(request, true)?;
                tasks.spawn(follow(response, Arc::clone(&seen)));
            }
            left = left.saturating_sub(STREAMS);
        }
        // The server knows best that they are open: nginx keeps an answer's header to itself until there is something of the body.
        let open = timeout(PATIENCE, until(|| upstream.watches() == count)).await;
        open.with_context(|| format!("{} of {count} watches are open", upstream.watches()))?;
        Ok(Self {
            upstream,
            count,
            seen,
            _tasks: tasks,
        })
    }

    /// Tells all watches `events` events, one after the other, no two of them within `pause`: a delay is not to be a queue's.
    ///
    /// # Errors
    /// An event does not arrive at all watches within 20 s.
    pub(super) async fn tell(&self, events: u32, pause: Duration) -> Result<()> {
        let before = self.seen(|seen| seen.events);
        for number in 1..=events {
            self.upstream.tell(CLOCK.elapsed().as_nanos() as u64);
            let all = before + u64::from(number) * self.count as u64;
            let arrived = until(|| self.seen(|seen| seen.events) >= all);
            let (arrived, ()) = tokio::join!(timeout(PATIENCE, arrived), sleep(pause));
            arrived.with_context(|| {
                let got = self.seen(|seen| seen.events);
                format!("{got} of {all} events arrived")
            })?;
        }
        Ok(())
    }

    /// From the server's telling to the client's reading, of all events that have arrived.
    pub(super) fn delays(&self) -> Latency {
        self.seen(|seen| seen.delays.clone())
    }

    fn seen<T>(&self, value: impl FnOnce(&Seen) -> T) -> T {
        value(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
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
