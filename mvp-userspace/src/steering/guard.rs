//! The guard: whether connections are inspected at all. Pure; time is passed in.
//!
//! Armed at the first sign of an upgrade, idle again when no sign has stood for a settling time. An operator's word goes before
//! the signs until it is withdrawn; the signs are followed meanwhile, so that withdrawing it takes effect at once.

use std::time::{Duration, Instant};

use crate::codes::codes;

codes! {
    /// Why the guard is in its state. `docs/relay.md` lists them; a test compares.
    GuardReason {
        Starting "starting" "the agent has just started: nothing has been seen for long enough",
        SteeringOff "steering_off" "the kernel steers no connections here, and none may pass through: every connection to the agent is inspected",
        SetsDiffer "sets_differ" "the servers do not all serve the same, or nothing is known of one",
        VersionsDiffer "versions_differ" "the servers are not all of one version",
        ServerBroken "server_broken" "a server's connection broke or cannot be made",
        ServerNotReady "server_not_ready" "a server says that it is not ready",
        LeaseChanged "lease_changed" "a server's identity Lease changed its holder: it was restarted or replaced",
        ManifestChanged "manifest_changed" "the local kube-apiserver's static-pod manifest changed: it is about to restart",
        AgentArmed "agent_armed" "another agent saw a sign and informed all agents",
        ClusterArmed "cluster_armed" "an operator armed all agents",
        OperatorArmed "operator_armed" "an operator said arm",
        OperatorDisarmed "operator_disarmed" "an operator said disarm",
        Settled "settled" "every server has been ready, of one version and serving the same for the settling time",
    }
}

/// What is seen at one moment. `lease_changed` and `manifest_changed` happen, and are true in the one observation that follows; the
/// others stand for as long as they are true.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Signs {
    /// Not every server was asked yet: nothing speaks for looking away.
    pub starting: bool,
    /// No steering on this node: the agent is never bypassed, so it must never look away.
    pub steering_off: bool,
    /// [`crate::route::RouteTable::differs`].
    pub sets_differ: bool,
    /// Two servers report different versions at `/version`.
    pub versions_differ: bool,
    /// A server's connection broke, or cannot be made.
    pub server_broken: bool,
    /// `/readyz` of a server says that it is not ready. One that has said nothing yet does not count.
    pub server_not_ready: bool,
    /// The identity Lease of a kube-apiserver has a new holder: the server was started anew.
    pub lease_changed: bool,
    /// The static-pod manifest of the local server was changed.
    pub manifest_changed: bool,
    /// Another agent says that it saw a sign.
    pub agent_armed: bool,
    /// An operator armed all agents.
    pub cluster_armed: bool,
}

/// What an operator says: `mvp arm`, the same with `--for`, `mvp disarm`, and back to the signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operator {
    /// Armed until something else is said.
    Arm,
    /// Armed for so long, and then back to the signs.
    ArmFor(Duration),
    /// Idle until something else is said, whatever the signs are.
    Disarm,
    /// What the signs say.
    Auto,
}

/// What an operator says to all agents: `mvp arm --cluster`, and back to the signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClusterOrder {
    /// Armed for so long.
    Arm(Duration),
    /// What an operator said before is taken back.
    Release,
}

impl GuardReason {
    /// Every state with every reason for which the guard may go there.
    pub fn transitions() -> impl Iterator<Item = (&'static str, Self)> {
        let idle = |reason| matches!(reason, Self::OperatorDisarmed | Self::Settled);
        let to = move |reason| if idle(reason) { "idle" } else { "armed" };
        Self::ALL.iter().map(move |reason| (to(*reason), *reason))
    }
}

/// A set of [`GuardReason`]s.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GuardReasons(u16);

