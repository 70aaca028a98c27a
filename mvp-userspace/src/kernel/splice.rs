//! Pairs of sockets joined by the `sk_skb` program: their maps, and who is woken when a pair has moved another step.
//!
//! The object is loaded a second time for this, with maps of its own that are never pinned: they must go with the process, and
//! a kernel that refuses this program must not cost the agent its steering.

use std::collections::HashMap as Waiting;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, SockHash};
use aya::programs::SkSkb;
use aya::{Ebpf, EbpfLoader};
use mvp_common::{
    COUNTERS_MAP, Counter, SPLICE_EVENTS_MAP, SPLICE_FLOWS_MAP, SPLICE_PROGRAM, SPLICE_SOURCES_MAP,
    SPLICE_TARGETS_MAP, SpliceFlow,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tokio::sync::Notify;

use super::shared::Shared;
use super::{Counters, Error, object};

/// The loaded program and its maps. Cheap to clone, usable from any thread and runtime.
#[derive(Clone)]
pub struct Splice(Arc<Inner>);

/// Two joined sockets, `0` and `1`. Dropping it takes them apart at once, and what has not yet been sent is lost: see
/// [`Joined::release`].
pub struct Joined {
    inner: Arc<Inner>,
    cookies: [u64; 2],
    step: Arc<Notify>,
}

/// Why two sockets were not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing has changed, and the sockets can be read as before.
    #[error("{0}")]
    Refused(#[from] Error),
    /// Bytes of the first socket were sent on before the second one was refused, and are lost: the connection has to be broken off.
    #[error("{0}")]
    Torn(#[source] Error),
}

struct Inner {
    sources: Mutex<SockHash<MapData, u64>>,
    targets: Mutex<SockHash<MapData, u64>>,
    flows: Mutex<HashMap<MapData, u64, Shared<SpliceFlow>>>,
    counters: PerCpuArray<MapData, u64>,
    steps: Arc<Steps>,
    reader: Mutex<Option<JoinHandle<()>>>,
    /// Holds the program's attachment to the sources' map.
    _bpf: Mutex<Ebpf>,
}

/// Who waits for the steps of which socket.
struct Steps {
    waiting: Mutex<Waiting<u64, Arc<Notify>>>,
    stop: OwnedFd,
}

impl Splice {
    /// Loads the program, attaches it to its own map, and starts the thread that reads its events.
    ///
    /// # Errors
    /// The same as [`super::Programs::load`].
    pub fn load() -> Result<Self, Error> {
        let mut bpf = EbpfLoader::new()
            .load(object().ok_or(Error::NoObject)?)
            .map_err(|e| Error::load("creating the BPF maps", e))?;
        super::programs::check_abi(&bpf)?;
        let sources: SockHash<MapData, u64> = take(&mut bpf, SPLICE_SOURCES_MAP)?;
        let program: &mut SkSkb = bpf
            .program_mut(SPLICE_PROGRAM)
            .ok_or_else(|| Error::missing(SPLICE_PROGRAM))?
            .try_into()
            .map_err(|e| Error::Object(format!("program {SPLICE_PROGRAM}: {e}")))?;
        program
            .load()
            .map_err(|e| Error::program("loading the sk_skb program", &e))?;
        // Before any socket is in the map: a socket takes over the program when it is put in.
        program
            .attach(sources.fd())
            .map_err(|e| Error::program("attaching sk_skb", &e))?;
        let events: RingBuf<MapData> = take(&mut bpf, SPLICE_EVENTS_MAP)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|e| Error::io("making an eventfd", &e.into()))?;
        let steps = Arc::new(Steps {
            waiting: Mutex::default(),
            stop,
        });
        let reader = std::thread::Builder::new()
            .name("mvp-splice".into())
            .spawn({
                let steps = Arc::clone(&steps);
                move || steps.read(events)
            })
            .map_err(|e| Error::io("starting the thread for splice events", &e))?;
        Ok(Self(Arc::new(Inner {
            sources: Mutex::new(sources),
            targets: Mutex::new(take(&mut bpf, SPLICE_TARGETS_MAP)?),
            flows: Mutex::new(take(&mut bpf, SPLICE_FLOWS_MAP)?),
            counters: take(&mut bpf, COUNTERS_MAP)?,
            steps,
            reader: Mutex::new(Some(reader)),
            _bpf: Mutex::new(bpf),
        })))
    }

    /// Joins two established TCP sockets: from now on what one receives leaves by the other, and neither may be read. What is in
    /// their receive queues waits until [`crate::net::offer_again`]; userspace must not have read a part of a segment before.
    ///
    /// # Errors
    /// The kernel refuses sockets that are not established any more or have a ULP (TLS), and a full map.
    pub fn join(&self, sockets: [&impl AsFd; 2]) -> Result<Joined, JoinError> {
        let cookie = |socket: &_| {
            rustix::net::sockopt::socket_cookie(socket)
                .map_err(|e| Error::io("reading a socket's cookie", &e.into()))
        };
        let cookies = [cookie(sockets[0])?, cookie(sockets[1])?];
        // Whatever has been done so far is undone by dropping this.
        let joined = Joined {
            inner: Arc::clone(&self.0),
            cookies,
            step: Arc::default(),
        };
        for cookie in cookies {
            lock(&self.0.flows)
                .insert(cookie, Shared(SpliceFlow::default()), 0)
                .map_err(|e| Error::map("joining two sockets", &e))?;
            lock(&self.0.steps.waiting).insert(cookie, Arc::clone(&joined.step));
        }
        // Targets first: a source without its target would have nowhere to send to.
        for (cookie, other) in [(cookies[0], sockets[1]), (cookies[1], sockets[0])] {
            lock(&self.0.targets)
                .insert(cookie, other.as_fd().as_raw_fd(), 0)
                .map_err(|e| Error::map("joining two sockets", &e))?;
        }
        for (cookie, socket) in cookies.into_iter().zip(sockets) {
            let inserted = lock(&self.0.sources).insert(cookie, socket.as_fd().as_raw_fd(), 0);
            if let Err(error) = inserted {
                let error = Error::map("joining two sockets", &error);
                joined.release();
                return Err(match joined.flow(0) {
                    Ok(flow) if flow == SpliceFlow::default() => JoinError::Refused(error),
                    _ => JoinError::Torn(error),
                });
            }
        }
        Ok(joined)
    }

    /// The counters of this program, summed over the CPUs; those of other programs are zero here.
    ///
    /// # Errors
    /// [`Error::System`] if the map cannot be read.
    pub fn counters(&self) -> Result<Counters, Error> {
        Counters::read(|counter: Counter| {
            let values = self.0.counters.get(&counter.index(), 0);
            Ok(values
                .map_err(|e| Error::map("reading the counters", &e))?
                .to_vec())
        })
    }
}

impl Joined {
    /// What socket `from` (0 or 1) has received and the program has sent on. Exact once the socket's lock has been taken
    /// (by reading its `TCP_INFO`) after what is asked about has happened.
    ///
    /// # Errors
    /// [`Error::System`] if the map cannot be read.
    pub fn flow(&self, from: usize) -> Result<SpliceFlow, Error> {
        let [first, second] = self.cookies;
        let cookie = if from & 1 == 0 { first } else { second };
        lock(&self.inner.flows)
            .get(&cookie, 0)
            .map(|Shared(flow)| flow)
            .map_err(|e| Error::map("reading a flow", &e))
    }

    /// Resolves when either socket has moved another [`mvp_common::SPLICE_STEP`] since the last time.
    pub async fn step(&self) {
        self.step.notified().await;
    }

    /// Ends the sending on in both directions: what is received from now on can be read again. What was taken over before is
    /// still sent; keep this value until then. A direction must not be read before, or bytes overtake each other. What arrives during
    /// the call is lost, so nothing must ([`crate::net::Mute`]).
    pub fn release(&self) {
        self.remove(&self.inner.sources);
    }

    fn remove(&self, map: &Mutex<SockHash<MapData, u64>>) {
        let mut map = lock(map);
        for cookie in &self.cookies {
            // Not there: never put in, already released, or gone with its socket.
            let _ = map.remove(cookie);
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.remove(&self.inner.sources);
        self.remove(&self.inner.targets);
        let mut flows = lock(&self.inner.flows);
        let mut waiting = lock(&self.inner.steps.waiting);
        for cookie in &self.cookies {
            let _ = flows.remove(cookie);
            waiting.remove(cookie);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // An eventfd of 0 always takes a 1.
        let _ = rustix::io::write(&self.steps.stop, &1u64.to_ne_bytes());
        if let Some(reader) = lock(&self.reader).take() {
            let _ = reader.join();
        }
    }
}

impl Steps {
    /// Runs on its own thread, asleep while no pair moves a step.
    fn read(&self, mut events: RingBuf<MapData>) {
        loop {
            while let Some(event) = events.next() {
                let Ok(cookie) = <[u8; 8]>::try_from(&*event) else {
                    continue;
                };
                if let Some(step) = lock(&self.waiting).get(&u64::from_ne_bytes(cookie)) {
                    step.notify_one();
                }
            }
            let mut ready = [
                PollFd::new(&events, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) if !ready[1].revents().is_empty() => return,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for splice events: slow readers are not seen any more");
                    return;
                }
            }
        }
    }
}

/// Moves a map out of the object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    bpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    bpf.take_map(name)
        .ok_or_else(|| Error::missing(name))?
        .try_into()
        .map_err(|e| Error::map(name, &e))
}

/// The maps hold no invariant that a panic could break.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
