//! HTTP/2 connections that carry no request: closed after a while, as kube-apiserver does (`IdleTimeout` of its http.Server, which
//! golang.org/x/net/http2 counts from the moment in which no stream is open). PINGs are no requests.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep, sleep_until};

use super::response::Download;

/// The streams of one connection.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    open: AtomicUsize,
    /// When the last one ended, or the connection began.
    idle_since: Mutex<Instant>,
}

/// A stream that is open; ended by dropping it.
#[derive(Debug)]
pub struct OpenStream(Streams);

/// An answer's body that keeps its stream open until it has been sent.
pub struct InStream {
    body: Download,
    _stream: OpenStream,
}

impl Streams {
    /// None is open, from now on.
    pub fn new() -> Self {
        Self(Arc::new(Counts {
            open: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        }))
    }

    /// A request has come.
    pub fn begin(&self) -> OpenStream {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }

    /// Resolves once no stream has been open for `limit`.
    pub async fn idle_for(&self, limit: Duration) {
        loop {
            if self.0.open.load(Ordering::Relaxed) > 0 {
                sleep(limit).await;
                continue;
            }
            let end = *self.since() + limit;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn since(&self) -> std::sync::MutexGuard<'_, Instant> {
        let since = &self.0.idle_since;
        since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // In this order: whoever sees that none is open sees since when.
        if self.0.0.open.load(Ordering::Relaxed) == 1 {
            *self.0.since() = Instant::now();
        }
        self.0.0.open.fetch_sub(1, Ordering::Release);
    }
}

impl InStream {
    /// `body`, sent on `stream`.
    pub fn new(body: Download, stream: OpenStream) -> Self {
        Self {
            body,
            _stream: stream,
        }
    }
}

impl Body for InStream {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(90);

    /// How long it takes from now on.
    async fn idle_in(streams: &Streams) -> Duration {
        let begun = Instant::now();
        streams.idle_for(LIMIT).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn time_runs_only_while_no_stream_is_open() {
        let streams = Streams::new();
        assert_eq!(idle_in(&streams).await, LIMIT);
        let (first, second) = (streams.begin(), streams.begin());
        drop(first);
        let idle = idle_in(&streams);
        tokio::pin!(idle);
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, &mut idle).await.is_err());
        drop(second);
        let ended = Instant::now();
        idle.await;
        let waited = ended.elapsed();
        assert!(waited >= LIMIT && waited <= 2 * LIMIT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_begins_the_time_anew() {
        let streams = Streams::new();
        tokio::time::advance(LIMIT / 2).await;
        drop(streams.begin());
        assert_eq!(idle_in(&streams).await, LIMIT);
    }
}