/// What becomes of new connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Connections go to kube-apiserver itself.
    Idle {
        /// When the guard went idle.
        since: Instant,
        /// Why it did.
        reason: GuardReason,
    },
    /// New connections are steered to the agent.
    Armed {
        /// When the guard armed.
        since: Instant,
        /// What speaks for it now; if nothing does any more, what did last.
        reasons: GuardReasons,
        /// When the guard goes idle if no sign comes; `None` while one stands.
        idle_at: Option<Instant>,
    },
}

/// The guard went from one state to the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transition {
    /// When it happened.
    pub at: Instant,
    /// To armed; otherwise to idle.
    pub to_armed: bool,
    /// The reasons of the change; never empty.
    pub reasons: GuardReasons,
}

/// The state machine. Feed it whenever a sign changes and at least once per second, since only an observation can disarm.
#[derive(Debug)]
pub struct Guard {
    settle: Duration,
    operator: Option<Said>,
    signs: Automatic,
    state: State,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    word: OperatorChoice,
    at: Instant,
    /// The time from which on it no longer holds.
    until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum OperatorChoice {
    Arm,
    Disarm,
}

/// What the state would be without an operator.
#[derive(Debug)]
struct Automatic {
    since: Instant,
    reasons: GuardReasons,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// A sign stands.
    Signed,
    /// None has since.
    Settling(Instant),
    Idle,
}

impl Guard {
    /// Armed: until it has seen all quiet for `settle`, the agent does not know that it may look away. `settle` above zero.
    pub fn new(settle: Duration, now: Instant) -> Self {
        let signs = Automatic {
            since: now,
            reasons: GuardReasons::one(GuardReason::Starting),
            stage: Stage::Signed,
        };
        Self {
            settle,
            operator: None,
            state: signs.state(settle),
            signs,
        }
    }

    /// Takes what is seen now. Times must not go back; one that does counts as the latest seen.
    pub fn observe(&mut self, signs: Signs, now: Instant) -> Option<Transition> {
        self.signs.observe(signs.reasons(), self.settle, now);
        self.settle_state(now)
    }

    /// Takes an operator's command, which holds until the next one or for as long as it says. A time that no clock can represent has
    /// no end.
    pub fn operator(&mut self, operator: Operator, now: Instant) -> Option<Transition> {
        let said = |word, until| {
            Some(Said {
                word,
                at: now,
                until,
            })
        };
        self.operator = match operator {
            Operator::Arm => said(OperatorChoice::Arm, None),
            Operator::ArmFor(time) => said(OperatorChoice::Arm, now.checked_add(time)),
            Operator::Disarm => said(OperatorChoice::Disarm, None),
            Operator::Auto => None,
        };
        self.settle_state(now)
    }

    /// The state after the last observation.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether new connections are steered to the agent.
    pub fn is_armed(&self) -> bool {
        matches!(self.state, State::Armed { .. })
    }

    /// The signs that stand, whatever an operator says; empty if none does.
    pub fn standing(&self) -> GuardReasons {
        match self.signs.stage {
            Stage::Signed => self.signs.reasons,
            Stage::Settling(_) | Stage::Idle => GuardReasons::EMPTY,
        }
    }

