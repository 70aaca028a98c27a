//! What becomes of new connections, in one word that an operator can trust: it is read from the kernel's own maps, and not from
//! what the agent intends.

use std::time::Duration;

use crate::readiness::PassingBy;

/// What the kernel does with new connections to the steered ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stance {
    /// They are given to the agent. The sentence says why.
    Inspecting(String),
    /// They go to kube-apiserver itself, since nothing needs to be looked at; the agent would take them at once.
    StandingBy(String),
    /// They go to kube-apiserver itself, and would if they had to be inspected, for these reasons. At least one.
    PassingBy(Vec<(PassingBy, String)>),
}

/// What the kernel's maps say at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InForce {
    /// The program is attached to this network namespace.
    pub attached: bool,
    /// This agent, and no other, directs it.
    pub ours: bool,
    /// Connections are given to the agent while it shows that it lives.
    pub armed: bool,
    /// Age of the last heartbeat; `None`: there was never one.
    pub heartbeat_age: Option<Duration>,
    /// The kernel still believes that heartbeat.
    pub alive: bool,
}

/// Who gives connections to the agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Steers {
    /// The kernel, as its maps say; the error is the reason for which they cannot be read.
    Kernel(Result<InForce, String>),
    /// Nobody: clients and load balancers connect to the agent's own listener. True: everything is handed to the local server
    /// whole for the time being.
    Nobody {
        /// Connections are handed over whole.
        passes_through: bool,
    },
}

impl Stance {
    /// `why`: what the guard sees, for the sentence. The reasons of [`crate::readiness::PassingReasons`] come first: while one holds, no
    /// heartbeat is sent, whatever the maps still say.
    pub fn of(reasons: Vec<(PassingBy, String)>, steers: &Steers, why: &str) -> Self {
        if !reasons.is_empty() {
            return Self::PassingBy(reasons);
        }
        match steers {
            Steers::Kernel(Ok(kernel)) => match kernel.obstacle() {
                Some(obstacle) => Self::PassingBy(vec![obstacle]),
                None if kernel.armed => Self::Inspecting(why.to_owned()),
                None => Self::StandingBy(why.to_owned()),
            },
            Steers::Kernel(Err(error)) => Self::PassingBy(vec![(
                PassingBy::Kernel,
                format!("the kernel's maps cannot be read: {error}"),
            )]),
            Steers::Nobody {
                passes_through: true,
            } => Self::StandingBy("connections are handed to the local server whole".to_owned()),
            Steers::Nobody {
                passes_through: false,
            } => Self::Inspecting(
                "only what clients send to the agent's own listener; the kernel steers nothing"
                    .to_owned(),
            ),
        }
    }

    /// `inspecting`, `standing by` or `passing by`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Inspecting(_) => "inspecting",
            Self::StandingBy(_) => "standing by",
            Self::PassingBy(_) => "passing by",
        }
    }

    /// The first line of `mvp status`.
    pub fn line(&self) -> String {
        match self {
            Self::Inspecting(why) | Self::StandingBy(why) if why.is_empty() => {
                self.word().to_owned()
            }
            Self::Inspecting(why) => format!("inspecting ({why})"),
            Self::StandingBy(why) => format!("standing by ({why})"),
            Self::PassingBy(reasons) => {
                let reasons: Vec<_> = reasons
                    .iter()
                    .map(|(reason, detail)| format!("{} ({detail})", reason.as_str()))
                    .collect();
                format!("passing by: {}", reasons.join("; "))
            }
        }
    }

    /// The reasons to pass by; empty unless it does.
    pub fn reasons(&self) -> &[(PassingBy, String)] {
        match self {
            Self::PassingBy(reasons) => reasons,
            Self::Inspecting(_) | Self::StandingBy(_) => &[],
        }
    }
}

impl InForce {
    /// Why the kernel would not steer even if the guard is armed.
    fn obstacle(&self) -> Option<(PassingBy, String)> {
        let found = |reason, detail: &str| Some((reason, detail.to_owned()));
        if !self.attached {
            return found(
                PassingBy::NotSteering,
                "the program is not attached any more: was `mvp uninstall` run?",
            );
        }
        if !self.ours {
            return found(PassingBy::Draining, "another agent has taken over");
        }
        match self.heartbeat_age {
            _ if self.alive => None,
            None => found(PassingBy::Starting, "no heartbeat was sent yet"),
            Some(age) => Some((
                PassingBy::Accept,
                format!("no heartbeat was sent for {} ms", age.as_millis()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force() -> InForce {
        InForce {
            attached: true,
            ours: true,
            armed: true,
            heartbeat_age: Some(Duration::from_millis(80)),
            alive: true,
        }
    }

    fn stance(kernel: InForce) -> Stance {
        Stance::of(Vec::new(), &Steers::Kernel(Ok(kernel)), "sets_differ")
    }

    #[test]
    fn it_inspects_only_if_the_kernel_would_give_it_a_connection() {
        assert_eq!(stance(in_force()).line(), "inspecting (sets_differ)");
        let idle = InForce {
            armed: false,
            ..in_force()
        };
        assert_eq!(stance(idle).word(), "standing by");
        let obstacles = [
            (
                InForce {
                    attached: false,
                    ..in_force()
                },
                PassingBy::NotSteering,
            ),
            (
                InForce {
                    ours: false,
                    ..in_force()
                },
                PassingBy::Draining,
            ),
            (
                InForce {
                    alive: false,
                    ..in_force()
                },
                PassingBy::Accept,
            ),
            (
                InForce {
                    alive: false,
                    heartbeat_age: None,
                    ..in_force()
                },
                PassingBy::Starting,
            ),
        ];
        for (kernel, expected) in obstacles {
            let found = stance(kernel.clone());
            assert_eq!(found.word(), "passing by", "{kernel:?}");
            assert_eq!(found.reasons()[0].0, expected, "{kernel:?}");
        }
        let unreadable = Steers::Kernel(Err("permission denied".to_owned()));
        let found = Stance::of(Vec::new(), &unreadable, "");
        assert_eq!(found.reasons()[0].0, PassingBy::Kernel);
    }

    #[test]
    fn a_reason_outranks_what_the_maps_still_say() {
        let reasons = vec![(PassingBy::Full, "1,024 handshakes are under way".to_owned())];
        let found = Stance::of(reasons, &Steers::Kernel(Ok(in_force())), "sets_differ");
        assert_eq!(
            found.line(),
            "passing by: full (1,024 handshakes are under way)"
        );
    }

    #[test]
    fn without_steering_it_never_claims_more_than_its_own_listener() {
        let nobody = |passes_through| {
            Stance::of(
                Vec::new(),
                &Steers::Nobody { passes_through },
                "steering_off",
            )
        };
        assert!(nobody(false).line().ends_with("the kernel steers nothing)"));
        assert_eq!(nobody(true).word(), "standing by");
    }
}
