//! Start and stop: what runs on which thread, what is awaited before the agent is ready, and how it ends.

mod admin_port;
mod agent;
mod descriptors;
mod drain;
mod history;
mod learning;
mod manifest;
mod memory;
mod pass_through;
mod proof;
mod readiness;
mod relay;
mod run;
mod running;
mod shortcut;
mod skew;
mod sources;
mod steering;
mod threads;
mod views;

pub use agent::Agent;
pub use drain::{Drain, DrainSignal, DrainState, DrainTrigger};
pub use readiness::{Readiness, Task};
pub use run::run;
pub(crate) use skew::skew;
pub use steering::try_to_share;
pub(crate) use steering::way_to_servers;
