//! The flow-control windows that a server grants (RFC 9113 §5.2), read as they arrive: hyper does not report them.
//!
//! A server may grant a connection less than all its streams together; Go's default does, kube-apiserver does not. Uploads
//! that nobody reads behind such a server would then use up the connection's window, and every other upload on it would wait.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Seen, Walker};
use super::keep_alive::Reads;
use crate::net::pass_writes;

/// RFC 9113 §6.9.2.
const INITIAL: usize = 65_535;

/// What a server granted when the connection began, bytes.
#[derive(Debug)]
pub(super) struct Windows {
    stream: AtomicUsize,
    connection: AtomicUsize,
    /// The server has said what it grants.
    known: AtomicBool,
}

/// A connection to a server, whose frames are watched until its first answer.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    walker: Option<Walker>,
    windows: Arc<Windows>,
    reads: Reads,
    /// The first WINDOW_UPDATE of the connection is what it grants; those that follow give back what was used.
    granted: bool,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            stream: AtomicUsize::new(INITIAL),
            connection: AtomicUsize::new(INITIAL),
            known: AtomicBool::new(false),
        }
    }
}

impl Windows {
    /// Uploads that may be under way at a time without stopping one another: as many as their streams' windows fit into the
    /// connection's.
    pub(super) fn uploads(&self) -> usize {
        if !self.known.load(Ordering::Relaxed) {
            return usize::MAX;
        }
        let stream = self.stream.load(Ordering::Relaxed).max(1);
        (self.connection.load(Ordering::Relaxed) / stream).max(1)
    }
}

impl<S> Watched<S> {
    /// `reads` counts the reads that brought something.
    pub(super) fn new(stream: S, reads: Reads) -> (Self, Arc<Windows>) {
        let windows = Arc::new(Windows::default());
        let watched = Self {
            stream,
            walker: Some(Walker::of_server()),
            windows: Arc::clone(&windows),
            granted: false,
            reads,
        };
        (watched, windows)
    }

    fn received(&mut self, bytes: &[u8]) {
        let Some(walker) = &mut self.walker else {
            return;
        };
        let (windows, granted) = (&self.windows, &mut self.granted);
        let mut answered = false;
        walker.walk(bytes, |seen| match seen {
            Seen::StreamWindow(bytes) => {
                windows.stream.store(bytes as usize, Ordering::Relaxed);
            }
            Seen::ConnectionWindow(bytes) if !*granted => {
                *granted = true;
                let all = INITIAL.saturating_add(bytes as usize);
                windows.connection.store(all, Ordering::Relaxed);
                windows.known.store(true, Ordering::Relaxed);
            }
            Seen::Headers { .. } => answered = true,
            Seen::Frame | Seen::ConnectionWindow(_) | Seen::Reset { .. } => {}
        });
        if answered {
            windows.known.store(true, Ordering::Relaxed);
            self.walker = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let received = buf.filled().get(before..).unwrap_or_default();
        if !received.is_empty() {
            self.reads.count();
        }
        self.received(received);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    pass_writes!(shutdown);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(frames: &[&[u8]]) -> usize {
        let (mut watched, windows) = Watched::new((), Reads::default());
        for frame in frames {
            watched.received(frame);
        }
        windows.uploads()
    }

    #[test]
    fn what_servers_grant() {
        let settings = |window: u32| {
            let mut frame = vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4];
            frame.extend(window.to_be_bytes());
            frame
        };
        let update = |more: u32| {
            let mut frame = vec![0, 0, 4, 8, 0, 0, 0, 0, 0];
            frame.extend(more.to_be_bytes());
            frame
        };
        let headers: &[u8] = &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
        // kube-apiserver: 100 streams of 256 KiB.
        let kube = update(100 * (256 << 10) - 65_535);
        assert_eq!(grants(&[&settings(256 << 10), &kube]), 100);
        // Go's default: 1 MiB each.
        let go = update((1 << 20) - 65_535);
        assert_eq!(grants(&[&settings(1 << 20), &go]), 1);
        // What is given back later is not granted anew.
        assert_eq!(grants(&[&settings(256 << 10), &go, &go, &go]), 4);
        assert_eq!(grants(&[&settings(256 << 10), headers, &go]), 1);
        assert_eq!(grants(&[]), usize::MAX, "nothing said yet");
    }
}
