//! Client connections on which too much goes wrong too fast are closed (CVE-2023-44487 and its relatives).
//!
//! The h2 crate has a limit for this that counts over a connection's whole life, so that a client whose uploads are refused early a
//! hundred times, each of them in order, loses its connection. Here the resets that the agent sends are counted as they leave, by
//! their code, against an allowance that comes back.
//!
//! A burst of requests is spread as well: no connection begins more than a few of them in one turn of its thread's event loop, so that
//! others come between them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Seen, Walker};
use super::keep_alive::Reads;
use super::rate::{Allowance, Rate};
use super::streams::Granted;
use crate::h2wire::frame::HEADER as FRAME_HEADER;
use crate::h2wire::frame::code::ENHANCE_YOUR_CALM;
use crate::h2wire::{Burst, Misdeeds};
use crate::net::next_turn;

/// Frames on streams that have ended already, such as the rest of an upload that was refused early: the number that is allowed
/// at once, and per minute. Each of them costs the client as much as the agent.
const LATE_FRAMES: f64 = 20_000.0;

/// What is left of what one client may do that costs the agent more than the client.
#[derive(Debug)]
pub(super) struct Floods {
    given_up: (Rate, Allowance),
    errors: (Rate, Allowance),
    late: (Rate, Allowance),
}

/// Whether a connection was closed for a flood.
#[derive(Clone, Debug, Default)]
pub(super) struct Flooded(Arc<AtomicBool>);

/// An HTTP/2 client's connection, watched.
#[derive(Debug)]
pub(super) struct FloodGuard<S> {
    stream: S,
    reads: Reads,
    incoming: Walker,
    outgoing: Walker,
    /// The highest stream that the client opened.
    last_stream: u32,
    floods: Floods,
    burst: Burst,
    /// Requests that may begin in one turn of the thread's event loop.
    begun_a_turn: usize,
    /// Bytes that were read and are for a later turn, from the position in the second field on.
    held: (Vec<u8>, usize),
    flooded: Flooded,
    /// GOAWAY, once it is decided, and how much of it was sent.
    farewell: Option<(Vec<u8>, usize)>,
}

impl Floods {
    /// `resets`: requests that are given up, and resets for errors of the client's own, each so many at once and each minute.
    pub(super) fn new(resets: usize) -> Self {
        let now = Instant::now();
        let full = |burst: f64| {
            let rate = Rate {
                burst,
                per_second: burst / 60.0,
            };
            (rate, Allowance::full(rate, now))
        };
        #[allow(clippy::cast_precision_loss)] // The configuration allows a million.
        let resets = resets as f64;
        Self {
            given_up: full(resets),
            errors: full(resets),
            late: full(LATE_FRAMES),
        }
    }

    /// False: it was too much.
    pub(super) fn allow(&mut self, misdeeds: Misdeeds) -> bool {
        if misdeeds == Misdeeds::default() {
            return true;
        }
        let now = Instant::now();
        let spend = |(rate, allowance): &mut (Rate, Allowance), times| {
            (0..times).all(|_| allowance.take(*rate, now))
        };
        spend(&mut self.given_up, misdeeds.given_up)
            && spend(&mut self.errors, misdeeds.errors)
            && spend(&mut self.late, misdeeds.late)
    }
}

