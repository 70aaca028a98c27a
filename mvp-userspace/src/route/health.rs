//! Whether a server may be chosen now: passive evidence (requests) and active evidence (the prober). Pure; time is passed in.

use std::fmt;
use std::time::SystemTime;

/// Soft failures in a row, without a success between them, that eject a server.
const SOFT_FAILURES: u32 = 3;

/// Why an attempt to use a server failed through no fault of the client.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Failure {
    /// Nothing listens there.
    Refused,
    /// A connection or a stream was reset. One stream may be reset on a sound server.
    Reset,
    /// No connection, no answer to a PING, or none to a probe within its deadline.
    TimedOut,
    /// The handshake failed: a certificate that does not verify, or no TLS at all.
    Tls,
    /// No route, no such host, network down.
    Unreachable,
    /// The server broke HTTP.
    Protocol,
    /// The agent itself ran out of source ports or descriptors. It says nothing of the server and never counts.
    Local,
}

/// What the active prober saw at `/readyz`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadyzOutcome {
    /// 200.
    Ready,
    /// It answered, and the answer was no: starting or shutting down.
    NotReady,
    /// There was no answer.
    Failed(Failure),
}

/// Whether a server may be chosen, by what was seen of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HealthState {
    /// May be chosen. A server begins so: nothing speaks against it yet.
    Available,
    /// Skipped until a probe says ready. A request that succeeds proves nothing: a server that shuts down says not ready
    /// while it still answers, so that nobody new comes.
    NotReady,
    /// Skipped until a probe says ready, or a request that was tried for want of anything else succeeds.
    Ejected,
}

/// The health as people see it: `/status`, `mvp servers`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthView {
    /// Whether it may be chosen.
    pub state: HealthState,
    /// When it came into this state.
    pub since: SystemTime,
    /// The last failure ever seen, and when.
    pub last_failure: Option<(Failure, SystemTime)>,
    /// How often the server was ejected.
    pub ejections: u64,
}

impl Failure {
    /// Enough by itself to skip the server: the next request would fail the same way.
    pub fn is_hard(self) -> bool {
        match self {
            Failure::Refused | Failure::TimedOut | Failure::Tls | Failure::Unreachable => true,
            Failure::Reset | Failure::Protocol | Failure::Local => false,
        }
    }

    /// Whether it says anything of the server.
    pub fn counts(self) -> bool {
        self != Failure::Local
    }

    /// Stable, for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Refused => "refused",
            Failure::Reset => "reset",
            Failure::TimedOut => "timed_out",
            Failure::Tls => "tls",
            Failure::Unreachable => "unreachable",
            Failure::Protocol => "protocol",
            Failure::Local => "local",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Refused => "the server refused the connection",
            Failure::Reset => "the server reset the connection or stream",
            Failure::TimedOut => "the server did not answer in time",
            Failure::Tls => "the TLS handshake with the server failed",
            Failure::Unreachable => "the server's address cannot be reached",
            Failure::Protocol => "the server broke the HTTP protocol",
            Failure::Local => "the agent has no source port or descriptor left",
        })
    }
}

impl HealthState {
    /// Stable, for `/status` and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthState::Available => "available",
            HealthState::NotReady => "not_ready",
            HealthState::Ejected => "ejected",
        }
    }
}

/// The state machine. Every method takes the time of the event.
#[derive(Debug)]
pub(super) struct Health {
    view: HealthView,
    /// Soft failures since the last success or ready probe.
    streak: u32,
}

