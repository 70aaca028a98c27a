//! Which connections are forwarded whole, to which server, and how to end them.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::api::ApiSet;
use crate::net::{TcpInfo, written};
use crate::route::relay::{InspectReason, RelayDecision, RetireReason};
use crate::route::{RouteTable, Server};
use crate::splice::Signal;

/// All connections that are forwarded whole.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Arc<WholeConnection>>,
    /// Relayed connections by server, those that are being dialled included; few entries.
    places: Vec<(Arc<Server>, usize)>,
}

/// How many connections are relayed, for one table.
#[derive(Clone, Debug, Default)]
pub(super) struct RelayedCounts {
    /// By the index of the table's members.
    pub by_member: Vec<usize>,
    pub total: usize,
}

/// Why a connection is forwarded whole.
#[derive(Clone, Debug)]
pub(super) enum ForwardedKind {
    /// Relayed to a peer. `served` is what the server served then, and may not lose.
    Relay { served: Arc<ApiSet> },
    /// Passed through to the local server: nothing needs to be inspected.
    PassThrough,
}

/// One connection that is forwarded whole.
#[derive(Debug)]
pub(super) struct WholeConnection {
    pub kind: ForwardedKind,
    pub server: Arc<Server>,
    pub server_name: Option<Box<str>>,
    pub client: SocketAddr,
    /// A second descriptor of the client's socket, for its counters: the kernel counts what the agent does not see. Closing the
    /// connection therefore takes effect when this value is gone.
    socket: StdTcpStream,
    signal: watch::Sender<Signal>,
    state: Mutex<Activity>,
}

#[derive(Debug)]
struct Activity {
    bytes: [u64; 2],
    moved: Instant,
    /// Why it is to end; stays when it is stopped.
    ending: Option<EndReason>,
}

/// Why a connection ends before its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EndReason {
    Retired(RetireReason),
    /// It was passed through, and there is something to inspect again.
    Inspected,
}

/// A place among the relayed connections of a server, given back on drop.
#[derive(Debug)]
pub(super) struct RelayPermit<'a> {
    registry: &'a Registry,
    pub server: Arc<Server>,
}

/// Registered until dropped.
#[derive(Debug)]
pub(super) struct Registered<'a> {
    registry: &'a Registry,
    id: u64,
}

impl EndReason {
    /// As in metrics and the access log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Retired(reason) => reason.as_str(),
            Self::Inspected => "inspection_needed",
        }
    }
}

impl Registry {
    /// Decides while nobody else can take a place, and takes it.
    ///
    /// # Errors
    /// Why the connection is inspected.
    pub(super) fn decide(
        &self,
        table: &RouteTable,
        decide: impl FnOnce(&RelayedCounts) -> RelayDecision,
    ) -> Result<RelayPermit<'_>, InspectReason> {
        let mut state = self.lock();
        let index = match decide(&state.places(table)) {
            RelayDecision::Relay { server } => server,
            RelayDecision::Inspect(reason) => return Err(reason),
        };
        // An index of this very table.
        let member = table.member(index).ok_or(InspectReason::NoSuperset)?;
        let server = Arc::clone(&member.server);
        let known = state
            .places
            .iter_mut()
            .find(|(known, _)| Arc::ptr_eq(known, &server));
        match known {
            Some((_, count)) => *count += 1,
            None => state.places.push((Arc::clone(&server), 1)),
        }
        Ok(RelayPermit {
            registry: self,
            server,
        })
    }

    pub(super) fn counts(&self, table: &RouteTable) -> RelayedCounts {
        self.lock().places(table)
    }

    pub(super) fn add(&self, carried: &Arc<WholeConnection>) -> Registered<'_> {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Arc::clone(carried));
        Registered { registry: self, id }
    }

    /// All that are open now. Not to be kept: see [`WholeConnection`].
    pub(super) fn all(&self) -> Vec<Arc<WholeConnection>> {
        self.lock().open.values().cloned().collect()
    }

    /// Numbers of connections by the server's name.
    pub(super) fn by_server(&self) -> Vec<(String, usize)> {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for carried in self.lock().open.values() {
            let name = &*carried.server.name;
            match counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name.to_owned(), 1)),
            }
        }
        counts.sort();
        counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn places(&self, table: &RouteTable) -> RelayedCounts {
        let mut places = RelayedCounts {
            by_member: vec![0; table.members().len()],
            total: 0,
        };
        for (server, count) in &self.places {
            places.total += count;
            let index = table.position(server);
            if let Some(slot) = index.and_then(|index| places.by_member.get_mut(index)) {
                *slot = *count;
            }
        }
        places
    }
}

impl WholeConnection {
    pub(super) fn new(
        kind: ForwardedKind,
        server: Arc<Server>,
        server_name: Option<Box<str>>,
        client: SocketAddr,
        socket: StdTcpStream,
    ) -> (Self, watch::Receiver<Signal>) {
        let (signal, receiver) = watch::channel(Signal::Run);
        let carried = Self {
            kind,
            server,
            server_name,
            client,
            socket,
            signal,
            state: Mutex::new(Activity {
                bytes: [0; 2],
                moved: Instant::now(),
                ending: None,
            }),
        };
        (carried, receiver)
    }

