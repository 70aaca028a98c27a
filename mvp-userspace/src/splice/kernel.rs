//! A pair while the kernel moves its bytes. What sockmap does not do is done here: it passes on no FIN and no reset, knows no
//! back-pressure, and does not look at bytes that came before it. `docs/splice.md` has the whole list with its reasons.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use mvp_common::SpliceFlow;
use socket2::SockRef;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::pump::Broken;
use super::traffic::ended;
use super::{PairLimits, Reason, Signal};
use crate::kernel::{JoinError, Joined, Splice};
use crate::net::{EndWatch, Ends, Mute, TcpInfo, offer_again, written};

pub(super) struct Phase {
    joined: Joined,
    sockets: [TcpStream; 2],
    watch: EndWatch,
    /// One for each direction.
    base: [Base; 2],
}

/// Why the kernel does not have a pair.
#[derive(Clone, Copy)]
pub(super) enum NotJoined {
    /// It goes on in userspace.
    Kept(Reason),
    /// Bytes may be missing.
    Torn,
}

impl From<Reason> for NotJoined {
    fn from(reason: Reason) -> Self {
        Self::Kept(reason)
    }
}

/// How the kernel's part of a pair's life ended.
pub(super) enum After {
    /// Both directions in order, and everything passed on.
    Ended,
    Stopped,
    Broken(Broken),
    /// The reader of a direction is too slow. The sources have been released.
    Backlog {
        /// Directions that have ended, with the FIN passed on.
        done: [bool; 2],
    },
}

/// The state of TCP's counts when the pair was joined.
struct Base {
    /// Bytes that userspace had read from the source.
    consumed: u64,
    /// Bytes that had been written to the target.
    written: u64,
}

enum Direction {
    Open,
    /// Its FIN has come; the data before it are on their way.
    Closing(Patience),
    Done,
}

/// Waits for a count to move: often at first, then rarely.
struct Patience {
    last: u64,
    moved: Instant,
    pause: Duration,
}

/// A reset lets what came before it arrive, if the other side takes it at once.
const RESET_GRACE: Duration = Duration::from_secs(1);
const PAUSES: [Duration; 2] = [Duration::from_micros(500), Duration::from_millis(50)];
/// Tries to read a count of a socket that keeps receiving.
const TRIES: usize = 64;

impl Phase {
    /// Joins two sockets of which nothing read is unwritten. Gives them back if that is not possible.
    pub(super) fn begin(
        splice: &Splice,
        sockets: [TcpStream; 2],
    ) -> Result<Self, (NotJoined, [TcpStream; 2])> {
        match Self::prepare(splice, &sockets) {
            Ok((joined, watch, base)) => Ok(Self {
                joined,
                sockets,
                watch,
                base,
            }),
            Err(reason) => Err((reason, sockets)),
        }
    }

    fn prepare(
        splice: &Splice,
        sockets: &[TcpStream; 2],
    ) -> Result<(Joined, EndWatch, [Base; 2]), NotJoined> {
        let [a, b] = sockets;
        let base = [Base::read(a, b)?, Base::read(b, a)?];
        // Before the kernel moves anything, since this may fail.
        let watch = EndWatch::new([a, b]).map_err(|error| {
            tracing::debug!(%error, "cannot watch two sockets");
            Reason::Refused
        })?;
        let joined = splice.join([a, b]).map_err(|error| {
            tracing::debug!(%error, "the kernel refused two sockets");
            let open = |socket| TcpInfo::read(socket).is_ok_and(|info| info.is_established());
            match error {
                JoinError::Torn(_) => NotJoined::Torn,
                // It takes established ones only (`sock_map_sk_state_allowed` in net/core/sock_map.c).
                JoinError::Refused(_) if open(a) && open(b) => NotJoined::Kept(Reason::Refused),
                JoinError::Refused(_) => NotJoined::Kept(Reason::Ended),
            }
        })?;
        for socket in sockets {
            // Bytes that came between the last read and now. Cannot fail for an open socket; if it did they would be found
            // missing at the end.
            let _ = offer_again(socket);
        }
        Ok((joined, watch, base))
    }

