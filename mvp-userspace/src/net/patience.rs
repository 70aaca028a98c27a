//! How long a client may take for a request's header. hyper's own timeout cannot tell an HTTP/1.1 connection that rests
//! between two requests from one that sends a header byte by byte, and has none for HTTP/2's preface.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// RFC 9113 §3.4. What comes after it hyper and PINGs look after.
const PREFACE: usize = 24;

/// A stream whose reads fail (`TimedOut`) when a header has begun and does not end within `limit`.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    turns: Arc<Turns>,
    waiting: Waiting,
    limit: Duration,
    /// Set when a read had to wait: most headers come in one piece and need no timer.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Whose turn it is on an HTTP/1.1 connection, as the service that answers requests knows it.
#[derive(Debug, Default)]
pub struct Turns {
    /// Odd while a request is being answered.
    turn: AtomicUsize,
    timed_out: AtomicBool,
}

/// The agent's turn: from a request's header to the end of its answer.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    ends: bool,
}

#[derive(Debug)]
enum Waiting {
    /// HTTP/2: so many bytes are still to come, from the start.
    Preface(usize),
    /// HTTP/1.1: whether the first byte of a header has come in this turn of the client's.
    Header { turn: usize, begun: bool },
}

impl<S> Patient<S> {
    /// `turns` says when a header is complete, and when the next one may begin.
    pub fn http1(stream: S, turns: Arc<Turns>, limit: Duration) -> Self {
        let waiting = Waiting::Header {
            turn: 0,
            begun: false,
        };
        Self::new(stream, turns, waiting, limit)
    }

    pub fn http2(stream: S, turns: Arc<Turns>, limit: Duration) -> Self {
        Self::new(stream, turns, Waiting::Preface(PREFACE), limit)
    }

    fn new(stream: S, turns: Arc<Turns>, waiting: Waiting, limit: Duration) -> Self {
        Self {
            stream,
            turns,
            waiting,
            limit,
            deadline: None,
        }
    }

    fn received(&mut self, bytes: usize) {
        match &mut self.waiting {
            Waiting::Preface(0) => {}
            Waiting::Preface(left) => {
                *left = left.saturating_sub(bytes);
                if *left == 0 {
                    self.deadline = None;
                }
            }
            Waiting::Header { turn, begun } => {
                let now = self.turns.turn.load(Ordering::Relaxed);
                if now != *turn {
                    (*turn, *begun) = (now, false);
                    self.deadline = None;
                }
                *begun |= bytes > 0 && now.is_multiple_of(2);
            }
        }
    }

    /// Nothing has come: is it too late?
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let late = match self.waiting {
            Waiting::Preface(left) => left > 0,
            Waiting::Header { turn, begun } => {
                begun && self.turns.turn.load(Ordering::Relaxed) == turn
            }
        };
        if !late {
            return Poll::Pending;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        self.turns.timed_out.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Turns {
    /// A request's header is complete.
    pub fn begin(self: &Arc<Self>) -> Turn {
        self.turn.fetch_add(1, Ordering::Relaxed);
        Turn {
            turns: Arc::clone(self),
            ends: true,
        }
    }

    /// The connection ended because a header or a preface did not come in time.
    pub fn timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }
}

impl Turn {
    /// The connection speaks another protocol from here on: there will be no header any more.
    pub fn stay(mut self) {
        self.ends = false;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.ends {
            self.turns.turn.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                self.received(buffer.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_deadline(cx),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(test);
    }

    async fn fails(stream: &mut Patient<tokio::io::DuplexStream>) {
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(stream.turns.timed_out());
    }

    #[test]
    fn a_header_that_begins_must_end_and_only_that() {
        run(async {
            let (mut client, server) = tokio::io::duplex(64);
            let turns = Arc::new(Turns::default());
            let mut server = Patient::http1(server, Arc::clone(&turns), SHORT);
            // Rest, a body during the agent's turn, and rest again: however long, nobody is late.
            for _ in 0..2 {
                let _ = tokio::time::timeout(SHORT * 3, server.read_u8())
                    .await
                    .unwrap_err();
                let turn = turns.begin();
                client.write_all(b"b").await.unwrap();
                assert_eq!(server.read_u8().await.unwrap(), b'b');
                let _ = tokio::time::timeout(SHORT * 3, server.read_u8())
                    .await
                    .unwrap_err();
                drop(turn);
            }
            client.write_all(b"G").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'G');
            fails(&mut server).await;
        });
    }

    #[test]
    fn an_upgraded_connection_may_rest() {
        run(async {
            let (mut client, server) = tokio::io::duplex(64);
            let turns = Arc::new(Turns::default());
            let mut server = Patient::http1(server, Arc::clone(&turns), SHORT);
            turns.begin().stay();
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
            let _ = tokio::time::timeout(SHORT * 3, server.read_u8())
                .await
                .unwrap_err();
        });
    }

    #[test]
    fn a_preface_must_come_whole_and_then_all_is_well() {
        run(async {
            let (mut client, server) = tokio::io::duplex(64);
            let mut server = Patient::http2(server, Arc::default(), SHORT);
            let mut preface = [0; PREFACE];
            client.write_all(&preface).await.unwrap();
            server.read_exact(&mut preface).await.unwrap();
            let _ = tokio::time::timeout(SHORT * 3, server.read_u8())
                .await
                .unwrap_err();

            let (mut client, server) = tokio::io::duplex(64);
            let mut server = Patient::http2(server, Arc::default(), SHORT);
            client.write_all(&preface[1..]).await.unwrap();
            server.read_exact(&mut preface[1..]).await.unwrap();
            fails(&mut server).await;
        });
    }
}
