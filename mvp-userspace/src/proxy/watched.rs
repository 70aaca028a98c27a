//! A client's connection whose requests are looked at as bytes before the HTTP library reads them.
//!
//! The library cannot represent some requests that a kube-apiserver answers. Over HTTP/1.1 it would answer them without a Status and close
//! the connection, over HTTP/2 reset their streams or end the connection; and it would cut a target off at a `#`, so that
//! `DELETE …/configmaps/a#b` became `DELETE …/configmaps/a`. `h1wire` and `h2wire` replace them by requests that it takes, marked
//! with how they are to be refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::h1wire::{Answered, HeadLimits, Heads};
use crate::h2wire::Mend;
use crate::net::pass_writes;

/// A client that is still sending when its connection ends is let finish for this long, since what it sends to a closed connection
/// makes its system throw the answer away. As in Go's `net/http` (`rstAvoidanceDelay`).
const LINGER: Duration = Duration::from_millis(500);
/// At most so many bytes are read for that.
const LINGER_BYTES: usize = 4 << 20;

/// Whether requests may arrive on an HTTP/2 connection that were not looked at. Shared with those requests.
#[derive(Clone, Debug, Default)]
pub struct Unseen(Arc<AtomicBool>);

/// See the module's description.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    reader: Reader,
    /// What the library is to read next.
    ready: Bytes,
    /// What comes after that.
    failed: Option<io::Error>,
    linger: Option<Pin<Box<Sleep>>>,
    lingered: usize,
}

#[derive(Debug)]
enum Reader {
    Http1(Box<Heads>),
    Http2 { mend: Box<Mend>, unseen: Unseen },
}

impl Unseen {
    pub fn may_be(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S> Watched<S> {
    /// The second value is to be informed of every answer.
    pub(super) fn http1(stream: S, limits: HeadLimits) -> (Self, Answered) {
        let (heads, answered) = Heads::new(limits);
        (Self::new(stream, Reader::Http1(Box::new(heads))), answered)
    }

    /// `header_bytes`: the most that the header of a request may have.
    pub(super) fn http2(stream: S, header_bytes: usize, unseen: Unseen) -> Self {
        let mend = Box::new(Mend::new(header_bytes.saturating_mul(4)));
        Self::new(stream, Reader::Http2 { mend, unseen })
    }

    fn new(stream: S, reader: Reader) -> Self {
        Self {
            stream,
            reader,
            ready: Bytes::new(),
            failed: None,
            linger: None,
            lingered: 0,
        }
    }
}

impl Reader {
    fn give_up(&mut self) -> Vec<u8> {
        match self {
            Self::Http1(heads) => heads.give_up(),
            Self::Http2 { mend, .. } => mend.give_up(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Http1(heads) => heads.feed(bytes),
            Self::Http2 { mend, unseen } => {
                let instead = mend.feed(bytes);
                // The HTTP library ends such a connection; should it not, nothing is let through unseen.
                if mend.is_lost() {
                    unseen.0.store(true, Ordering::Relaxed);
                }
                instead
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let now = this.ready.split_to(this.ready.len().min(buf.remaining()));
                buf.put_slice(&now);
                return Poll::Ready(Ok(()));
            }
            if let Reader::Http1(heads) = &mut this.reader {
                if heads.is_over() {
                    return Poll::Ready(Ok(()));
                }
                if let Some(waited) = heads.settled().filter(|waited| !waited.is_empty()) {
                    this.ready = Bytes::from(waited);
                    continue;
                }
                if !heads.may_read() {
                    // The library reads again once it has sent the answer.
                    return Poll::Pending;
                }
            }
            if let Some(error) = this.failed.take() {
                return Poll::Ready(Err(error));
            }
            let before = buf.filled().len();
            if let Err(error) = ready!(Pin::new(&mut this.stream).poll_read(cx, buf)) {
                // The library is to see that it came within a head.
                this.ready = Bytes::from(this.reader.give_up());
                this.failed = Some(error);
                continue;
            }
            let bytes = buf.filled().get(before..).unwrap_or_default();
            let instead = match bytes.is_empty() {
                // The end; what is held comes before it, as it came.
                true => Some(this.reader.give_up()).filter(|held| !held.is_empty()),
                false => this.reader.feed(bytes),
            };
            let Some(instead) = instead else {
                return Poll::Ready(Ok(()));
            };
            buf.set_filled(before);
            this.ready = Bytes::from(instead);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    /// Goes on reading until the client has finished, for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let linger = self
                .linger
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
            if linger.as_mut().poll(cx).is_ready() || self.lingered > LINGER_BYTES {
                return Poll::Ready(());
            }
            let mut buf = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
            self.lingered += buf.filled().len();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    pass_writes!();

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if matches!(&self.reader, Reader::Http1(heads) if heads.is_ending()) {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
