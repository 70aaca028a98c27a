//! A TLS stream whose writes leave at the end of the runtime's turn.
//!
//! HTTP/2 flushes after each frame. With many streams on one connection that is one `write` per frame (measured: 1.9 writes per
//! read). Here small writes are gathered into one TLS record, since each record costs as much as the encryption of a kilobyte, here and
//! at the other side; the first flush of a turn asks to be polled again behind every task that is ready now, and the second one
//! encrypts what has come together and writes it in one `writev`.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

/// So many waits in a row that gathered nothing, and flushes do not wait any more: a connection with one stream at a time only
/// loses by it.
const USELESS: u8 = 8;
/// Flushes after which a connection that does not wait tries again whether it pays.
const RETRY: u8 = 64;
/// Encrypted bytes that may wait; with more a flush does not wait, so that bulk data keeps moving.
const WAIT_LIMIT: usize = 32 * 1024;

/// The plain bytes of a full record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

thread_local! {
    /// The thread's buffer for a record that is being gathered, unless a connection has it.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The TLS streams that can be deferred: tokio-rustls has no common type that gives access to the session's writer.
pub trait TlsIo: AsyncRead + AsyncWrite + Unpin {
    /// Encrypts without touching the socket; 0 when the session's buffer is full.
    fn encrypt(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// See the module's description.
#[derive(Debug)]
pub struct Deferred<S> {
    stream: S,
    /// What is not encrypted yet, less than a record, and how much of it has been after all.
    plain: Vec<u8>,
    encrypted: usize,
    /// Plain bytes written since the last flush.
    waiting: usize,
    flush: Flush,
    /// Waits in a row that gathered nothing; from [`USELESS`] on also the flushes since that did not wait.
    useless: u8,
}

/// How far the present flush is.
#[derive(Clone, Copy, Debug)]
enum Flush {
    None,
    /// At the end of the runtime's queue, with so many plain bytes.
    Waiting(usize),
    Writing,
}

impl<S: TlsIo> Deferred<S> {
    /// Nothing waits yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            plain: Vec::new(),
            encrypted: 0,
            waiting: 0,
            flush: Flush::None,
            useless: 0,
        }
    }

    /// Encrypts what was gathered.
    fn poll_encrypt(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.plain.get(self.encrypted..)
            && !rest.is_empty()
        {
            self.encrypted += ready!(encrypt(&mut self.stream, &[IoSlice::new(rest)], cx))?;
        }
        if self.plain.capacity() > 0 {
            let mut empty = mem::take(&mut self.plain);
            empty.clear();
            self.encrypted = 0;
            // The thread may be ending.
            let _ = SPARE.try_with(|spare| spare.set(empty));
        }
        Poll::Ready(Ok(()))
    }

    /// Whether a flush that begins now is to wait for the end of the turn.
    fn waits(&mut self) -> bool {
        if self.waiting == 0 || self.waiting >= WAIT_LIMIT {
            return false;
        }
        if self.useless >= USELESS + RETRY {
            self.useless = USELESS - 1;
        }
        if self.useless < USELESS {
            return true;
        }
        self.useless += 1;
        false
    }
}

/// How much was taken, at least a byte.
fn encrypt<S: TlsIo>(
    stream: &mut S,
    bufs: &[IoSlice<'_>],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    match stream.encrypt(bufs)? {
        // The session's buffer is full (or there was nothing to write): tokio-rustls drains it to the socket.
        0 => Pin::new(stream).poll_write_vectored(cx, bufs),
        taken => Poll::Ready(Ok(taken)),
    }
}

impl<S: TlsIo> AsyncRead for Deferred<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: TlsIo> AsyncWrite for Deferred<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.plain.len() + bytes > RECORD {
            ready!(this.poll_encrypt(cx))?;
        }
        let written = if bytes < RECORD {
            if this.plain.capacity() == 0 {
                this.plain = SPARE.try_with(Cell::take).unwrap_or_default();
            }
            bufs.iter()
                .for_each(|buf| this.plain.extend_from_slice(buf));
            bytes
        } else {
            ready!(encrypt(&mut this.stream, bufs, cx))?
        };
        this.waiting += written;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = self.flush;
        match flush {
            Flush::None if self.waits() => {
                self.flush = Flush::Waiting(self.waiting);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Flush::Waiting(before) if before == self.waiting => self.useless += 1,
            Flush::Waiting(_) => self.useless = 0,
            Flush::None | Flush::Writing => {}
        }
        self.flush = Flush::Writing;
        ready!(self.poll_encrypt(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.waiting = 0;
        self.flush = Flush::None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_encrypt(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsIo for server::TlsStream<S> {
    fn encrypt(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        io::Write::write_vectored(&mut self.get_mut().1.writer(), bufs)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsIo for client::TlsStream<S> {
    fn encrypt(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        io::Write::write_vectored(&mut self.get_mut().1.writer(), bufs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Fake {
        encrypted: usize,
        records: usize,
        flushes: usize,
        /// The most bytes that it encrypts at a time; every other time it takes nothing.
        most: Option<usize>,
        full: bool,
        bytes: Vec<u8>,
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl TlsIo for Fake {
        fn encrypt(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            self.full = self.most.is_some() && !self.full;
            if self.full {
                return Ok(0);
            }
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let bytes = all.len().min(self.most.unwrap_or(usize::MAX));
            self.bytes.extend_from_slice(&all[..bytes]);
            self.encrypted += bytes;
            self.records += 1;
            Ok(bytes)
        }
    }

    impl AsyncRead for Fake {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Fake {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Writes `frames` frames, the first before the flush begins and the rest while it waits; true if it waited.
    fn turn(io: &mut Deferred<Fake>, frames: usize) -> bool {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut *io).poll_write(&mut cx, b"frame").is_ready());
        let waited = Pin::new(&mut *io).poll_flush(&mut cx).is_pending();
        assert_eq!(count.0.load(Ordering::Relaxed), usize::from(waited));
        if waited {
            for _ in 1..frames {
                let written = Pin::new(&mut *io).poll_write(&mut cx, b"frame");
                assert!(matches!(written, Poll::Ready(Ok(5))));
            }
            assert!(Pin::new(&mut *io).poll_flush(&mut cx).is_ready());
        }
        waited
    }

    #[test]
    fn frames_of_one_turn_leave_together() {
        let mut io = Deferred::new(Fake::default());
        for round in 1..=100 {
            assert!(turn(&mut io, 3));
            let fake = &io.stream;
            assert_eq!(
                (fake.encrypted, fake.records, fake.flushes),
                (round * 15, round, round)
            );
            assert_eq!(io.plain.capacity(), 0, "a connection at rest has no buffer");
        }
    }

    #[test]
    fn waiting_ends_where_it_gathers_nothing_and_is_tried_again() {
        let mut io = Deferred::new(Fake::default());
        for _ in 0..USELESS {
            assert!(turn(&mut io, 1));
        }
        for _ in 0..RETRY {
            assert!(!turn(&mut io, 1));
        }
        assert!(turn(&mut io, 1), "one more try");
        assert!(!turn(&mut io, 1), "in vain");
        for _ in 1..RETRY {
            assert!(!turn(&mut io, 1));
        }
        assert!(turn(&mut io, 2), "this one gathers");
        assert!(turn(&mut io, 1), "and so waiting is back");
    }

    #[test]
    fn bulk_does_not_wait() {
        let mut io = Deferred::new(Fake::default());
        let mut cx = Context::from_waker(Waker::noop());
        let big = vec![0; WAIT_LIMIT];
        assert!(Pin::new(&mut io).poll_write(&mut cx, &big).is_ready());
        assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
    }
    proptest::proptest! {
        /// However it is written, flushed and taken, everything arrives, in order.
        #[test]
        fn nothing_is_lost_or_moved(
            writes in proptest::collection::vec((1..20_000_usize, proptest::bool::ANY), 1..10),
            most in proptest::option::of(1..20_000_usize),
        ) {
            let mut io = Deferred::new(Fake { most, ..Fake::default() });
            let mut cx = Context::from_waker(Waker::noop());
            let mut sent = Vec::new();
            for (number, (size, flush)) in writes.into_iter().enumerate() {
                let chunk: Vec<u8> = (0..size).map(|i| (i * 3 + number) as u8).collect();
                let mut rest = chunk.as_slice();
                while !rest.is_empty() {
                    // Pending: the session was full, and the socket takes nothing either.
                    if let Poll::Ready(written) = Pin::new(&mut io).poll_write(&mut cx, rest) {
                        rest = &rest[written.unwrap()..];
                    }
                }
                sent.extend(chunk);
                while flush && Pin::new(&mut io).poll_flush(&mut cx).is_pending() {}
            }
            while Pin::new(&mut io).poll_shutdown(&mut cx).is_pending() {}
            proptest::prop_assert_eq!(&io.stream.bytes, &sent);
            proptest::prop_assert_eq!(io.plain.capacity(), 0);
        }
    }
}
