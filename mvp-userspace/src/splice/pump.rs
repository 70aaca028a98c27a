//! Moves bytes from one socket to another in userspace, with as little memory as the moment needs: at most 1 KiB for an idle
//! direction, up to 256 KiB for a busy one. A pipe stays once it is made (two descriptors, and no pages while it is empty).

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, recv};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::flow::Flowing;
use super::sense::Sensor;
use super::traffic::Traffic;

/// One direction of a pair.
pub(super) struct Pump {
    direction: usize,
    conduit: Conduit,
    buffer: Vec<u8>,
    /// What of the buffer has been written.
    start: usize,
    /// Index into [`SIZES`].
    size: usize,
    /// Reads in a row that a smaller buffer would have been enough for.
    small: u8,
    pipe: Option<Pipe>,
    end: Ending,
    /// Whether the source has been asked for bytes, whatever its registration with the runtime knows.
    asked: bool,
    /// The last read left nothing behind: it did not fill its buffer, or there was nothing.
    emptied: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Conduit {
    Buffer,
    Pipe,
}

/// Which side of the pair broke off: 0 or 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Broken(pub usize);

/// Why two pumps stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// Both directions have ended in order.
    Ended,
    /// Both directions are open, and in both every byte that was there has been passed on.
    Clean,
    /// Something else flows than before.
    Flows(Flowing),
}

/// What the buffers grow through: a keystroke, a TLS record, bulk.
const SIZES: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];
/// Bytes that a pipe takes, if the system allows (`fs.pipe-max-size` and `pipe-user-pages-soft`).
const PIPE: usize = 256 << 10;
const GROW_AT: usize = 32 << 10;
const SMALL_READS: u8 = 16;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    Open,
    /// The source has ended, the target does not know yet.
    Read,
    Done,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    holds: usize,
    grown: bool,
}

/// Runs both directions until they have ended, if `until_clean` until a moment without unread bytes, and with a sensor until something
/// else flows. A direction whose gate is closed is not read; who opens it polls this afterwards. Cancel safe.
pub(super) async fn run(
    streams: [&TcpStream; 2],
    pumps: &mut [Pump; 2],
    traffic: &Traffic,
    gates: &[AtomicBool; 2],
    until_clean: bool,
    mut sensor: Option<&mut Sensor>,
) -> Result<Stop, Broken> {
    let [a, b] = streams;
    let [first_gate, second_gate] = gates;
    // A side that has ended its direction is not read any more: its reset would stay unseen until the next write.
    let mut errors = [
        pin!(a.ready(Interest::ERROR)),
        pin!(b.ready(Interest::ERROR)),
    ];
    std::future::poll_fn(|cx| {
        let [first, second] = pumps;
        let polls = [
            match first_gate.load(Ordering::Relaxed) {
                true => first.poll(cx, a, b, traffic)?,
                false => Poll::Pending,
            },
            match second_gate.load(Ordering::Relaxed) {
                true => second.poll(cx, b, a, traffic)?,
                false => Poll::Pending,
            },
        ];
        if polls.iter().all(Poll::is_ready) {
            return Poll::Ready(Ok(Stop::Ended));
        }
        let sensed = sensor.as_deref_mut();
        if let Some(flowing) = sensed.and_then(|sensor| sensor.moved(traffic.get(), streams)) {
            return Poll::Ready(Ok(Stop::Flows(flowing)));
        }
        if until_clean && first.is_clean() && second.is_clean() {
            return Poll::Ready(Ok(Stop::Clean));
        }
        for ((side, error), poll) in errors.iter_mut().enumerate().zip(&polls) {
            if poll.is_ready() && error.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Broken(side)));
            }
        }
        Poll::Pending
    })
    .await
}

impl Pump {
    /// Moves what side `direction` receives to the other; first of all `early`, which has been read from it before.
    pub(super) fn new(direction: usize, early: Vec<u8>, conduit: Conduit) -> Self {
        Self {
            direction,
            conduit,
            buffer: early,
            start: 0,
            size: 0,
            small: 0,
            pipe: None,
            end: Ending::Open,
            asked: false,
            emptied: false,
        }
    }

    /// A direction that has ended and has been shut down.
    pub(super) fn ended(direction: usize) -> Self {
        Self {
            end: Ending::Done,
            ..Self::new(direction, Vec::new(), Conduit::Buffer)
        }
    }