impl Health {
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            view: HealthView {
                state: HealthState::Available,
                since: now,
                last_failure: None,
                ejections: 0,
            },
            streak: 0,
        }
    }

    pub(super) fn view(&self) -> &HealthView {
        &self.view
    }

    pub(super) fn is_available(&self) -> bool {
        self.view.state == HealthState::Available
    }

    /// True if a success would change nothing.
    pub(super) fn is_spotless(&self) -> bool {
        self.is_available() && self.streak == 0
    }

    pub(super) fn failed(&mut self, failure: Failure, now: SystemTime) {
        if !failure.counts() {
            return;
        }
        self.view.last_failure = Some((failure, now));
        self.streak = self.streak.saturating_add(1);
        if failure.is_hard() || self.streak >= SOFT_FAILURES {
            self.enter(HealthState::Ejected, now);
        }
    }

    pub(super) fn succeeded(&mut self, now: SystemTime) {
        self.streak = 0;
        if self.view.state == HealthState::Ejected {
            self.enter(HealthState::Available, now);
        }
    }

    pub(super) fn probed(&mut self, probe: ReadyzOutcome, now: SystemTime) {
        match probe {
            ReadyzOutcome::Ready => {
                self.streak = 0;
                self.enter(HealthState::Available, now);
            }
            ReadyzOutcome::NotReady => self.enter(HealthState::NotReady, now),
            ReadyzOutcome::Failed(failure) => self.failed(failure, now),
        }
    }

    fn enter(&mut self, state: HealthState, now: SystemTime) {
        if self.view.state == state {
            return;
        }
        if state == HealthState::Ejected {
            self.view.ejections += 1;
        }
        self.view.state = state;
        self.view.since = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Failed(Failure),
        Succeeded,
        Probed(ReadyzOutcome),
    }

    fn at(second: usize) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second as u64)
    }

    fn run(events: &[Event]) -> Health {
        let mut health = Health::new(at(0));
        for (i, event) in events.iter().enumerate() {
            apply(&mut health, *event, at(i + 1));
        }
        health
    }

    fn apply(health: &mut Health, event: Event, now: SystemTime) {
        match event {
            Event::Failed(failure) => health.failed(failure, now),
            Event::Succeeded => health.succeeded(now),
            Event::Probed(probe) => health.probed(probe, now),
        }
    }

    fn state(events: &[Event]) -> HealthState {
        run(events).view().state
    }

    use Event::{Failed, Probed, Succeeded};

    #[test]
    fn hard_failures_eject_at_once() {
        for failure in [
            Failure::Refused,
            Failure::TimedOut,
            Failure::Tls,
            Failure::Unreachable,
        ] {
            let health = run(&[Failed(failure)]);
            assert_eq!(health.view().state, HealthState::Ejected);
            assert_eq!(health.view().since, at(1));
            assert_eq!(health.view().last_failure, Some((failure, at(1))));
            assert_eq!(health.view().ejections, 1);
        }
    }

    #[test]
    fn soft_failures_eject_in_a_row_only() {
        let reset = Failed(Failure::Reset);
        let broken = Failed(Failure::Protocol);
        assert_eq!(state(&[reset, broken]), HealthState::Available);
        assert_eq!(
            state(&[reset, broken, Succeeded, reset, reset]),
            HealthState::Available
        );
        assert_eq!(state(&[reset, broken, reset]), HealthState::Ejected);
    }

    #[test]
    fn ways_back() {
        let refused = Failed(Failure::Refused);
        assert_eq!(
            state(&[refused, Probed(ReadyzOutcome::Ready)]),
            HealthState::Available
        );
        assert_eq!(state(&[refused, Succeeded]), HealthState::Available);
        assert_eq!(
            state(&[refused, Probed(ReadyzOutcome::NotReady)]),
            HealthState::NotReady
        );
        assert_eq!(
            state(&[Probed(ReadyzOutcome::NotReady), Succeeded]),
            HealthState::NotReady
        );
        assert_eq!(
            state(&[
                Probed(ReadyzOutcome::NotReady),
                Probed(ReadyzOutcome::Ready)
            ]),
            HealthState::Available
        );
        let twice = run(&[refused, refused, Succeeded, refused]);
        assert_eq!(twice.view().ejections, 2);
    }

    fn failure() -> impl Strategy<Value = Failure> {
        proptest::sample::select(vec![
            Failure::Refused,
            Failure::Reset,
            Failure::TimedOut,
            Failure::Tls,
            Failure::Unreachable,
            Failure::Protocol,
            Failure::Local,
        ])
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => failure().prop_map(Failed),
            3 => Just(Succeeded),
            1 => Just(Probed(ReadyzOutcome::Ready)),
            1 => Just(Probed(ReadyzOutcome::NotReady)),
            1 => failure().prop_map(|f| Probed(ReadyzOutcome::Failed(f))),
        ]
    }

    proptest! {
        #[test]
        fn every_step_follows_the_rules(events in proptest::collection::vec(event(), 0..60)) {
            let mut health = Health::new(at(0));
            let mut in_a_row = 0;
            for (i, event) in events.iter().enumerate() {
                let before = health.view().clone();
                apply(&mut health, *event, at(i + 1));
                let after = health.view();
                let failure = match event {
                    Failed(f) | Probed(ReadyzOutcome::Failed(f)) => Some(*f).filter(|f| f.counts()),
                    _ => None,
                };
                in_a_row = match event {
                    Succeeded | Probed(ReadyzOutcome::Ready) => 0,
                    _ if failure.is_some() => in_a_row + 1,
                    _ => in_a_row,
                };
                // What a state may be left for, and by what.
                match (before.state, after.state) {
                    (a, b) if a == b => prop_assert_eq!(before.since, after.since),
                    (_, HealthState::Ejected) => {
                        prop_assert!(failure.is_some_and(Failure::is_hard) || in_a_row >= SOFT_FAILURES);
                    }
                    (HealthState::NotReady, HealthState::Available) => {
                        prop_assert!(matches!(event, Probed(ReadyzOutcome::Ready)));
                    }
                    (_, HealthState::Available) => {
                        prop_assert!(matches!(event, Probed(ReadyzOutcome::Ready) | Succeeded));
                    }
                    (_, HealthState::NotReady) => {
                        prop_assert!(matches!(event, Probed(ReadyzOutcome::NotReady)));
                    }
                }
                if failure.is_some_and(Failure::is_hard) {
                    prop_assert_eq!(after.state, HealthState::Ejected);
                }
                if matches!(event, Probed(ReadyzOutcome::Ready)) {
                    prop_assert_eq!(after.state, HealthState::Available);
                }
                let ejected = before.state != HealthState::Ejected && after.state == HealthState::Ejected;
                prop_assert_eq!(after.ejections, before.ejections + u64::from(ejected));
                // The fast path of `Server::succeeded` skips exactly the successes that change nothing.
                if health.is_spotless() {
                    let view = health.view().clone();
                    health.succeeded(at(i + 1));
                    prop_assert_eq!(&view, health.view());
                }
            }
        }
    }
}
