//! A pair from its first byte to its last.

use std::future::pending;
use std::net::TcpStream as StdTcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch::Receiver;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::kernel::{After, Phase};
use super::pump::{self, Broken, Conduit, Pump, Stop};
use super::traffic::{Traffic, ended};
use super::{Counts, End, Mode, PairLimits, PairOutcome, Reason, Side, Signal};
use crate::kernel::Splice;
use crate::net::OpenCount;

/// Joins pairs. One for the whole agent, usable from any thread and runtime.
pub struct Splicer {
    kernel: OnceLock<Splice>,
    slots: Semaphore,
    in_kernel: Arc<AtomicUsize>,
    counts: Counts,
}

/// How a pair ended, before it is put into an [`PairOutcome`].
enum Last {
    Ended,
    Stopped,
    Broken(Broken),
}

impl Splicer {
    /// At most `cap` pairs are in the kernel at a time, and never more than its maps take; without `kernel` none is.
    pub fn new(kernel: Option<Splice>, cap: usize) -> Self {
        let cap = cap.min(mvp_common::SPLICE_SOCKETS as usize / 2);
        Self {
            kernel: kernel.map_or_else(OnceLock::new, OnceLock::from),
            slots: Semaphore::new(cap),
            in_kernel: Arc::default(),
            counts: Counts::default(),
        }
    }

    /// What was counted since the start.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The kernel part, if it is loaded.
    pub fn kernel(&self) -> Option<&Splice> {
        self.kernel.get()
    }

    /// Adds the kernel part to a splicer that was made without, once it has been found to work. Pairs that are joined already
    /// stay where they are; a second call changes nothing.
    pub fn enable(&self, kernel: Splice) {
        // Only one can be the first.
        let _ = self.kernel.set(kernel);
    }

    /// Pairs in the kernel now.
    pub fn in_kernel(&self) -> usize {
        self.in_kernel.load(Ordering::Relaxed)
    }

    /// Joins two connections and moves their bytes until both directions have ended, one side breaks off, or `signal` says so.
    /// A FIN is passed on after the data before it; a reset resets the other side. Both sockets are closed at the end.
    ///
    /// With [`Mode::Sockmap`] the pair is copied until there is nothing unread in both directions, and for good where the kernel
    /// does not take it: that is never an error for the connections. Dropping the future closes both.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn join(
        &self,
        a: Side,
        b: Side,
        mode: Mode,
        limits: &PairLimits,
        mut signal: Receiver<Signal>,
    ) -> PairOutcome {
        let outcome = self.run(a, b, mode, limits, &mut signal).await;
        self.counts.record(&outcome);
        tracing::debug!(?outcome, "pair ended");
        outcome
    }

    async fn run(
        &self,
        a: Side,
        b: Side,
        mode: Mode,
        limits: &PairLimits,
        signal: &mut Receiver<Signal>,
    ) -> PairOutcome {
        let traffic = Traffic::default();
        let conduit = match mode {
            Mode::Splice => Conduit::Pipe,
            Mode::Sockmap | Mode::Copy => Conduit::Buffer,
        };
        let mut pumps = [
            Pump::new(0, a.early, conduit),
            Pump::new(1, b.early, conduit),
        ];
        let streams = [a.stream, b.stream];
        let copied = |reason| {
            (
                if mode == Mode::Splice {
                    mode
                } else {
                    Mode::Copy
                },
                reason,
            )
        };
        let slot = if mode == Mode::Sockmap {
            self.slot().map(Some)
        } else {
            Ok(None)
        };
        let (_slot, splice) = match slot {
            Ok(Some((slot, splice))) => (slot, splice),
            Ok(None) => {
                let last = copy(&streams, &mut pumps, &traffic, limits, signal).await;
                return last.finish(&streams, traffic.get(), copied(None));
            }
            Err(reason) => {
                let last = copy(&streams, &mut pumps, &traffic, limits, signal).await;
                return last.finish(&streams, traffic.get(), copied(Some(reason)));
            }
        };

        let [first, second] = &streams;
        let clean = userspace(
            [first, second],
            &mut pumps,
            &traffic,
            limits,
            signal,
            &OPEN,
            true,
        );
        let last = match clean.await {
            Ok(Stop::Clean) => None,
            Ok(Stop::Ended) => Some(Last::Ended),
            Err(last) => Some(last),
        };
        if let Some(last) = last {
            let reason = if pumps.iter().any(Pump::saw_end) {
                Reason::Ended
            } else {
                Reason::Busy
            };
            return last.finish(&streams, traffic.get(), copied(Some(reason)));
        }
        let [first, second] = streams;
        // The sockets leave the runtime: it would be woken for each segment.
        let (Ok(first), Ok(second)) = (first.into_std(), second.into_std()) else {
            return Last::Broken(Broken(0)).outcome(traffic.get(), copied(Some(Reason::Refused)));
        };
        match Phase::begin(splice, [first, second]) {
            Ok(phase) => {
                let _one = OpenCount::new(&self.in_kernel);
                in_kernel(phase, &traffic, limits, signal).await
            }
            Err((reason, sockets)) => {
                let Some(streams) = register(sockets) else {
                    return Last::Broken(Broken(0)).outcome(traffic.get(), copied(Some(reason)));
                };
                let last = copy(&streams, &mut pumps, &traffic, limits, signal).await;
                last.finish(&streams, traffic.get(), copied(Some(reason)))
            }
        }
    }

    fn slot(&self) -> Result<(SemaphorePermit<'_>, &Splice), Reason> {
        let splice = self.kernel.get().ok_or(Reason::Unavailable)?;
        let slot = self.slots.try_acquire().map_err(|_| Reason::Cap)?;
        Ok((slot, splice))
    }
}