impl Flooded {
    pub(super) fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S> FloodGuard<S> {
    /// `reads` counts those that bring something.
    pub(super) fn new(stream: S, granted: Granted, reads: Reads) -> (Self, Flooded) {
        let flooded = Flooded::default();
        let guard = Self {
            stream,
            reads,
            incoming: Walker::of_client(),
            outgoing: Walker::of_server(),
            last_stream: 0,
            floods: Floods::new(granted.pending_resets),
            burst: Burst::default(),
            begun_a_turn: granted.limits.blocks_a_turn,
            held: (Vec::new(), 0),
            flooded: flooded.clone(),
            farewell: None,
        };
        (guard, flooded)
    }

    fn flood(&mut self) {
        if self.farewell.is_some() {
            return;
        }
        self.flooded.0.store(true, Ordering::Relaxed);
        // GOAWAY (§6.8): eight bytes, on stream 0.
        let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        frame.extend(self.last_stream.to_be_bytes());
        frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        self.farewell = Some((frame, 0));
    }

    /// Counts the frames of what was received, up to where this turn has enough. Returns how many bytes that is.
    fn received(&mut self, bytes: &[u8]) -> usize {
        if !bytes.is_empty() {
            self.reads.count();
        }
        let (burst, last) = (&mut self.burst, &mut self.last_stream);
        let mut heard = true;
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let step = match self.incoming.until_boundary() {
                0 if burst.is_enough(self.begun_a_turn) => break,
                0 => FRAME_HEADER,
                within => within,
            };
            let part = rest.get(..step).unwrap_or(rest);
            self.incoming.walk(part, |seen| match seen {
                Seen::Frame => heard &= burst.frame(),
                Seen::Headers { stream } => {
                    burst.block();
                    *last = stream.max(*last);
                }
                _ => {}
            });
            taken += part.len();
        }
        if !heard {
            self.flood();
        }
        taken
    }

    fn sent(&mut self, bytes: &[u8]) {
        let mut misdeeds = Misdeeds::default();
        self.outgoing.walk(bytes, |seen| {
            if let Seen::Reset { code } = seen {
                misdeeds.reset(code);
            }
        });
        if !self.floods.allow(misdeeds) {
            self.flood();
        }
    }

    fn over() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, "HTTP/2 reset flood")
    }
}

impl<S: AsyncWrite + Unpin> FloodGuard<S> {
    /// Sends the rest of GOAWAY, then fails for good. To be called between two frames.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while let Some((frame, sent)) = &mut self.farewell
            && let Some(rest) = frame.get(*sent..)
            && !rest.is_empty()
        {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                Ok(written) if written > 0 => *sent += written,
                Ok(_) => return Poll::Ready(io::ErrorKind::WriteZero.into()),
                Err(error) => return Poll::Ready(error),
            }
        }
        match ready!(Pin::new(&mut self.stream).poll_shutdown(cx)) {
            Ok(()) => Poll::Ready(Self::over()),
            Err(error) => Poll::Ready(error),
        }
    }

    /// True while frames may pass, or the rest of one that has begun.
    fn may_write(&self) -> bool {
        self.farewell.is_none() || self.outgoing.until_boundary() > 0
    }

    fn wrote(&mut self, cx: &Context<'_>, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(_)) => {
                self.burst.blocked(false);
                if self.farewell.is_some() {
                    // Reading waits for the end of the frame.
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.burst.blocked(true),
        }
    }
}

