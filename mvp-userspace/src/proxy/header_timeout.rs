//! The time that a client may take for the header of an HTTP/1.1 request, from its first byte on.
//!
//! hyper's own timer also runs while a kept connection waits for its next request, so a header could not be given less time
//! than a client has until its next request. Here the time begins with the first byte behind an answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::response::Download;
use super::wire_body::BodyError;
use crate::net::pass_writes;

/// How far a connection's requests have come. Counts their beginnings and their ends: odd while one is being answered.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestClock(Arc<AtomicU64>);

/// A request that is being answered; ended by dropping it.
#[derive(Debug)]
struct InRequest(RequestClock);

/// An answer's body that marks the request as answered when it has been sent.
pub(super) struct Tracked {
    body: Download,
    _request: Option<InRequest>,
}

/// A client's connection whose reads fail when a header takes too long.
#[derive(Debug)]
pub(super) struct HeaderTimeout<S> {
    stream: S,
    clock: RequestClock,
    limit: Duration,
    /// The clock's count when a header began, and when it must have ended.
    begun: Option<(u64, Instant)>,
    /// Only for headers that do not come in one piece.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Why the connection was closed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the client's fault: the header of a request, or an HTTP/2 preface, took longer than limits.headerTimeout"
)]
pub(super) struct HeaderTooSlow;

impl RequestClock {
    /// A request's header is complete.
    pub(super) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives the body that goes with the request last begun. A connection that changes its protocol is in that request for
    /// good.
    pub(super) fn track(&self, body: Download, upgraded: bool) -> Tracked {
        Tracked {
            body,
            _request: (!upgraded).then(|| InRequest(self.clone())),
        }
    }

    /// The current count, if a header is awaited.
    fn awaiting(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|count| count.is_multiple_of(2))
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S> HeaderTimeout<S> {
    pub(super) fn new(stream: S, clock: RequestClock, limit: Duration) -> Self {
        Self {
            stream,
            clock,
            limit,
            begun: None,
            timer: None,
        }
    }

    /// The end of the time for the header that has begun, if one is awaited.
    fn deadline(&mut self) -> Option<Instant> {
        let awaited = self.clock.awaiting();
        if self.begun.map(|(count, _)| count) != awaited {
            self.begun = None;
            self.timer = None;
        }
        self.begun.map(|(_, deadline)| deadline)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let too_slow = || Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, HeaderTooSlow)));
        let filled = buf.filled().len();
        if Pin::new(&mut this.stream).poll_read(cx, buf)?.is_ready() {
            match (this.deadline(), this.clock.awaiting()) {
                // A client that always has one more byte is no faster for it.
                (Some(deadline), _) if Instant::now() >= deadline => return too_slow(),
                (None, Some(count)) if buf.filled().len() > filled => {
                    this.begun = Some((count, Instant::now() + this.limit));
                }
                _ => {}
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(deadline) = this.deadline() {
            let timer = this
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            ready!(timer.as_mut().poll(cx));
            return too_slow();
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderTimeout<S> {
    pass_writes!(shutdown);
}

impl Body for Tracked {
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    struct Scene {
        client: DuplexStream,
        server: HeaderTimeout<DuplexStream>,
        clock: RequestClock,
    }

    fn scene(limit: Duration) -> Scene {
        let (client, server) = tokio::io::duplex(1024);
        let clock = RequestClock::default();
        Scene {
            client,
            server: HeaderTimeout::new(server, clock.clone(), limit),
            clock,
        }
    }

    impl Scene {
        async fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.client.write_all(bytes).await?;
            self.server.read_exact(&mut vec![0; bytes.len()]).await?;
            Ok(())
        }

        fn finish(&self, upgraded: bool) {
            drop(
                self.clock
                    .track(Download::whole(Bytes::new(), None), upgraded),
            );
        }
    }

    #[tokio::test]
    async fn time_runs_only_while_a_header_has_begun_and_not_ended() {
        let mut scene = scene(Duration::from_secs(3600));
        assert!(scene.server.deadline().is_none(), "nothing said yet");
        scene.pass(b"GET").await.unwrap();
        let first = scene.server.deadline().unwrap();
        scene.pass(b" /").await.unwrap();
        assert_eq!(
            scene.server.deadline(),
            Some(first),
            "more bytes, the same end"
        );
        scene.clock.begin();
        assert!(scene.server.deadline().is_none(), "being answered");
        scene.pass(b"body").await.unwrap();
        assert!(scene.server.deadline().is_none(), "an upload");
        scene.finish(false);
        assert!(scene.server.deadline().is_none(), "idle");
        scene.pass(b"GET").await.unwrap();
        assert!(scene.server.deadline().is_some(), "the next one");
        scene.clock.begin();
        scene.finish(true);
        scene.pass(b"frame").await.unwrap();
        assert!(
            scene.server.deadline().is_none(),
            "another protocol has no headers"
        );
    }

    #[tokio::test]
    async fn neither_silence_nor_one_more_byte_now_and_then_helps() {
        let too_slow = |error: io::Error| error.get_ref().is_some_and(|e| e.is::<HeaderTooSlow>());
        let mut silent = scene(Duration::from_millis(50));
        silent.pass(b"GET").await.unwrap();
        assert!(too_slow(silent.server.read_u8().await.unwrap_err()));
        let mut busy = scene(Duration::from_millis(50));
        // Ends by itself: a read fails once the time is up.
        let error = loop {
            if let Err(error) = busy.pass(b"x").await {
                break error;
            }
        };
        assert!(too_slow(error));
    }
}
