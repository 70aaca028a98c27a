//! The thread that looks at the connections of before and ends them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;

use super::close::{APART, Close, WATCHED};
use super::seen::{Seen, Traffic};
use super::tally::{Ended, Open, RetireTally};
use super::{Due, QUIET_FIRST, Schedule, TcpFigures};
use crate::kernel::{LocalSource, steers_while_idle};
use crate::net::{Established, RetireOutcome, SockDiag, SockDiagError};
use crate::steering::Retirable;

/// Before the next look after one that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon it is tried again whether connections can be ended here, while they cannot.
const RETRY: Duration = Duration::from_secs(10);
/// How soon the end of the work is noticed.
const NOTICE: Duration = Duration::from_millis(100);

/// Whose connections are ended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Scope {
    /// Nobody's.
    #[default]
    Nobody,
    /// The connections of clients that are steered although the guard is idle.
    Local(Vec<LocalSource>),
    /// Everybody's.
    Everybody,
}

/// How the connections of agents are distinguished from those of clients.
#[derive(Clone, Debug)]
pub struct Agents {
    /// This agent connects to the local server from here.
    pub own_source: IpAddr,
    /// Agents on other nodes connect from these ports of their servers' addresses.
    pub peer_ports: RangeInclusive<u16>,
}

/// Starts and stops the work; a thread of its own does it, since the kernel takes its time.
pub struct Retiring {
    port: u16,
    agents: Agents,
    schedule: Schedule,
    tally: RetireTally,
    retirable: Retirable,
    held: Arc<AtomicBool>,
    urgent: Arc<Mutex<Option<Instant>>>,
    running: Option<(Scope, Arc<AtomicBool>)>,
}

struct Round {
    /// Its number with the tally.
    round: u64,
    port: u16,
    agents: Agents,
    peers: Vec<IpAddr>,
    scope: Scope,
    schedule: Schedule,
    tally: RetireTally,
    retirable: Retirable,
    /// Nothing is ended for now.
    held: Arc<AtomicBool>,
    /// When retirement became urgent, if it is.
    urgent: Arc<Mutex<Option<Instant>>>,
    go_on: Arc<AtomicBool>,
    /// Spreads the connections over the window, in another way in each round and on each node.
    hasher: RandomState,
    /// What earlier looks have seen of each connection, by the kernel's own cookie for it.
    seen: HashMap<u64, Seen>,
}

impl Retiring {
    /// `port`: kube-apiserver's.
    pub fn new(
        port: u16,
        agents: Agents,
        schedule: Schedule,
        tally: RetireTally,
        retirable: Retirable,
    ) -> Self {
        Self {
            port,
            agents,
            schedule,
            tally,
            retirable,
            held: Arc::default(),
            urgent: Arc::default(),
            running: None,
        }
    }

