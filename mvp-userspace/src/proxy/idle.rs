//! HTTP/2 connections that carry no request: closed after a while, as kube-apiserver does (`IdleTimeout` of its http.Server, which
//! golang.org/x/net/http2 counts from the moment in which no stream is open). PINGs are no requests.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep};

use super::response::Download;
use super::wire_body::BodyError;

/// The streams of one connection.
#[derive(Clone, Debug)]
pub(super) struct Streams(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    open: AtomicUsize,
    /// When the last one ended, or the connection began.
    idle_since: Mutex<Instant>,
}

/// An open stream; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct OpenStream(Streams);

/// An answer's body that keeps its stream open until it has been sent.
pub(super) struct InStream {
    body: Download,
    _stream: OpenStream,
}

impl Streams {
    /// No stream is open, from now on.
    pub(super) fn new() -> Self {
        Self(Arc::new(Counts {
            open: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        }))
    }

    /// A request has arrived.
    pub(super) fn begin(&self) -> OpenStream {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        OpenStream(self.clone())
    }

    /// Resolves once no stream has been open for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            match self.left(limit, Instant::now()) {
                Duration::ZERO => return,
                left => sleep(left).await,
            }
        }
    }

    /// The time at `now` until no stream can have been open for `limit`.
    fn left(&self, limit: Duration, now: Instant) -> Duration {
        if self.0.open.load(Ordering::Acquire) > 0 {
            return limit;
        }
        limit.saturating_sub(now.duration_since(*self.since()))
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
    pub(super) fn new(body: Download, stream: OpenStream) -> Self {
        Self {
            body,
            _stream: stream,
        }
    }
}

impl Body for InStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
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

    #[test]
    fn time_runs_only_while_no_stream_is_open() {
        let streams = Streams::new();
        let begun = Instant::now();
        let left = |after: u64| streams.left(LIMIT, begun + Duration::from_secs(after));
        assert!(left(30) >= Duration::from_secs(59) && left(30) <= Duration::from_secs(60));
        assert_eq!(left(91), Duration::ZERO);
        let (first, second) = (streams.begin(), streams.begin());
        assert_eq!(left(91), LIMIT);
        drop(first);
        assert_eq!(left(1000), LIMIT, "the other is open");
        drop(second);
        assert!(left(60) > Duration::ZERO);
        assert_eq!(left(91), Duration::ZERO);
    }

    #[test]
    fn a_request_begins_the_time_anew() {
        let streams = Streams::new();
        let long_ago = *streams.since() - LIMIT;
        *streams.since() = long_ago;
        assert_eq!(streams.left(LIMIT, Instant::now()), Duration::ZERO);
        drop(streams.begin());
        assert!(streams.left(LIMIT, Instant::now()) > LIMIT / 2);
    }

    #[tokio::test]
    async fn it_resolves() {
        let streams = Streams::new();
        let open = streams.begin();
        let limit = Duration::from_millis(20);
        let idle = streams.idle_for(limit);
        tokio::pin!(idle);
        assert!(tokio::time::timeout(5 * limit, &mut idle).await.is_err());
        drop(open);
        idle.await;
    }
}