static OPEN: [AtomicBool; 2] = [const { AtomicBool::new(true) }; 2];

async fn copy(
    streams: &[TcpStream; 2],
    pumps: &mut [Pump; 2],
    traffic: &Traffic,
    limits: &PairLimits,
    signal: &mut Receiver<Signal>,
) -> Last {
    let [first, second] = streams;
    match userspace(
        [first, second],
        pumps,
        traffic,
        limits,
        signal,
        &OPEN,
        false,
    )
    .await
    {
        Ok(_) => Last::Ended,
        Err(last) => last,
    }
}

async fn userspace(
    streams: [&TcpStream; 2],
    pumps: &mut [Pump; 2],
    traffic: &Traffic,
    limits: &PairLimits,
    signal: &mut Receiver<Signal>,
    gates: &[AtomicBool; 2],
    until_clean: bool,
) -> Result<Stop, Last> {
    tokio::select! {
        biased;
        stop = pump::run(streams, pumps, traffic, gates, until_clean) => stop.map_err(Last::Broken),
        () = ended(signal, limits.silence, || traffic.total()) => Err(Last::Stopped),
    }
}

async fn in_kernel(
    phase: Phase,
    traffic: &Traffic,
    limits: &PairLimits,
    signal: &mut Receiver<Signal>,
) -> PairOutcome {
    let (last, reason) = match phase.run(limits, signal).await {
        After::Ended => (Last::Ended, None),
        After::Stopped => (Last::Stopped, None),
        After::Broken(broken) => (Last::Broken(broken), None),
        After::Backlog { done } => (
            taken_out(&phase, done, traffic, limits, signal).await,
            Some(Reason::Backlog),
        ),
    };
    let [a, b] = traffic.get();
    let [kernel_a, kernel_b] = phase.redirected();
    let outcome = last.outcome([a + kernel_a, b + kernel_b], (Mode::Sockmap, reason));
    let sockets = phase.into_sockets();
    last.close(sockets.each_ref().map(SockRef::from));
    outcome
}

/// A pair that has been taken out of the kernel in mid-stream. Each direction goes on as soon as its own backlog is written: a
/// side may well not read before it has been read from.
async fn taken_out(
    phase: &Phase,
    done: [bool; 2],
    traffic: &Traffic,
    limits: &PairLimits,
    signal: &mut Receiver<Signal>,
) -> Last {
    let Some(streams) = phase.duplicates().ok().and_then(register) else {
        return Last::Broken(Broken(0));
    };
    let [first_done, second_done] = done;
    let pump = |from, done| match done {
        true => Pump::ended(from),
        false => Pump::new(from, Vec::new(), Conduit::Buffer),
    };
    let mut pumps = [pump(0, first_done), pump(1, second_done)];
    let gates: [AtomicBool; 2] = Default::default();
    let [first_gate, second_gate] = &gates;
    let open = async |from: usize, done: bool, gate: &AtomicBool| -> Result<(), Broken> {
        if !done {
            phase.drained(from, limits.stall).await?;
        }
        gate.store(true, Ordering::Relaxed);
        Ok(())
    };
    let drained = async {
        let first = open(0, first_done, first_gate);
        let second = open(1, second_done, second_gate);
        match tokio::try_join!(first, second) {
            Ok(_) => pending().await,
            Err(broken) => broken,
        }
    };
    let [first, second] = &streams;
    tokio::select! {
        // In this order: an opened gate is seen in the same turn.
        biased;
        broken = drained => Last::Broken(broken),
        result = userspace([first, second], &mut pumps, traffic, limits, signal, &gates, false) => match result {
            Ok(_) => Last::Ended,
            Err(last) => last,
        },
    }
}

/// With this thread's runtime; they are non-blocking, since they come from one.
fn register(sockets: [StdTcpStream; 2]) -> Option<[TcpStream; 2]> {
    let [a, b] = sockets.map(TcpStream::from_std);
    match (a, b) {
        (Ok(a), Ok(b)) => Some([a, b]),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "cannot register a socket; its pair is closed");
            None
        }
    }
}

impl Last {
    fn finish(
        &self,
        streams: &[TcpStream; 2],
        bytes: [u64; 2],
        how: (Mode, Option<Reason>),
    ) -> PairOutcome {
        self.close(streams.each_ref().map(SockRef::from));
        self.outcome(bytes, how)
    }

    /// A reset is passed on as one: without unsent data lingering, and so that the other side does not take it for an end.
    fn close(&self, sockets: [SockRef<'_>; 2]) {
        if let Self::Broken(_) = self {
            for socket in sockets {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
    }

    fn outcome(&self, bytes: [u64; 2], (mode, reason): (Mode, Option<Reason>)) -> PairOutcome {
        let ends = match self {
            Self::Ended => [End::Fin, End::Fin],
            Self::Stopped => [End::Stopped, End::Stopped],
            Self::Broken(Broken(0)) => [End::Broken, End::Reset],
            Self::Broken(Broken(_)) => [End::Reset, End::Broken],
        };
        PairOutcome {
            bytes,
            ends,
            mode,
            reason,
        }
    }
}
