//! A pair from its first byte to its last.

use std::net::TcpStream as StdTcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch::Receiver;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::flow::Flowing;
use super::kernel::{After, NotJoined, Phase};
use super::pump::{self, Broken, Conduit, Pump, Stop};
use super::sense::{Sensor, sleep_until};
use super::traffic::{Traffic, ended};
use super::{Counts, End, Mode, PairLimits, PairOutcome, Plan, Reason, Side, Signal};
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
    /// While the plan says [`Mode::Sockmap`] the pair is copied until there is nothing unread in both directions, and for good where the
    /// kernel does not take it: that is never an error for the connections. Dropping the future closes both.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn join(
        &self,
        a: Side,
        b: Side,
        plan: impl Into<Plan>,
        limits: &PairLimits,
        signal: Receiver<Signal>,
    ) -> PairOutcome {
        let plan = plan.into().sound();
        let streams = [a.stream, b.stream];
        let [first, second] = &streams;
        let (kernel, reason) = match plan.needs_kernel().then(|| self.slot()) {
            Some(Ok(slot)) => (Some(slot), None),
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, None),
        };
        let mut pair = Pair {
            splicer: self,
            plan,
            limits,
            signal,
            traffic: Traffic::default(),
            sensor: plan
                .adapts()
                .then(|| Sensor::new([first, second], limits.calm)),
            kernel: kernel.as_ref().map(|(_, splice)| *splice),
            by_kernel: None,
            reason,
        };
        let pumps = [
            Pump::new(0, a.early, Conduit::Buffer),
            Pump::new(1, b.early, Conduit::Buffer),
        ];
        let outcome = pair.run(streams, pumps).await;
        self.counts.record(&outcome);
        tracing::debug!(?outcome, "pair ended");
        outcome
    }

    fn slot(&self) -> Result<(SemaphorePermit<'_>, &Splice), Reason> {
        let splice = self.kernel.get().ok_or(Reason::Unavailable)?;
        let slot = self.slots.try_acquire().map_err(|_| Reason::Cap)?;
        Ok((slot, splice))
    }
}

/// A pair on its way.
struct Pair<'a> {
    splicer: &'a Splicer,
    plan: Plan,
    limits: &'a PairLimits,
    signal: Receiver<Signal>,
    /// What userspace has moved.
    traffic: Traffic,
    sensor: Option<Sensor>,
    /// `None`: the kernel does not move this pair, or not any more.
    kernel: Option<&'a Splice>,
    /// Bytes moved by the kernel; `None`: it has never had the pair.
    by_kernel: Option<[u64; 2]>,
    /// Why the kernel does not move the pair though it was asked to.
    reason: Option<Reason>,
}

/// Both directions, as they are for pairs that userspace moves from the beginning.
static OPEN: [AtomicBool; 2] = [const { AtomicBool::new(true) }; 2];

