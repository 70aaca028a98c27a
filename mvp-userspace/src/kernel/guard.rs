//! The guard's state in the kernel, and the sign of life that keeps steering on.

use std::{path::Path, time::Duration};

use aya::maps::{Array, MapData};
use mvp_common::{GuardState, PULSE_MAP, Pulse, Reason, STEERED_MAP};

use super::{
    Error, Steering,
    maps::{self, Maps},
    shared::Shared,
    steering::Owner,
    sys,
};

/// What the kernel has of the guard at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedGuard {
    /// Whether connections go to the agent, if it lives.
    pub armed: bool,
    /// Why.
    pub reason: Reason,
    /// Changes of the guard and the listeners so far.
    pub generation: u64,
    /// How long it has been armed.
    pub armed_for: Option<Duration>,
    /// Age of the last heartbeat; `None`: never.
    pub heartbeat_age: Option<Duration>,
    /// Whether that heartbeat is young enough to steer by.
    pub alive: bool,
    /// Lookups steered since the maps were made.
    pub steered: u64,
}

/// The agent's sign of life. Without a beat for a second the program passes every connection to the server itself.
pub struct Heartbeat {
    pulse: Array<MapData, Shared<Pulse>>,
    steered: Array<MapData, u64>,
    owner: Owner,
}

impl Steering {
    /// Steers new connections to the agent's listeners from now on, as long as it lives. Connections that exist are not
    /// touched. Armed already: only the reason changes.
    ///
    /// # Errors
    /// [`Error::Replaced`].
    pub fn arm(&mut self, reason: Reason) -> Result<(), Error> {
        self.change(|guard| {
            if guard.state != GuardState::ARMED {
                guard.armed_since_ns = sys::monotonic_ns();
            }
            guard.state = GuardState::ARMED;
            guard.reason = reason.code();
        })
    }

    /// Passes new connections to the server itself from now on.
    ///
    /// # Errors
    /// [`Error::Replaced`].
    pub fn disarm(&mut self, reason: Reason) -> Result<(), Error> {
        self.change(|guard| {
            guard.state = GuardState::IDLE;
            guard.reason = reason.code();
            guard.armed_since_ns = 0;
        })
    }

    /// The guard as the kernel has it.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel refuses, which it has no reason to.
    pub fn guard(&self) -> Result<PinnedGuard, Error> {
        view(&self.maps)
    }

    /// Applies a change and counts it.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut GuardState)) -> Result<(), Error> {
        self.owner.check()?;
        let mut guard = self.maps.guard.get(&0, 0).map_err(|e| maps::read(&e))?;
        change(&mut guard.0);
        guard.0.generation = guard.0.generation.wrapping_add(1);
        self.maps
            .guard
            .set(0, guard, 0)
            .map_err(|e| maps::write(&e))
    }
}

impl Heartbeat {
    pub(super) fn open(path: &Path, owner: Owner) -> Result<Self, Error> {
        Ok(Self {
            pulse: maps::open(path, PULSE_MAP)?,
            steered: maps::open(path, STEERED_MAP)?,
            owner,
        })
    }

    /// Says that the agent lives, and that it can take `room` more connections until the next beat ([`super::room`]); those
    /// above pass to the server itself. Wants to come every 100 ms, from somebody who knows that connections are accepted
    /// and served: a beat from a thread of its own would keep a dead agent in the path. A few system calls.
    ///
    /// # Errors
    /// [`Error::Replaced`]: stop beating and drain.
    pub fn beat(&mut self, room: u32) -> Result<(), Error> {
        self.owner.check()?;
        // Steered after this reading and before the program sees the new limit: counted twice, which errs to passing.
        let steered = self.steered.get(&0, 0).map_err(|e| maps::read(&e))?;
        let pulse = Pulse {
            heartbeat_ns: sys::monotonic_ns(),
            admit_until: steered.saturating_add(room.into()),
        };
        self.pulse
            .set(0, Shared(pulse), 0)
            .map_err(|e| maps::write(&e))
    }

    /// Takes back what the last beat granted: from now on every new connection passes to the server itself, and not only once the
    /// beat is old.
    ///
    /// # Errors
    /// [`Error::Replaced`].
    pub fn grant_nothing(&mut self) -> Result<(), Error> {
        self.owner.check()?;
        let mut pulse = self.pulse.get(&0, 0).map_err(|e| maps::read(&e))?.0;
        pulse.admit_until = 0;
        self.pulse
            .set(0, Shared(pulse), 0)
            .map_err(|e| maps::write(&e))
    }
}

/// Reads the guard from open maps.
pub(super) fn view(maps: &Maps) -> Result<PinnedGuard, Error> {
    let guard = maps.guard.get(&0, 0).map_err(|e| maps::read(&e))?.0;
    let pulse = maps.pulse.get(&0, 0).map_err(|e| maps::read(&e))?.0;
    let steered = maps.steered.get(&0, 0).map_err(|e| maps::read(&e))?;
    Ok(present(guard, pulse, steered, sys::monotonic_ns()))
}

fn present(guard: GuardState, pulse: Pulse, steered: u64, now_ns: u64) -> PinnedGuard {
    let since = |ns: u64| (ns != 0).then(|| Duration::from_nanos(now_ns.saturating_sub(ns)));
    let armed = guard.state == GuardState::ARMED;
    PinnedGuard {
        armed,
        reason: Reason::from_code(guard.reason),
        generation: guard.generation,
        armed_for: since(guard.armed_since_ns).filter(|_| armed),
        heartbeat_age: since(pulse.heartbeat_ns),
        alive: Pulse::is_fresh(pulse.heartbeat_ns, now_ns),
        steered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_says_what_the_program_would() {
        let second = 1_000_000_000;
        let fresh = present(GuardState::default(), Pulse::default(), 0, 5 * second);
        assert!(!fresh.armed && !fresh.alive && fresh.generation == 0);
        assert_eq!((fresh.armed_for, fresh.heartbeat_age), (None, None));
        let guard = GuardState {
            state: GuardState::ARMED,
            reason: Reason::Operator.code(),
            generation: 3,
            armed_since_ns: second,
        };
        let pulse = Pulse {
            heartbeat_ns: 4 * second,
            admit_until: 0,
        };
        let hung = present(guard, pulse, 7, 5 * second);
        assert!(hung.armed && !hung.alive);
        assert_eq!(hung.armed_for, Some(Duration::from_secs(4)));
        assert_eq!(hung.heartbeat_age, Some(Duration::from_secs(1)));
        assert_eq!((hung.reason, hung.steered), (Reason::Operator, 7));
        assert!(present(guard, pulse, 7, 5 * second - 1).alive);
        // A state of a later release is not ours to steer by.
        let other = GuardState { state: 2, ..guard };
        assert_eq!(present(other, pulse, 7, second).armed_for, None);
    }
}
