//! Start and stop: what runs on which thread, what is awaited before the agent is ready, and how it ends.

mod drain;
mod readiness;
mod threads;

pub use drain::{Drain, DrainSignal, DrainState, DrainTrigger};
pub use readiness::{Readiness, Task};