impl<S: AsyncRead + Unpin> FloodGuard<S> {
    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.burst.is_enough(self.begun_a_turn) {
            // Whatever else is ready is polled before this is again, and so is what arrives meanwhile.
            self.burst.begin_turn();
            next_turn(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let (held, from) = &mut self.held;
        match held.get(*from..).filter(|rest| !rest.is_empty()) {
            Some(rest) => {
                let part = rest.get(..buf.remaining()).unwrap_or(rest);
                buf.put_slice(part);
                *from += part.len();
            }
            None => {
                self.held = (Vec::new(), 0);
                match Pin::new(&mut self.stream).poll_read(cx, buf) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Pending => {
                        self.burst.begin_turn();
                        return Poll::Pending;
                    }
                    failed => return failed,
                }
            }
        }
        let received = buf.filled().get(before..).unwrap_or_default();
        let taken = self.received(received);
        if let Some(later) = received.get(taken..).filter(|later| !later.is_empty()) {
            let (_, from) = &mut self.held;
            match *from >= later.len() && *from > 0 {
                // These bytes came from `held`, and are read again in a later turn.
                true => *from -= later.len(),
                false => self.held = (later.to_vec(), 0),
            }
            buf.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for FloodGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.farewell.is_none() {
            return this.poll_some(cx, buf);
        }
        if this.may_write() {
            // A frame is half sent; whoever sends it wakes this task.
            return Poll::Pending;
        }
        Poll::Ready(Err(ready!(this.poll_farewell(cx))))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FloodGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.may_write() {
            return Poll::Ready(Err(ready!(this.poll_farewell(cx))));
        }
        let most = match this.farewell {
            None => buf.len(),
            Some(_) => buf.len().min(this.outgoing.until_boundary()),
        };
        let part = buf.get(..most).unwrap_or(buf);
        let written = Pin::new(&mut this.stream).poll_write(cx, part);
        if let Poll::Ready(Ok(count)) = &written {
            this.sent(part.get(..*count).unwrap_or_default());
        }
        this.wrote(cx, &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.farewell.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut count)) = written {
            for buf in bufs {
                let part = buf.get(..count.min(buf.len())).unwrap_or_default();
                this.sent(part);
                count -= part.len();
            }
        }
        this.wrote(cx, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.burst.blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::h2wire::Limits;
    use crate::h2wire::frame::kind::{DATA, HEADERS};

    const GRANTED: Granted = Granted {
        limits: Limits {
            stream_window: 1 << 16,
            connection_window: 1 << 16,
            frame: 1 << 14,
            header_list: 1 << 16,
            streams: 100,
            blocks_a_turn: 4,
        },
        pending_resets: 100,
    };

    fn frame(kind: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, 0];
        frame.extend(stream.to_be_bytes());
        frame.resize(FRAME_HEADER + payload, 0x55);
        frame
    }

    fn headers(bytes: &[u8]) -> usize {
        let (mut walker, mut headers) = (Walker::of_server(), 0);
        walker.walk(bytes, |seen| {
            headers += usize::from(matches!(seen, Seen::Headers { .. }));
        });
        headers
    }

    proptest! {
        /// However the bytes come and are asked for: none is lost, and no turn begins more requests than it may.
        #[test]
        fn a_burst_of_requests_is_spread_over_turns(
            frames in prop::collection::vec((any::<bool>(), 0usize..300), 1..60),
            written in 1usize..5000,
            asked in 1usize..5000,
        ) {
            const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
            let mut sent = Vec::new();
            for (number, (is_headers, payload)) in (0..).zip(frames) {
                let kind = if is_headers { HEADERS } else { DATA };
                sent.extend(frame(kind, 1 + 2 * number, payload));
            }
            let (mut client, server) = tokio::io::duplex(written);
            let (mut guard, _) = FloodGuard::new(server, GRANTED, Reads::default());
            let (mut got, mut of_turn) = (Vec::new(), Vec::new());
            let mut unsent: &[u8] = &[PREFACE, &sent].concat();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut still = 0;
            while still < 2 {
                if let Poll::Ready(Ok(count)) = Pin::new(&mut client).poll_write(&mut cx, unsent) {
                    unsent = &unsent[count..];
                }
                let mut room = vec![0; asked];
                let mut buf = ReadBuf::new(&mut room);
                match Pin::new(&mut guard).poll_read(&mut cx, &mut buf) {
                    Poll::Ready(read) => {
                        read.unwrap();
                        still = if buf.filled().is_empty() { still + 1 } else { 0 };
                        of_turn.extend_from_slice(buf.filled());
                    }
                    Poll::Pending => {
                        still += 1;
                        got.push(std::mem::take(&mut of_turn));
                    }
                }
            }
            got.push(of_turn);
            let whole = got.concat();
            prop_assert_eq!(&whole[..PREFACE.len()], PREFACE);
            prop_assert_eq!(&whole[PREFACE.len()..], &sent);
            let mut passed = 0;
            for turn in got {
                let before = headers(&whole[PREFACE.len()..passed.max(PREFACE.len())]);
                passed += turn.len();
                let after = headers(&whole[PREFACE.len()..passed.max(PREFACE.len())]);
                prop_assert!(after - before <= GRANTED.limits.blocks_a_turn);
            }
        }
    }
}
