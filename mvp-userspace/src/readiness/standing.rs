//! The reasons for which this agent does not take connections. Whatever finds such a reason sets it here. The heartbeat is
//! withheld while one holds, and status, metrics and readiness show them: what the agent reports of itself is what the kernel does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why new connections pass to kube-apiserver itself. Ordered by what an operator should look at first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PassingBy {
    /// The agent is not steering at all: no kernel part, or it could not be installed.
    NotSteering,
    /// The agent drains, or another agent has taken over.
    Draining,
    /// No server has been asked yet.
    Starting,
    /// The local server has not been shown to accept this agent and the users that it asserts.
    LocalUnproved,
    /// The listener cannot accept, for example because descriptors are used up.
    Accept,
    /// A data thread makes no progress.
    Thread,
    /// There is no room for another connection or TLS handshake.
    Full,
    /// The kernel's maps cannot be written.
    Kernel,
}

/// The reasons that hold now, each with one sentence for the operator. Cheap to clone; any thread may set and ask.
#[derive(Clone, Debug, Default)]
pub struct PassingReasons(Arc<Mutex<BTreeMap<PassingBy, String>>>);

impl PassingBy {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 8] = [
        Self::NotSteering,
        Self::Draining,
        Self::Starting,
        Self::LocalUnproved,
        Self::Accept,
        Self::Thread,
        Self::Full,
        Self::Kernel,
    ];

    /// The label of the reason in metrics and in `-o json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSteering => "not_steering",
            Self::Draining => "draining",
            Self::Starting => "starting",
            Self::LocalUnproved => "local_unproved",
            Self::Accept => "accept",
            Self::Thread => "thread",
            Self::Full => "full",
            Self::Kernel => "kernel",
        }
    }
}

impl PassingReasons {
    /// A standing in which no reason holds.
    pub fn new() -> Self {
        Self::default()
    }

    /// The reason holds from now on, for the cause that `detail` states in one sentence. Returns true if it did not hold before.
    pub fn set(&self, reason: PassingBy, detail: impl Into<String>) -> bool {
        self.lock().insert(reason, detail.into()).is_none()
    }

    /// The reason does not hold any more. Returns true if it held before.
    pub fn clear(&self, reason: PassingBy) -> bool {
        self.lock().remove(&reason).is_some()
    }

    /// Sets or clears the reason, as `detail` is there or not.
    pub fn put(&self, reason: PassingBy, detail: Option<String>) -> bool {
        match detail {
            Some(detail) => self.set(reason, detail),
            None => self.clear(reason),
        }
    }

    /// The reasons that hold, with their details, the one to look at first being first.
    pub fn reasons(&self) -> Vec<(PassingBy, String)> {
        let reasons = self.lock();
        reasons
            .iter()
            .map(|(reason, detail)| (*reason, detail.clone()))
            .collect()
    }

    /// The first reason that holds. `None`: the agent may take connections.
    pub fn first(&self) -> Option<PassingBy> {
        self.lock().keys().next().copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PassingBy, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_to_look_at_first_is_first() {
        let standing = PassingReasons::new();
        assert_eq!(standing.first(), None);
        assert!(standing.set(PassingBy::Full, "1,024 handshakes are under way"));
        assert!(standing.set(PassingBy::LocalUnproved, "the local server answered 401"));
        assert!(!standing.set(PassingBy::Full, "still"));
        let reasons = standing.reasons();
        let reasons: Vec<_> = reasons.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, [PassingBy::LocalUnproved, PassingBy::Full]);
        assert!(standing.put(PassingBy::LocalUnproved, None));
        assert_eq!(standing.first(), Some(PassingBy::Full));
    }

    #[test]
    fn every_reason_has_a_label_of_its_own_and_the_table_has_the_order_of_the_enum() {
        let mut labels: Vec<_> = PassingBy::ALL.map(PassingBy::as_str).to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), PassingBy::ALL.len());
        assert!(PassingBy::ALL.is_sorted());
    }
}