    /// Bytes received from the client and sent to it, and for how long there were no more. It takes a few system calls.
    pub(super) fn look(&self, now: Instant) -> ([u64; 2], Duration) {
        let mut state = self.lock();
        if let Ok(info) = TcpInfo::read(&self.socket)
            && let Ok(written) = written(&self.socket)
        {
            let bytes = [info.received, written];
            if bytes != state.bytes {
                state.bytes = bytes;
                state.moved = now;
            }
        }
        (state.bytes, now.saturating_duration_since(state.moved))
    }

    /// No reason to end it holds (any more).
    pub(super) fn keep(&self) {
        self.set(Signal::Run, None);
    }

    /// Ends it as soon as it is silent.
    pub(super) fn retire(&self, why: EndReason) {
        self.set(Signal::Retire, Some(why));
    }

    /// Ends it now.
    pub(super) fn stop(&self, why: EndReason) {
        self.set(Signal::Stop, Some(why));
    }

    /// Why it is to end, if it is.
    pub(super) fn ending(&self) -> Option<EndReason> {
        self.lock().ending
    }

    fn set(&self, signal: Signal, why: Option<EndReason>) {
        let mut state = self.lock();
        self.signal.send_if_modified(|now| {
            if *now == Signal::Stop {
                return false;
            }
            state.ending = why;
            // A signal that is sent again would begin the silence anew.
            std::mem::replace(now, signal) != signal
        });
    }

    fn lock(&self) -> MutexGuard<'_, Activity> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RelayPermit<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        let held = state
            .places
            .iter_mut()
            .find(|(known, _)| Arc::ptr_eq(known, &self.server));
        if let Some((_, count)) = held {
            *count = count.saturating_sub(1);
        }
        state.places.retain(|(_, count)| *count > 0);
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.registry.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::route::testing::server;
    use crate::route::{Knowledge, Member};

    fn table(servers: &[&Arc<Server>]) -> RouteTable {
        let member = |server: &&Arc<Server>| Member {
            server: Arc::clone(server),
            apis: None,
            knowledge: Knowledge::Never,
            published: None,
        };
        RouteTable::build(1, servers.iter().map(member).collect())
    }

    #[test]
    fn places_are_taken_while_deciding_and_given_back() {
        let (a, b) = (server("cp-a", true), server("cp-b", false));
        let both = table(&[&a, &b]);
        let registry = Registry::default();
        let mut seen = Vec::new();
        let mut take = || {
            registry
                .decide(&both, |places| {
                    seen.push((places.by_member.clone(), places.total));
                    RelayDecision::Relay { server: 1 }
                })
                .unwrap()
        };
        let (first, second) = (take(), take());
        assert!(Arc::ptr_eq(&first.server, &b));
        assert_eq!(seen, [(vec![0, 0], 0), (vec![0, 1], 1)]);
        let alone = registry.counts(&table(&[&a]));
        assert_eq!((alone.by_member, alone.total), (vec![0], 2), "it left");
        drop(first);
        assert_eq!(registry.counts(&both).by_member, [0, 1]);
        drop(second);
        assert_eq!(registry.counts(&both).total, 0);
        let refused = registry.decide(&both, |_| RelayDecision::Inspect(InspectReason::Share));
        assert_eq!(refused.unwrap_err(), InspectReason::Share);
        assert_eq!(registry.counts(&both).total, 0);
    }

    #[test]
    fn a_signal_is_sent_once_and_a_stop_stands() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client = socket.peer_addr().unwrap();
        let b = server("cp-b", false);
        let (carried, mut signal) =
            WholeConnection::new(ForwardedKind::PassThrough, b, None, client, socket);
        let retired = EndReason::Retired(RetireReason::Share);
        carried.keep();
        assert!(!signal.has_changed().unwrap());
        carried.retire(retired);
        assert_eq!(*signal.borrow_and_update(), Signal::Retire);
        carried.retire(EndReason::Inspected);
        assert!(!signal.has_changed().unwrap(), "the silence goes on");
        assert_eq!(carried.ending(), Some(EndReason::Inspected));
        carried.keep();
        assert_eq!(*signal.borrow_and_update(), Signal::Run);
        assert_eq!(carried.ending(), None);
        carried.stop(retired);
        carried.keep();
        assert_eq!(*signal.borrow_and_update(), Signal::Stop);
        assert_eq!(carried.ending(), Some(retired));
    }

    #[test]
    fn silence_is_what_the_kernel_has_not_counted() {
        use std::io::{Read as _, Write as _};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut other = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut socket, client) = listener.accept().unwrap();
        let b = server("cp-b", false);
        let second = socket.try_clone().unwrap();
        let (carried, _signal) =
            WholeConnection::new(ForwardedKind::PassThrough, b, None, client, second);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        other.write_all(&[0; 300]).unwrap();
        socket.read_exact(&mut [0; 300]).unwrap();
        assert_eq!(carried.look(after(10)), ([300, 0], Duration::ZERO));
        assert_eq!(carried.look(after(14)).1, Duration::from_secs(4));
        socket.write_all(&[0; 20]).unwrap();
        assert_eq!(carried.look(after(15)), ([300, 20], Duration::ZERO));
    }
}