impl Pair<'_> {
    async fn run(&mut self, mut streams: [TcpStream; 2], mut pumps: [Pump; 2]) -> PairOutcome {
        loop {
            let splice = self.kernel.filter(|_| self.wanted() == Mode::Sockmap);
            for pump in &mut pumps {
                pump.switch(self.conduit());
            }
            let stop = self.userspace(&streams, &mut pumps, &OPEN, splice.is_some());
            let last = match (stop.await, splice) {
                (Ok(Stop::Flows(flowing)), _) => {
                    self.splicer.counts.changed(flowing);
                    continue;
                }
                (Ok(Stop::Clean), Some(splice)) => {
                    match self.try_kernel(splice, streams, &mut pumps).await {
                        Ok(again) => streams = again,
                        Err(outcome) => return outcome,
                    }
                    continue;
                }
                (Ok(Stop::Clean | Stop::Ended), _) => Last::Ended,
                (Err(last), _) => last,
            };
            if splice.is_some() {
                self.reason = Some(match pumps.iter().any(Pump::saw_end) {
                    true => Reason::Ended,
                    false => Reason::Busy,
                });
            }
            last.close(streams.each_ref().map(SockRef::from));
            return self.outcome(&last);
        }
    }

    /// The mode for what flows now.
    fn wanted(&self) -> Mode {
        let flowing = self.sensor.as_ref().map(Sensor::flowing);
        self.plan.mode(flowing.unwrap_or(Flowing::Messages))
    }

    fn conduit(&self) -> Conduit {
        match self.wanted() {
            Mode::Splice => Conduit::Pipe,
            Mode::Sockmap | Mode::Copy => Conduit::Buffer,
        }
    }

    /// Has the kernel move the bytes as long as it can. Gives the sockets back for userspace to go on, or the outcome if
    /// there is nothing to go on with.
    async fn try_kernel(
        &mut self,
        splice: &Splice,
        streams: [TcpStream; 2],
        pumps: &mut [Pump; 2],
    ) -> Result<[TcpStream; 2], PairOutcome> {
        let broken = Last::Broken(Broken(0));
        let [first, second] = streams;
        // The sockets leave the runtime: it would be woken for each segment.
        let (Ok(first), Ok(second)) = (first.into_std(), second.into_std()) else {
            self.reason = Some(Reason::Refused);
            return Err(self.outcome(&broken));
        };
        let phase = match Phase::begin(splice, [first, second]) {
            Ok(phase) => phase,
            Err((not_joined, sockets)) => {
                self.kernel = None;
                let NotJoined::Kept(reason) = not_joined else {
                    self.reason = Some(Reason::Refused);
                    broken.close(sockets.each_ref().map(SockRef::from));
                    return Err(self.outcome(&broken));
                };
                self.reason = Some(reason);
                return register(sockets).ok_or_else(|| self.outcome(&broken));
            }
        };
        let one = OpenCount::new(&self.splicer.in_kernel);
        let run = phase.run(self.limits, &mut self.signal);
        let (result, last) = match run.await {
            After::Ended => (None, Last::Ended),
            After::Stopped => (None, Last::Stopped),
            After::Broken(broken) => (None, Last::Broken(broken)),
            After::Backlog { done } => {
                // It is not put back.
                self.kernel = None;
                self.reason = Some(Reason::Backlog);
                match self.taken_out(&phase, done, pumps).await {
                    Ok(streams) => (Some(streams), Last::Ended),
                    Err(last) => (None, last),
                }
            }
        };
        drop(one);
        self.by_kernel = Some(phase.redirected());
        let sockets = phase.into_sockets();
        result.ok_or_else(|| {
            last.close(sockets.each_ref().map(SockRef::from));
            self.outcome(&last)
        })
    }

    /// Takes a pair out of the kernel in mid-stream. Each direction goes on as soon as its own backlog is written: a side may well not
    /// read before it has been read from. Gives the sockets back once nothing of them is in the kernel's hands any more.
    async fn taken_out(
        &mut self,
        phase: &Phase,
        done: [bool; 2],
        pumps: &mut [Pump; 2],
    ) -> Result<[TcpStream; 2], Last> {
        let Some(streams) = phase.duplicates().ok().and_then(register) else {
            return Err(Last::Broken(Broken(0)));
        };
        let [first_done, second_done] = done;
        let pump = |from, done| match done {
            true => Pump::ended(from),
            false => Pump::new(from, Vec::new(), Conduit::Buffer),
        };
        *pumps = [pump(0, first_done), pump(1, second_done)];
        let gates: [AtomicBool; 2] = Default::default();
        let [first_gate, second_gate] = &gates;
        let stall = self.limits.stall;
        let open = async |from: usize, done: bool, gate: &AtomicBool| -> Result<(), Broken> {
            if !done {
                phase.drained(from, stall).await?;
            }
            gate.store(true, Ordering::Relaxed);
            Ok(())
        };
        let drained = async {
            let first = open(0, first_done, first_gate);
            let second = open(1, second_done, second_gate);
            tokio::try_join!(first, second)
        };
        tokio::select! {
            // In this order: an opened gate is seen in the same turn.
            biased;
            drained = drained => match drained {
                Ok(_) => Ok(streams),
                Err(broken) => Err(Last::Broken(broken)),
            },
            result = self.userspace(&streams, pumps, &gates, false) => Err(match result {
                // What flows makes no difference to a pair that the kernel has had.
                Ok(_) => Last::Ended,
                Err(last) => last,
            }),
        }
    }

    async fn userspace(
        &mut self,
        streams: &[TcpStream; 2],
        pumps: &mut [Pump; 2],
        gates: &[AtomicBool; 2],
        until_clean: bool,
    ) -> Result<Stop, Last> {
        let [first, second] = streams;
        let sockets = [first, second];
        loop {
            let due = self.sensor.as_ref().and_then(Sensor::due);
            let sensor = self.sensor.as_mut();
            tokio::select! {
                biased;
                stop = pump::run(sockets, pumps, &self.traffic, gates, until_clean, sensor) => {
                    return stop.map_err(Last::Broken);
                }
                () = ended(&mut self.signal, self.limits.silence, || self.traffic.total()) => {
                    return Err(Last::Stopped);
                }
                () = sleep_until(due) => {}
            }
            let looked = self.sensor.as_mut();
            if let Some(flowing) = looked.and_then(|sensor| sensor.look(sockets)) {
                return Ok(Stop::Flows(flowing));
            }
        }
    }

    fn outcome(&self, last: &Last) -> PairOutcome {
        let mode = match (self.by_kernel, self.wanted()) {
            (Some(_), _) => Mode::Sockmap,
            (None, Mode::Splice) => Mode::Splice,
            (None, Mode::Sockmap | Mode::Copy) => Mode::Copy,
        };
        let [first, second] = self.traffic.get();
        let [kernel_first, kernel_second] = self.by_kernel.unwrap_or_default();
        PairOutcome {
            bytes: [first + kernel_first, second + kernel_second],
            ends: last.ends(),
            mode,
            reason: self.reason,
        }
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
    /// A reset is passed on as one: without unsent data lingering, and so that the other side does not take it for an end.
    fn close(&self, sockets: [SockRef<'_>; 2]) {
        if let Self::Broken(_) = self {
            for socket in sockets {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
    }

    /// How each side ended.
    const fn ends(&self) -> [End; 2] {
        match self {
            Self::Ended => [End::Fin, End::Fin],
            Self::Stopped => [End::Stopped, End::Stopped],
            Self::Broken(Broken(0)) => [End::Broken, End::Reset],
            Self::Broken(Broken(_)) => [End::Reset, End::Broken],
        }
    }
}