    /// Until both directions have ended, or something else must go on.
    pub(super) async fn run(&self, limits: &PairLimits, signal: &mut Receiver<Signal>) -> After {
        let mut seen = [Ends::default(); 2];
        let mut directions = [Direction::Open, Direction::Open];
        let stopped = ended(signal, limits.silence, || {
            self.redirected().into_iter().fold(0, u64::wrapping_add)
        });
        tokio::pin!(stopped);
        loop {
            for (side, seen) in seen.iter().enumerate() {
                if seen.error {
                    self.let_arrive(side).await;
                    return After::Broken(Broken(side));
                }
            }
            let mut pause = None;
            for from in [0, 1] {
                match self.advance(from, seen, &mut directions, limits.stall) {
                    Ok(next) => pause = pause.into_iter().chain(next).min(),
                    Err(broken) => return After::Broken(broken),
                }
            }
            if directions.iter().all(|d| matches!(d, Direction::Done)) {
                return After::Ended;
            }
            tokio::select! {
                result = self.watch.next(&mut seen) => if let Err(error) = result {
                    tracing::error!(%error, "cannot watch two sockets any more");
                    return After::Broken(Broken(0));
                },
                () = self.joined.step() => {
                    if let Some(from) = [0, 1].into_iter().find(|&from| self.is_broken(from)) {
                        return After::Broken(Broken(from));
                    }
                    let slow = |&from: &usize| self.backlog(from).is_some_and(|bytes| bytes > limits.backlog);
                    if ![0, 1].iter().any(slow) {
                        continue;
                    }
                    return match self.release().await {
                        Ok(()) => After::Backlog { done: directions.map(|d| matches!(d, Direction::Done)) },
                        // What it holds for the reader has no bound otherwise.
                        Err(error) => {
                            tracing::warn!(%error, "a pair cannot be taken out of the kernel for its slow reader");
                            After::Broken(Broken(0))
                        }
                    };
                },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                () = &mut stopped => return After::Stopped,
            }
        }
    }

    /// Ends the kernel's sending on. What arrives meanwhile is as if it had been lost on the way, and comes again.
    async fn release(&self) -> io::Result<()> {
        let [first, second] = &self.sockets;
        let mute = Mute::new([first, second]).await?;
        self.joined.release();
        drop(mute);
        Ok(())
    }

    /// Waits, after [`After::Backlog`], until what the kernel took over in this direction has been written to its target.
    pub(super) async fn drained(&self, from: usize, stall: Duration) -> Result<(), Broken> {
        let mut patience = Patience::new();
        let (source, target) = ends(&self.sockets, from);
        loop {
            // Reading the source's TCP_INFO takes its lock: no segment is on its way through the program any more.
            let _ = TcpInfo::read(source);
            let backlog = self.backlog(from).unwrap_or(u64::MAX);
            if self.is_broken(from) {
                return Err(Broken(from));
            }
            if backlog == 0 {
                return Ok(());
            }
            let closed = TcpInfo::read(target).is_ok_and(|info| info.is_closed());
            match patience.next(backlog, stall) {
                Some(pause) if !closed => tokio::time::sleep(pause).await,
                _ => return Err(Broken(1 - from)),
            }
        }
    }

    /// Bytes moved by the kernel so far.
    pub(super) fn redirected(&self) -> [u64; 2] {
        [0, 1].map(|from| self.joined.flow(from).unwrap_or_default().redirected)
    }

    /// The two sockets as duplicates: the originals stay here, so that the pair's entries in the kernel stay theirs.
    pub(super) fn duplicates(&self) -> io::Result<[TcpStream; 2]> {
        let [first, second] = &self.sockets;
        Ok([first.try_clone()?, second.try_clone()?])
    }

    /// The kernel is to have nothing more to do with the sockets.
    pub(super) fn into_sockets(self) -> [TcpStream; 2] {
        self.sockets
    }

