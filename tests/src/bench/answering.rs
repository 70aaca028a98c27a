//! How the fast upstream answers: in as few writes as it can, or in as many as kube-apiserver.
//!
//! kube-apiserver is served by Go's `http2` and `crypto/tls`. What [`Answering::Real`] does is what these sources say, and what a server of
//! Go 1.19 was seen to do under strace:
//!
//! - `http2/server.go`: a handler waits until its HEADERS are written before it sends DATA (`writeHeaders`), and a connection with nothing else
//!   to send flushes (`scheduleFrameWrite`). So the HEADERS of an answer leave in a write of their own, and DATA follows when the handler
//!   has run again.
//! - `http2/server.go`: what a handler writes is gathered in 4 KiB (`handlerChunkBytes`). A body of several writes, as a streamed list is since
//!   Kubernetes 1.33, becomes DATA of 4 KiB each; the last has END_STREAM. Each is written before the handler goes on.
//! - `crypto/tls/conn.go`: a record is written by a `write` of its own (`writeRecordLocked`).
//! - `http2/server.go`: only a body that fits into those 4 KiB has a Content-Length (`writeChunk`).
//!
//! Not imitated: the records of the first 128 KiB of a connection are smaller (`maxPayloadSizeForWrite`). They are over before anything is
//! measured.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::ValueEnum;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How the servers answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Answering {
    /// Header and body together, in one TLS record if they fit, and the body in frames as large as the client allows
    Lean,
    /// As kube-apiserver: the header in a TLS record and a write of its own, then the body, by 4 KiB
    Real,
}

/// How many bytes of a body are gathered for one DATA frame: `handlerChunkBytes` of Go's `http2/server.go`.
pub(crate) const GATHERED: usize = 4096;

/// How all servers of an upstream answer now. It can be changed while they run, so that one proxy meets both ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Way(Arc<AtomicBool>);

impl Way {
    pub(super) fn set(&self, answering: Answering) {
        self.0
            .store(answering == Answering::Real, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Answering {
        match self.0.load(Ordering::Relaxed) {
            true => Answering::Real,
            false => Answering::Lean,
        }
    }
}

/// The parts of a body that are DATA frames of their own, each with whether it is the last. There is at least one.
pub(super) fn parts(mut body: Bytes) -> impl Iterator<Item = (Bytes, bool)> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let part = body.split_to(body.len().min(GATHERED));
        ended = body.is_empty();
        Some((part, ended))
    })
}

/// A socket below TLS. While answers are [`Answering::Real`], each record takes a `write` of its own.
pub(super) struct Records<S> {
    pub(super) socket: S,
    pub(super) way: Way,
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    /// rustls has a buffer for each record.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let answering = self.way.get();
        let socket = Pin::new(&mut self.socket);
        match (answering, bufs.iter().find(|buf| !buf.is_empty())) {
            (Answering::Real, Some(first)) => socket.poll_write(cx, first),
            _ => socket.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_sent_by_what_a_handler_gathers() {
        let of = |length: usize| -> Vec<(usize, bool)> {
            parts(vec![0; length].into())
                .map(|(part, last)| (part.len(), last))
                .collect()
        };
        assert_eq!(of(0), [(0, true)]);
        assert_eq!(of(1536), [(1536, true)]);
        assert_eq!(of(4096), [(4096, true)]);
        assert_eq!(of(10_000), [(4096, false), (4096, false), (1808, true)]);
    }
}
