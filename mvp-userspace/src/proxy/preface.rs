//! The time that an HTTP/2 client may take for its connection preface (RFC 9113 §3.4). hyper waits for it without a limit;
//! Go's server, and so kube-apiserver, gives it 10 s. What comes after it hyper and PINGs look after.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::header_timeout::HeaderTooSlow;

const PREFACE: usize = 24;

/// A client's connection whose reads fail when the preface does not come in time.
#[derive(Debug)]
pub struct PrefaceTimeout<S> {
    stream: S,
    /// Bytes of the preface still to come.
    left: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> PrefaceTimeout<S> {
    /// The time begins now.
    pub fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            left: PREFACE,
            timer: Some(Box::pin(sleep(limit))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefaceTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(timer) = &mut this.timer else {
            return read;
        };
        this.left = this.left.saturating_sub(buf.filled().len() - before);
        if this.left == 0 {
            this.timer = None;
            return read;
        }
        if read.is_ready() {
            return read;
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, HeaderTooSlow)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefaceTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
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
