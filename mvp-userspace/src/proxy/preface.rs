//! The time that an HTTP/2 client may take for its connection preface (RFC 9113 §3.4), and that the first frame, which belongs to it, is
//! SETTINGS. The h2 crate waits for it without a limit and takes any first frame; Go's server, and so kube-apiserver, gives it 10 s and
//! takes no other. What comes after it the h2 crate and PINGs look after.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::header_timeout::HeaderTooSlow;
use crate::net::pass_writes;

/// The preface's fixed bytes, and those of the first frame's header up to its type (§4.1).
const PREFACE: usize = 24 + 4;
const SETTINGS: u8 = 4;

/// A client's connection whose reads fail when the preface does not come in time, or is none.
#[derive(Debug)]
pub(super) struct PrefaceTimeout<S> {
    stream: S,
    /// Bytes of the preface still to come.
    left: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> PrefaceTimeout<S> {
    /// The time begins now.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
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
        // Reading only adds.
        let came = buf.filled().get(before..).unwrap_or_default();
        if let Some(kind) = came.get(this.left - 1) {
            this.timer = None;
            if *kind != SETTINGS {
                // GOAWAY may be left out: this is no HTTP/2.
                let message =
                    "the first frame of the client is not SETTINGS (RFC 9113 section 3.4)";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, message)));
            }
            return read;
        }
        this.left -= came.len();
        if read.is_ready() {
            return read;
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, HeaderTooSlow)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefaceTimeout<S> {
    pass_writes!(shutdown);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Everything that is read of these pieces, one read for each.
    async fn read(pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
        let mut builder = Vec::new();
        let (mut client, server) = tokio::io::duplex(1024);
        let mut stream = PrefaceTimeout::new(server, Duration::from_secs(3600));
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut client, piece).await?;
            stream.read_buf(&mut builder).await?;
        }
        Ok(builder)
    }

    #[tokio::test]
    async fn the_first_frame_is_settings_however_the_bytes_are_cut() {
        const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let with = |kind: u8| [START, &[0, 0, 0, kind, 0, 0, 0, 0, 0]].concat();
        let settings = with(4);
        let ping = with(6);
        for cut in 1..settings.len() {
            let pieces = [&settings[..cut], &settings[cut..], b"more"];
            let whole = [settings.as_slice(), b"more"].concat();
            assert_eq!(read(&pieces).await.unwrap(), whole, "cut at {cut}");
            let refused = read(&[&ping[..cut], &ping[cut..]]).await;
            assert_eq!(
                refused.unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "cut at {cut}"
            );
        }
    }
}