    /// Takes one direction further after a FIN. Says when to look again.
    fn advance(
        &self,
        from: usize,
        seen: [Ends; 2],
        directions: &mut [Direction; 2],
        stall: Duration,
    ) -> Result<Option<Duration>, Broken> {
        let (source, target) = ends(&self.sockets, from);
        let (base, _) = ends(&self.base, from);
        let (seen, _) = ends(&seen, from);
        let [first, second] = directions;
        let (direction, other) = match from {
            0 => (first, second),
            _ => (second, first),
        };
        if seen.fin && matches!(direction, Direction::Open) {
            *direction = Direction::Closing(Patience::new());
        }
        let told = matches!(other, Direction::Done);
        let Direction::Closing(patience) = direction else {
            return Ok(None);
        };
        let info = TcpInfo::read(source).map_err(|_| Broken(from))?;
        if info.is_closed() && !told {
            // No FIN of ours has gone there, so this is not the end in order that it looks like.
            return Err(Broken(from));
        }
        let flow = self.joined.flow(from).map_err(|_| Broken(from))?;
        let redirected = flow.redirected;
        // The FIN counts as one byte.
        let arrived = info
            .received
            .saturating_sub(1)
            .saturating_sub(base.consumed);
        // More than arrived: bytes came twice in the first segment, of which the program knows nothing better.
        if flow.is_broken() || redirected > arrived {
            return Err(Broken(from));
        }
        let backlog = self.backlog(from).unwrap_or(u64::MAX);
        if redirected < arrived {
            let _ = offer_again(source);
        } else if backlog == 0 {
            // Not before: a FIN of ours would overtake what is still queued in the kernel.
            let _ = SockRef::from(target).shutdown(Shutdown::Write);
            *direction = Direction::Done;
            return Ok(None);
        }
        match patience.next(
            backlog.wrapping_add(arrived - redirected.min(arrived)),
            stall,
        ) {
            Some(pause) => Ok(Some(pause)),
            None => Err(Broken(1 - from)),
        }
    }

    /// Bytes of this direction are missing.
    fn is_broken(&self, from: usize) -> bool {
        self.joined.flow(from).is_ok_and(SpliceFlow::is_broken)
    }

    /// Bytes that the kernel has taken from the source and not yet written to the target's socket. `None`: they move too fast to be counted.
    fn backlog(&self, from: usize) -> Option<u64> {
        // In this order: the target's count can only catch up in between, never run ahead.
        let redirected = self.joined.flow(from).unwrap_or_default().redirected;
        let (_, target) = ends(&self.sockets, from);
        let (base, _) = ends(&self.base, from);
        let written = match written(target) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return None,
            Err(_) => u64::MAX,
        };
        Some(redirected.saturating_sub(written.saturating_sub(base.written)))
    }

    async fn let_arrive(&self, from: usize) {
        let mut patience = Patience::new();
        let deadline = Instant::now() + RESET_GRACE;
        while Instant::now() < deadline {
            let backlog = self.backlog(from).unwrap_or(u64::MAX);
            match patience.next(backlog, RESET_GRACE) {
                Some(pause) if backlog > 0 => tokio::time::sleep(pause).await,
                _ => return,
            }
        }
    }
}

/// What belongs to the source of a direction, and what to its target. Direction 0 is from the first side to the second.
fn ends<T>([first, second]: &[T; 2], from: usize) -> (&T, &T) {
    match from {
        0 => (first, second),
        _ => (second, first),
    }
}

impl Base {
    fn read(source: &TcpStream, target: &TcpStream) -> Result<Self, Reason> {
        let info = |socket| TcpInfo::read(socket).map_err(|_| Reason::Refused);
        let written = written(target).map_err(|_| Reason::Busy)?;
        for _ in 0..TRIES {
            let before = info(source)?;
            if !before.is_established() {
                return Err(Reason::Ended);
            }
            let queued = rustix::io::ioctl_fionread(source).map_err(|_| Reason::Refused)?;
            // Equal: nothing came in between, so the two figures belong together.
            if info(source)? == before {
                return Ok(Self {
                    consumed: before.received.saturating_sub(queued),
                    written,
                });
            }
        }
        Err(Reason::Busy)
    }
}

impl Patience {
    fn new() -> Self {
        Self {
            last: u64::MAX,
            moved: Instant::now(),
            pause: PAUSES[0],
        }
    }

    /// How long to wait before looking again, or `None` if `count` has not moved for `stall`.
    fn next(&mut self, count: u64, stall: Duration) -> Option<Duration> {
        if count != self.last {
            self.last = count;
            self.moved = Instant::now();
        } else if self.moved.elapsed() >= stall {
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES[1]);
        Some(pause)
    }
}
