//! Reads below TLS, many records at a time.
//!
//! rustls asks its socket for 4 KiB at a time (`READ_SIZE` of its deframer), which is a `recv` for each. Here the socket is read in
//! [`SIZE`], and rustls is given what it asks for from that. The buffer is the thread's: a connection has one only while there is
//! something in it that rustls has not asked for yet, so that connections which wait (watches, by the thousand) have none.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pass_writes;

/// Two TLS records of the largest size, or some twenty usual answers.
const SIZE: usize = 32 * 1024;

thread_local! {
    /// The thread's buffer, unless a connection has it.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// See the module's description.
#[derive(Debug)]
pub struct Bulk<S> {
    stream: S,
    /// What was read and not asked for yet; never empty.
    left: Option<Left>,
}

#[derive(Debug)]
struct Left {
    buffer: Box<[u8]>,
    range: Range<usize>,
}

impl<S> Bulk<S> {
    /// Nothing is buffered yet.
    pub fn new(stream: S) -> Self {
        Self { stream, left: None }
    }

    /// `early` was read from it before.
    pub fn after(early: Vec<u8>, stream: S) -> Self {
        let left = (!early.is_empty()).then(|| Left {
            range: 0..early.len(),
            buffer: early.into(),
        });
        Self { stream, left }
    }

    /// The stream below, for its properties: what was read from it ahead is not in it any more.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S> Drop for Bulk<S> {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            give(left.buffer);
        }
    }
}

/// The thread's buffer, or a new one if that is in use.
fn take() -> Box<[u8]> {
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    spare.unwrap_or_else(|| vec![0; SIZE].into())
}

