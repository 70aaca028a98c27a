//! What the kernel does with new connections at this moment, for status and metrics.

use std::sync::Arc;

use super::{GuardHandle, SharedSteering};
use super::{InForce, Stance, Steers};
use crate::kernel::Counters;
use crate::proxy::Relays;
use crate::readiness::PassingReasons;

/// Reads it anew each time. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    /// Why connections are not taken, if they are not.
    pub standing: PassingReasons,
    /// The state of the guard.
    pub guard: GuardHandle,
    /// `None`: this agent has no steering.
    pub steering: Option<SharedSteering>,
    /// Connections that are forwarded whole.
    pub relays: Arc<Relays>,
}

impl Watch {
    /// Some system calls; it blocks no longer than the keeper writes to a map.
    pub fn stance(&self) -> Stance {
        let steers = match &self.steering {
            Some(steering) => Steers::Kernel(in_force(steering)),
            None => Steers::Nobody {
                passes_through: self.relays.passes_through(),
            },
        };
        let why = self.guard.state().reasons().to_string();
        Stance::of(self.standing.reasons(), &steers, &why)
    }

    /// What the program counted that joins two sockets, if it is loaded.
    pub fn spliced(&self) -> Option<Counters> {
        let kernel = self.relays.splicing().splicer().kernel()?;
        kernel.counters().ok()
    }
}

fn in_force(steering: &SharedSteering) -> Result<InForce, String> {
    let steering = steering.lock();
    let read = || {
        let guard = steering.guard()?;
        Ok::<_, crate::kernel::Error>(InForce {
            attached: steering.is_attached(),
            ours: steering.is_ours()?,
            armed: guard.armed,
            heartbeat_age: guard.heartbeat_age,
            alive: guard.alive,
        })
    };
    read().map_err(|error| error.to_string())
}
