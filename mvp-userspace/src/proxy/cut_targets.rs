//! Request targets that the HTTP library cannot carry, and those with a `#` in them, which it would cut off.
//!
//! Over HTTP/2 `h2wire` marks such requests before the library reads them. Over HTTP/1.1 lines are looked at.
//!
//! A kube-apiserver takes a `#` for a part of the path, and answers 404. `http::Uri` takes it for the beginning of a fragment, which no
//! request has, and forgets what follows: `DELETE …/configmaps/a#b` would become `DELETE …/configmaps/a`. What a client sends is
//! therefore looked at before the library reads it, and a request whose target would be such a rest is refused.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::h2wire::Mend;

/// Rests that are remembered of one connection; above it, all its requests are refused.
const MOST: usize = 64;
/// Of an HTTP/1.1 line. The HTTP library refuses longer targets.
const LINE: usize = 80 << 10;

/// What would be left of the targets that a connection's client sent with a `#`. Shared with its requests.
#[derive(Clone, Debug, Default)]
pub struct CutTargets(Arc<Mutex<Cut>>);

#[derive(Debug, Default)]
struct Cut {
    rests: Vec<String>,
    /// Any target may be a rest: there were too many, or the connection could not be followed.
    any: bool,
}

/// A client's connection whose requests' targets are looked at as they are read.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    reader: Reader,
    targets: CutTargets,
}

#[derive(Debug)]
enum Reader {
    Http2 {
        mend: Box<Mend>,
        /// What the library is to read next.
        ready: Bytes,
    },
    Http1(Vec<u8>),
}

impl CutTargets {
    /// Whether a request with this target may be what was left of another. Refusing one that is not, of a client that sent both on
    /// one connection, is the side to err on.
    pub fn may_be(&self, uri: &Uri) -> bool {
        let cut = self.lock();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        cut.any || cut.rests.iter().any(|rest| rest == target)
    }

    /// A target came as the client sent it.
    fn note(&self, target: &[u8]) {
        let Some(at) = target.iter().position(|byte| *byte == b'#') else {
            return;
        };
        let rest = String::from_utf8_lossy(target.get(..at).unwrap_or_default());
        // The form with an authority, which a client may use over HTTP/1.1.
        let rest = match rest.split_once("://") {
            Some((_, after)) if !rest.starts_with('/') => {
                after.find('/').map_or("/", |at| &after[at..]).to_owned()
            }
            _ => rest.into_owned(),
        };
        let rest = if rest.is_empty() {
            "/".to_owned()
        } else {
            rest
        };
        let mut cut = self.lock();
        if cut.rests.contains(&rest) {
            return;
        }
        match cut.rests.len() < MOST {
            true => cut.rests.push(rest),
            false => cut.any = true,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Watched<S> {
    /// `header_bytes`: the most that the header of a request may have.
    pub fn new(stream: S, http2: bool, header_bytes: usize) -> (Self, CutTargets) {
        let targets = CutTargets::default();
        let reader = match http2 {
            true => Reader::Http2 {
                mend: Box::new(Mend::new(header_bytes.saturating_mul(4))),
                ready: Bytes::new(),
            },
            false => Reader::Http1(Vec::new()),
        };
        let watched = Self {
            stream,
            reader,
            targets: targets.clone(),
        };
        (watched, targets)
    }
}

/// Every line that is a request's first is looked at, wherever it stands: where a body ends is the HTTP library's knowledge.
fn feed_lines(line: &mut Vec<u8>, bytes: &[u8], targets: &CutTargets) {
    for part in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.len() < LINE {
            line.extend_from_slice(part.get(..LINE).unwrap_or(part));
        }
        if part.ends_with(b"\n") {
            if let Some(target) = target_of(line) {
                targets.note(target);
            }
            line.clear();
        }
    }
}

/// The target of a request line (RFC 9112 §3).
fn target_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii_end();
    let begin = line.iter().position(|byte| *byte == b' ')? + 1;
    let end = line.iter().rposition(|byte| *byte == b' ')?;
    let version = line.get(end + 1..)?;
    version
        .starts_with(b"HTTP/")
        .then(|| line.get(begin..end))?
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Reader::Http2 { ready, .. } = &mut this.reader
                && !ready.is_empty()
            {
                let now = ready.split_to(ready.len().min(buf.remaining()));
                buf.put_slice(&now);
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            let read = Pin::new(&mut this.stream).poll_read(cx, buf);
            if !matches!(read, Poll::Ready(Ok(()))) {
                return read;
            }
            let bytes = buf.filled().get(before..).unwrap_or_default();
            let (mend, ready) = match &mut this.reader {
                Reader::Http1(line) => {
                    feed_lines(line, bytes, &this.targets);
                    return read;
                }
                Reader::Http2 { mend, ready } => (mend, ready),
            };
            let instead = match bytes.is_empty() {
                // The end; what is held of a header block comes before it, as it came.
                true if mend.holds() => Some(mend.give_up()),
                true => return read,
                false => mend.feed(bytes),
            };
            // The HTTP library ends such a connection; should it not, nothing is let through unseen.
            if mend.is_lost() {
                this.targets.lock().any = true;
            }
            let Some(instead) = instead else {
                return read;
            };
            buf.set_filled(before);
            *ready = Bytes::from(instead);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn after(chunks: &[&str]) -> CutTargets {
        let targets = CutTargets::default();
        let mut line = Vec::new();
        for chunk in chunks {
            feed_lines(&mut line, chunk.as_bytes(), &targets);
        }
        targets
    }

    #[test]
    fn rests_are_refused_and_nothing_else() {
        let targets = after(&[
            "DELETE /maps/a#b HTTP/1.1\r\nHost: k\r\nReferer: /x#y\r\n\r\n",
            "GET /q?a=1#",
            "frag HTTP/1.1\r\n\r\nGET https://k/abs#x HTTP/1.1\r\n\r\nGET # HTTP/1.1\r\n\r\n",
            "GET /plain HTTP/1.1\r\n\r\n",
        ]);
        for (target, refused) in [
            ("/maps/a", true),
            ("/q?a=1", true),
            ("/abs", true),
            ("/", true),
            ("/maps/ab", false),
            ("/maps/a?x", false),
            ("/plain", false),
            ("/x", false),
        ] {
            let uri: Uri = target.parse().unwrap();
            assert_eq!(targets.may_be(&uri), refused, "{target}");
        }
    }

    #[test]
    fn a_client_that_makes_them_up_is_refused_altogether() {
        let lines: String = (0..=MOST)
            .map(|i| format!("GET /{i}#x HTTP/1.1\r\n\r\n"))
            .collect();
        let targets = after(&[&lines, &lines]);
        assert!(targets.may_be(&"/other".parse().unwrap()));
        assert_eq!(targets.lock().rests.len(), MOST);
        assert!(!after(&[]).may_be(&"/other".parse().unwrap()));
    }
}