/// Makes it the thread's; of several only one is kept, and none that came with a connection.
fn give(buffer: Box<[u8]>) {
    if buffer.len() == SIZE {
        // The thread may be ending.
        let _ = SPARE.try_with(|spare| spare.set(Some(buffer)));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bulk<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut left = match this.left.take() {
            Some(left) => left,
            None if out.remaining() >= SIZE => {
                return Pin::new(&mut this.stream).poll_read(cx, out);
            }
            None => {
                let mut buffer = take();
                let mut read = ReadBuf::new(&mut buffer);
                let outcome = Pin::new(&mut this.stream).poll_read(cx, &mut read);
                let range = 0..read.filled().len();
                if !matches!(outcome, Poll::Ready(Ok(()))) {
                    give(buffer);
                    ready!(outcome)?;
                    return Poll::Ready(Ok(()));
                }
                Left { buffer, range }
            }
        };
        let now = left.range.len().min(out.remaining());
        let (begin, end) = (left.range.start, left.range.start + now);
        out.put_slice(left.buffer.get(begin..end).unwrap_or_default());
        left.range.start = end;
        match left.range.is_empty() {
            true => give(left.buffer),
            false => this.left = Some(left),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bulk<S> {
    pass_writes!(shutdown);
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Gives one chunk for each read; then says that nothing is there.
    #[derive(Default)]
    struct Chunks {
        chunks: VecDeque<Vec<u8>>,
        reads: usize,
    }

    impl AsyncRead for Chunks {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.reads += 1;
            let Some(mut chunk) = self.chunks.pop_front() else {
                return Poll::Pending;
            };
            let rest = chunk.split_off(chunk.len().min(out.remaining()));
            out.put_slice(&chunk);
            if !rest.is_empty() {
                self.chunks.push_front(rest);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn bulk(chunks: &[Vec<u8>]) -> Bulk<Chunks> {
        Bulk::new(Chunks {
            chunks: chunks.iter().cloned().collect(),
            reads: 0,
        })
    }

    /// `None`: nothing is there.
    fn read(bulk: &mut Bulk<Chunks>, most: usize) -> Option<Vec<u8>> {
        let mut space = vec![0; most];
        let mut out = ReadBuf::new(&mut space);
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(bulk).poll_read(&mut cx, &mut out) {
            Poll::Ready(read) => {
                read.unwrap();
                Some(out.filled().to_vec())
            }
            Poll::Pending => None,
        }
    }

    #[test]
    fn many_small_reads_are_one_below() {
        let sent: Vec<u8> = (0..SIZE).map(|i| i as u8).collect();
        let mut bulk = bulk(std::slice::from_ref(&sent));
        let mut got = Vec::new();
        for _ in 0..SIZE / 4096 {
            got.extend(read(&mut bulk, 4096).unwrap());
        }
        assert_eq!(got, sent);
        assert_eq!(bulk.stream.reads, 1);
        assert!(bulk.left.is_none());
        assert_eq!(read(&mut bulk, 4096), None);
    }

    #[test]
    fn a_connection_that_waits_has_no_buffer() {
        let mut waiting: Vec<_> = (0..100).map(|_| bulk(&[vec![1; 300]])).collect();
        for connection in &mut waiting {
            assert_eq!(read(connection, 4096).unwrap().len(), 300);
            assert_eq!(read(connection, 4096), None);
            assert!(connection.left.is_none());
        }
        let kept = SPARE.take().unwrap();
        assert_eq!(kept.len(), SIZE);
    }

    #[test]
    fn a_connection_that_ends_gives_its_buffer_back() {
        let mut one = bulk(&[vec![1; 300]]);
        assert_eq!(read(&mut one, 100).unwrap().len(), 100);
        let buffer = one.left.as_ref().unwrap().buffer.as_ptr();
        drop(one);
        let kept = SPARE.take().unwrap();
        assert_eq!(kept.as_ptr(), buffer);
    }

    #[test]
    fn what_was_read_before_comes_first() {
        let chunks = Chunks {
            chunks: [vec![2; 3]].into(),
            reads: 0,
        };
        let mut bulk = Bulk::after(vec![1; 5], chunks);
        assert_eq!(read(&mut bulk, 4).unwrap(), [1; 4]);
        assert_eq!(read(&mut bulk, 4).unwrap(), [1]);
        assert_eq!(read(&mut bulk, 4).unwrap(), [2; 3]);
        assert_eq!(read(&mut bulk, 4), None);
        let spare = SPARE.take();
        assert!(spare.is_none_or(|kept| kept.len() == SIZE));
    }

    #[test]
    fn the_end_is_told() {
        let mut ended = bulk(&[vec![1; 3], Vec::new()]);
        assert_eq!(read(&mut ended, 10).unwrap(), [1; 3]);
        assert!(read(&mut ended, 10).unwrap().is_empty());
    }

    proptest! {
        /// Two connections of one thread, read in turns: each gets its own bytes, in order.
        #[test]
        fn bytes_stay_in_order_and_apart(
            sizes in proptest::collection::vec(1..50_000_usize, 0..3),
            asks in proptest::collection::vec((any::<bool>(), 1..40_000_usize), 1..60),
        ) {
            let chunks = |salt: u8| -> Vec<Vec<u8>> {
                let chunk = |(n, size): (usize, &usize)| {
                    (0..*size).map(|i| (i * 7 + n) as u8 ^ salt).collect()
                };
                sizes.iter().enumerate().map(chunk).collect()
            };
            let sent = [chunks(0), chunks(0xa5)];
            let mut both = [bulk(&sent[0]), bulk(&sent[1])];
            let mut got = [Vec::new(), Vec::new()];
            let rest = [(false, 4096), (true, 4096)];
            for (which, most) in asks.into_iter().chain(rest.into_iter().cycle().take(200)) {
                let which = usize::from(which);
                got[which].extend(read(&mut both[which], most).unwrap_or_default());
            }
            for (got, sent) in got.iter().zip(&sent) {
                prop_assert_eq!(got, &sent.concat());
            }
            prop_assert!(both.iter().all(|bulk| bulk.left.is_none()));
        }
    }
}
