//! Start and stop: what is awaited before the agent is ready, and how it ends.

mod drain;
mod readiness;

pub use drain::{Drain, DrainSignal, DrainState, DrainTrigger};
pub use readiness::{Readiness, Task};