    fn settle_state(&mut self, now: Instant) -> Option<Transition> {
        let before = self.state;
        if let Some(until) = self.operator.and_then(|said| said.until)
            && until <= now
        {
            self.operator = None;
        }
        let next = match self.operator {
            None => self.signs.state(self.settle),
            Some(said) => match said.word {
                OperatorChoice::Arm => State::Armed {
                    since: said.at,
                    reasons: GuardReasons::one(GuardReason::OperatorArmed).union(self.standing()),
                    idle_at: said.until.filter(|_| self.standing().is_empty()),
                },
                OperatorChoice::Disarm => State::Idle {
                    since: said.at,
                    reason: GuardReason::OperatorDisarmed,
                },
            },
        };
        // Armed for another reason is still armed since the first.
        self.state = match (before, next) {
            (
                State::Armed { since, .. },
                State::Armed {
                    reasons, idle_at, ..
                },
            ) => State::Armed {
                since,
                reasons,
                idle_at,
            },
            (State::Idle { since, .. }, State::Idle { reason, .. }) => {
                State::Idle { since, reason }
            }
            (
                State::Idle { .. },
                State::Armed {
                    reasons, idle_at, ..
                },
            ) => State::Armed {
                since: now,
                reasons,
                idle_at,
            },
            (State::Armed { .. }, State::Idle { reason, .. }) => State::Idle { since: now, reason },
        };
        (before.is_armed() != self.state.is_armed()).then(|| Transition {
            at: now,
            to_armed: self.state.is_armed(),
            reasons: self.state.reasons(),
        })
    }
}

impl Automatic {
    fn observe(&mut self, reasons: GuardReasons, settle: Duration, now: Instant) {
        if !reasons.is_empty() {
            if self.stage == Stage::Idle {
                self.since = now;
            }
            self.reasons = reasons;
            self.stage = Stage::Signed;
            return;
        }
        match self.stage {
            // When the sign went is not known, only that it is gone now.
            Stage::Signed => self.stage = Stage::Settling(now),
            Stage::Settling(quiet) if now.saturating_duration_since(quiet) >= settle => {
                self.stage = Stage::Idle;
                self.since = now;
            }
            Stage::Settling(_) | Stage::Idle => {}
        }
    }

    fn state(&self, settle: Duration) -> State {
        let idle_at = match self.stage {
            Stage::Idle => {
                return State::Idle {
                    since: self.since,
                    reason: GuardReason::Settled,
                };
            }
            Stage::Signed => None,
            Stage::Settling(quiet) => quiet.checked_add(settle),
        };
        State::Armed {
            since: self.since,
            reasons: self.reasons,
            idle_at,
        }
    }
}

impl State {
    /// Whether new connections are steered to the agent.
    pub fn is_armed(&self) -> bool {
        matches!(self, State::Armed { .. })
    }

    /// Why; never empty.
    pub fn reasons(&self) -> GuardReasons {
        match self {
            State::Idle { reason, .. } => GuardReasons::one(*reason),
            State::Armed { reasons, .. } => *reasons,
        }
    }

    /// Stable, for `/status` and metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Idle { .. } => "idle",
            State::Armed { .. } => "armed",
        }
    }
}

impl Signs {
    /// Those that are there.
    pub fn reasons(self) -> GuardReasons {
        [
            (self.starting, GuardReason::Starting),
            (self.steering_off, GuardReason::SteeringOff),
            (self.sets_differ, GuardReason::SetsDiffer),
            (self.versions_differ, GuardReason::VersionsDiffer),
            (self.server_broken, GuardReason::ServerBroken),
            (self.server_not_ready, GuardReason::ServerNotReady),
            (self.lease_changed, GuardReason::LeaseChanged),
            (self.manifest_changed, GuardReason::ManifestChanged),
            (self.agent_armed, GuardReason::AgentArmed),
            (self.cluster_armed, GuardReason::ClusterArmed),
        ]
        .into_iter()
        .filter_map(|(there, reason)| there.then_some(reason))
        .fold(GuardReasons::EMPTY, |all, reason| {
            all.union(GuardReasons::one(reason))
        })
    }
}

impl GuardReasons {
    /// No reason.
    pub const EMPTY: Self = Self(0);
    /// Every reason, those that do not exist included.
    pub const ALL: Self = Self(u16::MAX);

    /// This reason alone.
    pub fn one(reason: GuardReason) -> Self {
        Self(1 << reason as u16)
    }

    /// The reasons that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is no reason.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that `other` has not.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether this reason is one of them.
    pub fn contains(self, reason: GuardReason) -> bool {
        self.0 & Self::one(reason).0 != 0
    }

    /// The reasons in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = GuardReason> {
        GuardReason::ALL
            .iter()
            .copied()
            .filter(move |reason| self.contains(*reason))
    }
}

/// The codes, separated by commas.
impl std::fmt::Display for GuardReasons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, reason) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(reason.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
