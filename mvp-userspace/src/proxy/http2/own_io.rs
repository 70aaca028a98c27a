//! The socket below a connection of the agent's own HTTP/2, and who shares the connection.
//!
//! A request, its connection and its driver are on one thread, so that the lock of what they share is never waited for.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::h2wire::{Connection, Fault, Side};
use crate::net::next_turn;

/// Room for one read.
const READ: usize = 32 * 1024;
/// Reads of one connection in one turn of its thread's event loop: what one sends as fast as it is read does not keep the thread from the others.
const READS_A_TURN: usize = 8;
/// Pieces of what is written at a time.
const PIECES: usize = 8;

thread_local! {
    /// The thread's buffer for reads, unless a connection has it: one that is idle has none.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// What a connection's requests and its driver share.
#[derive(Debug)]
pub(in crate::proxy) struct Shared<S: Side>(pub(in crate::proxy) Arc<Mutex<Connection<S>>>);

/// A connection and its socket.
pub(in crate::proxy) struct Io<T, S: Side> {
    pub socket: T,
    pub connection: Shared<S>,
    inbox: BytesMut,
    /// Something was written behind the last flush.
    unflushed: bool,
}

/// What comes on one stream. Dropped, it lets go what has not come.
#[derive(Debug)]
pub(in crate::proxy) struct Exchange<S: Side> {
    pub connection: Shared<S>,
    pub id: u32,
}

impl<S: Side> Shared<S> {
    pub(in crate::proxy) fn new(connection: Connection<S>) -> Self {
        Self(Arc::new(Mutex::new(connection)))
    }

    pub(in crate::proxy) fn lock(&self) -> MutexGuard<'_, Connection<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Side> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Side> Drop for Exchange<S> {
    fn drop(&mut self) {
        self.connection.lock().let_go(self.id);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, S: Side> Io<T, S> {
    pub(in crate::proxy) fn new(socket: T, connection: Shared<S>) -> Self {
        Self {
            socket,
            connection,
            inbox: BytesMut::new(),
            unflushed: false,
        }
    }

    /// Reads what is there, unless the connection ends by it, or that is more than a turn takes: then the task is woken for the next one.
    /// Returns whether anything came.
    ///
    /// # Errors
    /// The socket's, or the end of what comes.
    pub(in crate::proxy) fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        self.connection.lock().begin_turn();
        let read = self.read_a_turn(cx);
        if self.inbox.is_empty() {
            let mut spare = std::mem::take(&mut self.inbox);
            spare.clear();
            // The thread may be ending.
            let _ = SPARE.try_with(|place| place.set(spare));
        }
        read
    }

    fn read_a_turn(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut came = false;
        for _ in 0..READS_A_TURN {
            if !self.inbox.is_empty() {
                let mut connection = self.connection.lock();
                connection.receive(&mut self.inbox);
                if connection.is_done() {
                    return Ok(came);
                }
                if connection.has_enough() {
                    next_turn(cx);
                    return Ok(came);
                }
            }
            if self.inbox.capacity() == 0 {
                self.inbox = SPARE.try_with(Cell::take).unwrap_or_default();
            }
            self.inbox.reserve(READ);
            match pin!(self.socket.read_buf(&mut self.inbox)).poll(cx)? {
                Poll::Ready(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(_) => came = true,
                Poll::Pending => return Ok(came),
            }
        }
        next_turn(cx);
        Ok(came)
    }

    /// Ready when everything is written and flushed.
    pub(in crate::proxy) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.write_all(cx);
        self.connection.lock().blocked(written.is_pending());
        written
    }

    fn write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut connection = self.connection.lock();
            if !connection.has_outgoing() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            let filled = connection.outgoing(&mut slices);
            let written = match slices.get(..filled).unwrap_or_default() {
                [one] => Pin::new(&mut self.socket).poll_write(cx, one),
                several => Pin::new(&mut self.socket).poll_write_vectored(cx, several),
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            connection.written(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    pub(in crate::proxy) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The kernel gives up a connection whose other end is silent (TCP_USER_TIMEOUT).
pub(in crate::proxy) fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::TimedOut => Fault::PingUnanswered,
        _ => Fault::Broken,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;
    use crate::h2wire::Limits;
    use crate::h2wire::frame::{PREFACE, kind};
    use crate::h2wire::server::Server;
    use crate::h2wire::testing::frame;

    fn waiting<T, S: Side>(io: &Io<T, S>) -> usize {
        let connection = io.connection.lock();
        let mut slices = [IoSlice::new(&[]); PIECES];
        let filled = connection.outgoing(&mut slices);
        slices[..filled].iter().map(|slice| slice.len()).sum()
    }

    #[tokio::test]
    async fn a_turn_reads_no_more_than_its_share() {
        let (near, mut far) = duplex(1 << 20);
        let limits = Limits {
            stream_window: 1 << 16,
            connection_window: 1 << 16,
            frame: 1 << 14,
            header_list: 1 << 14,
            streams: 10,
            blocks_a_turn: 4,
        };
        let pings = frame(kind::PING, 0, 0, b"12345678").repeat(30_000);
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        let said = [&PREFACE[..], &settings, &pings].concat();
        far.write_all(&said).await.unwrap();
        let mut io = Io::new(near, Shared::new(Server::new(limits)));
        let mut turns = Vec::new();
        // What waits at the end is all answers, and some SETTINGS before them.
        while turns.last().is_none_or(|last| *last < pings.len()) {
            std::future::poll_fn(|cx| Poll::Ready(io.poll_read(cx).unwrap())).await;
            turns.push(waiting(&io));
        }
        // A read may find more room than it asks for.
        let most = 2 * READS_A_TURN * READ;
        let mut steps = turns.iter().zip(turns.iter().skip(1));
        assert!(turns[0] <= most && steps.all(|(one, next)| next - one <= most));
        assert!(turns.len() > 1, "{turns:?}");
    }
}