    /// What is read from now on takes this way; what has been read goes on in its own.
    pub(super) fn switch(&mut self, conduit: Conduit) {
        self.conduit = conduit;
    }

    /// Whether the source has ended, passed on or not.
    pub(super) fn saw_end(&self) -> bool {
        self.end != Ending::Open
    }

    /// Nothing read that is not written, and the last read emptied the queue: [`Self::poll`] is pending for the source. That alone
    /// does not say so, since the runtime also makes a task wait that has had its share.
    fn is_clean(&self) -> bool {
        self.end == Ending::Open && self.emptied && !self.holds_any()
    }

    fn holds_any(&self) -> bool {
        self.start < self.buffer.len() || self.pipe.as_ref().is_some_and(|pipe| pipe.holds > 0)
    }

    /// Ready when the source has ended and the target has been shut down.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        target: &TcpStream,
        traffic: &Traffic,
    ) -> Poll<Result<(), Broken>> {
        let (from, to) = (self.direction, 1 - self.direction);
        loop {
            if self.end == Ending::Done {
                return Poll::Ready(Ok(()));
            }
            if self.holds_any() {
                match self.drain(target) {
                    Ok(bytes) => traffic.add(from, bytes),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(target.poll_write_ready(cx)).map_err(|_| Broken(to))?;
                    }
                    Err(_) => return Poll::Ready(Err(Broken(to))),
                }
                continue;
            }
            if self.end == Ending::Read {
                // A target that is gone is found broken by its own reader.
                let _ = SockRef::from(target).shutdown(Shutdown::Write);
                self.end = Ending::Done;
                self.buffer = Vec::new();
                self.pipe = None;
                continue;
            }
            if !self.asked {
                // A socket that the runtime has only just got to know seems empty: "nothing unread" must not be built on that.
                let size = self.renew_buffer();
                let read = recv(
                    source,
                    spare_capacity(&mut self.buffer),
                    RecvFlags::DONTWAIT,
                );
                // A full buffer may be the beginning of a segment whose rest the runtime does not know of either: asked again, or
                // the pair would be joined in the middle of it, and the kernel would send all of it once more.
                self.emptied = !matches!(read, Ok((bytes, _)) if bytes == size);
                self.asked = self.emptied;
                match read {
                    Ok((0, _)) => self.end = Ending::Read,
                    Ok(_) => {}
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(_) => return Poll::Ready(Err(Broken(from))),
                }
                continue;
            }
            match source.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken(from))),
                Poll::Pending => {
                    self.rest();
                    return Poll::Pending;
                }
            }
            match self.fill(source) {
                Ok(0) => self.end = Ending::Read,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(Broken(from))),
            }
        }
    }

    /// Gives back what an idle direction does not need.
    fn rest(&mut self) {
        if self.buffer.capacity() > SIZES[0] {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }

    fn fill(&mut self, source: &TcpStream) -> io::Result<usize> {
        match self.conduit {
            Conduit::Buffer => self.fill_buffer(source),
            Conduit::Pipe => self.fill_pipe(source),
        }
    }

    /// An empty buffer of the present size.
    fn renew_buffer(&mut self) -> usize {
        let size = SIZES.get(self.size).copied().unwrap_or(SIZES[0]);
        self.buffer.clear();
        self.start = 0;
        if self.buffer.capacity() != size {
            self.buffer = Vec::with_capacity(size);
        }
        size
    }

    fn fill_buffer(&mut self, source: &TcpStream) -> io::Result<usize> {
        let size = self.renew_buffer();
        let mut filled = None;
        let mut emptied = self.emptied;
        let result = source.try_io(Interest::READABLE, || {
            let read = recv(
                source,
                spare_capacity(&mut self.buffer),
                RecvFlags::DONTWAIT,
            );
            emptied = !matches!(read, Ok((bytes, _)) if bytes == size);
            let (bytes, _) = read?;
            filled = Some(bytes);
            // The queue is empty now: readiness is taken back without asking once more. Whatever arrives makes a new edge.
            if (1..size).contains(&bytes) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        self.emptied = emptied;
        let Some(bytes) = filled else {
            return result.map(|()| 0);
        };
        if bytes == size {
            self.size = (self.size + 1).min(SIZES.len() - 1);
            self.small = 0;
        } else if let Some(smaller) = self.size.checked_sub(1)
            && SIZES.get(smaller).is_some_and(|size| bytes <= *size)
        {
            self.small += 1;
            if self.small == SMALL_READS {
                self.size = smaller;
                self.small = 0;
            }
        } else {
            self.small = 0;
        }
        Ok(bytes)
    }

    fn fill_pipe(&mut self, source: &TcpStream) -> io::Result<usize> {
        if self.pipe.is_none() {
            match Pipe::new() {
                Ok(pipe) => self.pipe = Some(pipe),
                Err(error) => {
                    // Out of descriptors, most likely: the pair is worth more than the way in which it is moved.
                    tracing::warn!(%error, "no pipe; copying instead");
                    self.conduit = Conduit::Buffer;
                    return self.fill_buffer(source);
                }
            }
        }
        let Some(pipe) = &mut self.pipe else {
            return Err(io::ErrorKind::Other.into());
        };
        // The pipe is empty here, so that EAGAIN can only come from the socket.
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let mut emptied = self.emptied;
        let read = source.try_io(Interest::READABLE, || {
            let read = splice(source, None, &pipe.write, None, PIPE, flags);
            // Bytes say nothing about the rest: a pipe may be full after a part of a segment.
            emptied = matches!(read, Err(rustix::io::Errno::AGAIN));
            Ok(read?)
        });
        self.emptied = emptied;
        let bytes = read?;
        pipe.holds = bytes;
        pipe.grow();
        Ok(bytes)
    }

    fn drain(&mut self, target: &TcpStream) -> io::Result<usize> {
        if let Some(rest) = self
            .buffer
            .get(self.start..)
            .filter(|rest| !rest.is_empty())
        {
            let bytes = target.try_write(rest)?;
            self.start += bytes;
            if self.start == self.buffer.len() {
                self.buffer.clear();
                self.start = 0;
            }
            return Ok(bytes);
        }
        let Some(pipe) = &mut self.pipe else {
            return Ok(0);
        };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let bytes = target.try_io(Interest::WRITABLE, || {
            Ok(splice(&pipe.read, None, target, None, pipe.holds, flags)?)
        })?;
        if bytes == 0 {
            // Not seen; it would mean that the bytes are gone.
            return Err(io::ErrorKind::WriteZero.into());
        }
        pipe.holds = pipe.holds.saturating_sub(bytes);
        Ok(bytes)
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self {
            read,
            write,
            holds: 0,
            grown: false,
        })
    }

    /// A pipe begins with 16 segments, of whatever size; bulk gets more. Kept small for those who only talk now and then.
    fn grow(&mut self) {
        if !self.grown && self.holds >= GROW_AT {
            self.grown = true;
            // Refused above the user's share: the pipe works as it is.
            let _ = fcntl_setpipe_size(&self.write, PIPE);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::splice::rig::Rig;

    /// The pair would be joined in the middle of a segment, which the kernel would send once more from its beginning.
    #[tokio::test]
    async fn a_full_pipe_does_not_mean_that_the_queue_is_empty() {
        const BYTES: usize = 8_000;
        let mut rig = Rig::new().await.unwrap();
        let pipe = Pipe::new().unwrap();
        // Room for one fragment.
        fcntl_setpipe_size(&pipe.write, 4096).unwrap();
        let mut pump = Pump {
            asked: true,
            emptied: true,
            pipe: Some(pipe),
            ..Pump::new(0, Vec::new(), Conduit::Pipe)
        };
        for _ in 0..8 {
            rig.client.write_all(&[7; BYTES / 8]).await.unwrap();
        }
        rig.a.readable().await.unwrap();
        assert!(pump.fill(&rig.a).unwrap() < BYTES);
        assert!(rustix::io::ioctl_fionread(&rig.a).unwrap() > 0);
        pump.switch(Conduit::Buffer);
        assert!(!pump.emptied && !pump.is_clean());

        pump.switch(Conduit::Pipe);
        let traffic = Traffic::default();
        let mut received = vec![0; BYTES];
        let pumping = std::future::poll_fn(|cx| {
            let _ = pump.poll(cx, &rig.a, &rig.b, &traffic).is_pending();
            match pump.is_clean() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        let ((), read) = tokio::join!(pumping, rig.server.read_exact(&mut received));
        assert_eq!(read.unwrap(), BYTES);
        assert_eq!(traffic.get(), [BYTES as u64, 0]);
    }
}