    /// While it is held nothing is ended, since a client would come back to kube-apiserver itself. The window stands still meanwhile
    /// and then goes on: an agent that looks away for a moment, again and again, must not begin it anew each time.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// A false 404 is imminent, or possible already: connections leave in any good moment ([`Schedule::due_urgent`]). It stays so until
    /// others are to be ended: between the end of a server and its next version's first answer nothing may be urgent for a moment, which is
    /// no reason to begin anew.
    pub fn urge(&self) {
        let mut since = self.urgent.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now);
    }

    /// Whose connections are to be ended from now on. `peers`: addresses of the other servers' nodes.
    pub fn set(&mut self, scope: Scope, peers: &[IpAddr]) {
        let now = self
            .running
            .as_ref()
            .map_or(&Scope::Nobody, |(scope, _)| scope);
        if *now == scope {
            return;
        }
        self.stop();
        *self.urgent.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let round = self.tally.begin();
        if scope == Scope::Nobody {
            return;
        }
        let go_on = Arc::new(AtomicBool::new(true));
        let work = Round {
            round,
            port: self.port,
            agents: self.agents.clone(),
            peers: peers.to_vec(),
            scope: scope.clone(),
            schedule: self.schedule,
            tally: self.tally.clone(),
            retirable: self.retirable.clone(),
            held: Arc::clone(&self.held),
            urgent: Arc::clone(&self.urgent),
            go_on: Arc::clone(&go_on),
            hasher: RandomState::new(),
            seen: HashMap::new(),
        };
        let thread = std::thread::Builder::new().name("retire".into());
        match thread.spawn(move || work.run()) {
            Ok(_) => self.running = Some((scope, go_on)),
            Err(error) => tracing::warn!(%error, "connections from before cannot be retired"),
        }
    }

    fn stop(&mut self) {
        if let Some((_, go_on)) = self.running.take() {
            go_on.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Retiring {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Round {
    fn run(mut self) {
        // Again and again, since an operator may load the modules meanwhile.
        while !self.retirable.probe() {
            self.wait(RETRY);
            if !self.go_on() {
                return;
            }
        }
        // Looks that are 50 us apart would be 100 us apart with the kernel's usual 50 us of slack, and a quick answer falls between them.
        // Nothing is lost where it is refused.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        let began = Instant::now();
        let before = [Ended::Destroyed, Ended::Late].map(|one| self.tally.counted(one));
        self.look_on(began);
        let [destroyed, late] = [Ended::Destroyed, Ended::Late].map(|one| self.tally.counted(one));
        let (destroyed, late) = (destroyed - before[0], late - before[1]);
        let open = self.seen.len();
        if destroyed + late > 0 || open > 0 {
            let seconds = began.elapsed().as_secs();
            tracing::info!(
                destroyed,
                late,
                open,
                seconds,
                "the retirement of connections has ended"
            );
        }
        self.tally.set_open(self.round, Open::default());
    }

    /// Looks again and again, also after a look that failed: descriptors may be short for a moment.
    fn look_on(&mut self, began: Instant) {
        let mut told = false;
        while self.go_on() {
            let failed = SockDiag::open().and_then(|mut diag| self.looks(&mut diag, began));
            let Err(error) = failed else { return };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    %error,
                    "connections made before the guard armed stay with kube-apiserver for now"
                );
            }
            let open = Open {
                failed: Some(error.to_string()),
                retiring: true,
                ..Open::default()
            };
            self.tally.set_open(self.round, open);
            self.wait(AGAIN);
        }
    }

    fn looks(&mut self, diag: &mut SockDiag, began: Instant) -> Result<(), SockDiagError> {
        let (mut announced, mut emptied) = (false, false);
        let (mut still, mut last) = (Duration::ZERO, Instant::now());
        let mut occupied = Instant::now();
        let armed = self.scope == Scope::Everybody;
        while self.go_on() {
            let look = Instant::now();
            let held = self.held.load(Ordering::Relaxed);
            if held {
                let more = look.duration_since(last);
                still += more;
                self.seen.values_mut().for_each(|seen| seen.delay(more));
            }
            last = look;
            let mut connections = diag.established(self.port)?;
            // Listed after the connections: what the agent has accepted by then is in it.
            let own = own_inodes()?;
            connections.retain(|connection| self.is_of_before(connection, &own));
            self.watch(&connections, look);
            if !connections.is_empty() {
                occupied = look;
            }
            if !announced && !connections.is_empty() {
                announced = true;
                let within = self.schedule.within.as_secs();
                tracing::info!(
                    open = connections.len(),
                    within,
                    "connections from before are being retired"
                );
            }
            if announced && !emptied && connections.is_empty() {
                emptied = true;
                let seconds = began.elapsed().as_secs();
                tracing::info!(seconds, "all connections from before are closed");
            }
            for connection in connections.iter().filter(|_| !held) {
                if !self.go_on() {
                    return Ok(());
                }
                self.consider(diag, connection)?;
            }
            let since = look.duration_since(began).saturating_sub(still);
            let empty = look.duration_since(occupied);
            self.wait(self.schedule.pause(since, empty, armed, look.elapsed()));
        }
        Ok(())
    }

    /// Ends the connection if its moment has come, and still is there when the kernel is asked for it alone.
    fn consider(&self, diag: &mut SockDiag, found: &Established) -> Result<(), SockDiagError> {
        let phase = self.phase(found);
        let Some(seen) = self.seen.get(&found.cookie()) else {
            return Ok(());
        };
        let silence = match self.tally.hurried_since() {
            Some(_) => QUIET_FIRST,
            None => self.schedule.silence(),
        };
        let due = |now: &Established| {
            let traffic = Traffic::of(now);
            let answered = seen.is_known() && seen.is_answered(&traffic)
                || now.is_silent(silence) && seen.may_be_answered(&traffic);
            let figures = TcpFigures {
                quiet: now.silent_for(),
                answered: now.server_spoke_last()
                    && !now.may_be_asked_since(silence)
                    && !(seen.may_be_of_before() && now.may_end_with_a_request())
                    && answered,
                in_flight: now.is_in_flight(),
            };
            let since = seen.first.elapsed();
            match (self.tally.hurried_since(), self.urgent_since()) {
                (Some(at), _) => Schedule::due_hurried(at.elapsed(), &figures),
                (None, Some(at)) => self
                    .schedule
                    .due_urgent(at.elapsed(), since, phase, &figures),
                (None, None) => self.schedule.due(since, phase, &figures),
            }
        };
        if due(found).is_none() {
            let urgent = self.urgent_since().map(|at| at.elapsed());
            return match self.schedule.closely(urgent, seen.first.elapsed()) {
                true => self.look_closely(diag, found),
                false => Ok(()),
            };
        }
        let mut why = Due::Quiet;
        let outcome = diag.retire(found, |now| {
            let due = due(now);
            why = due.unwrap_or(why);
            due.is_some()
        })?;
        self.tally.count(match (outcome, why) {
            (RetireOutcome::Destroyed, Due::Quiet) => Ended::Destroyed,
            (RetireOutcome::Destroyed, Due::Late) => Ended::Late,
            (RetireOutcome::Active, _) => Ended::Active,
            (RetireOutcome::Gone, _) => Ended::Gone,
        });
        tracing::debug!(client = %found.remote(), ?outcome, ?why, "connection of before");
        Ok(())
    }

    /// Ends the connection right after an answer, if one comes while it is looked at.
    fn look_closely(&self, diag: &mut SockDiag, found: &Established) -> Result<(), SockDiagError> {
        let began = Instant::now();
        let mut close = Close::new(began);
        while self.go_on() && began.elapsed() < WATCHED {
            let outcome = diag.retire(found, |now| {
                close.take(Traffic::of(now), now.is_queued(), Instant::now())
            })?;
            match outcome {
                RetireOutcome::Active => std::thread::sleep(APART),
                RetireOutcome::Gone => return Ok(()),
                RetireOutcome::Destroyed => {
                    self.tally.count(Ended::Destroyed);
                    tracing::debug!(client = %found.remote(), "connection of before, after an answer");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Notes what is open: for the schedule, which counts from when a connection was first seen, and for status.
    fn watch(&mut self, connections: &[Established], now: Instant) {
        let mut seen = HashMap::with_capacity(connections.len());
        let mut open = Open {
            retiring: true,
            ..Open::default()
        };
        for connection in connections {
            let traffic = Traffic::of(connection);
            let one = match self.seen.get(&connection.cookie()) {
                Some(before) => before.again(traffic),
                None => Seen::first(now, traffic),
            };
            let first = one.first;
            seen.insert(connection.cookie(), one);
            open.oldest = Some(open.oldest.map_or(first, |oldest| oldest.min(first)));
            *open.clients.entry(connection.remote().ip()).or_default() += 1;
        }
        self.seen = seen;
        self.tally.set_open(self.round, open);
    }

    /// A connection of a client that is to come by the agent, with kube-apiserver: neither this agent's, accepted or made, nor a
    /// peer's agent's.
    fn is_of_before(&self, connection: &Established, own: &HashSet<u32>) -> bool {
        let remote = connection.remote();
        let of_agent = remote.ip() == self.agents.own_source
            || self.peers.contains(&remote.ip()) && self.agents.peer_ports.contains(&remote.port());
        let in_scope = match &self.scope {
            Scope::Nobody => false,
            Scope::Local(sources) => steers_while_idle(sources, remote.ip()),
            Scope::Everybody => true,
        };
        // 0: it waits in an accept queue.
        in_scope && !of_agent && connection.inode() != 0 && !own.contains(&connection.inode())
    }

    fn urgent_since(&self) -> Option<Instant> {
        *self.urgent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number in 0..1 of the connection's own.
    fn phase(&self, connection: &Established) -> f64 {
        share(self.hasher.hash_one(connection.cookie()))
    }

    /// Waits, but not for longer than the work goes on.
    fn wait(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while self.go_on() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(NOTICE));
        }
    }

    fn go_on(&self) -> bool {
        self.go_on.load(Ordering::Relaxed)
    }
}

/// The sockets of this process. A steered connection has kube-apiserver's port as its own, and only this distinguishes it from a
/// connection of kube-apiserver itself.
fn own_inodes() -> std::io::Result<HashSet<u32>> {
    let mut inodes = HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // A descriptor may be closed meanwhile.
        let Ok(target) = entry.and_then(|entry| std::fs::read_link(entry.path())) else {
            continue;
        };
        let name = target.to_string_lossy();
        let inode: Option<u32> = name
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
            .and_then(|number| number.parse().ok());
        inodes.extend(inode);
    }
    Ok(inodes)
}

/// A number in 0..1 from evenly spread bits: the upper 53, as many as a float keeps.
fn share(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn own_connections_are_known_by_their_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let Ok(mut diag) = SockDiag::open() else {
            return;
        };
        let found = diag.established(port).unwrap();
        let own = own_inodes().unwrap();
        assert_eq!(found.len(), 1);
        assert!(found.iter().all(|one| own.contains(&one.inode())));
        drop(accepted);
        let own = own_inodes().unwrap();
        assert!(!found.iter().any(|one| own.contains(&one.inode())));
    }
}
