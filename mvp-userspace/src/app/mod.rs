//! Start and stop: what runs on which thread, what is awaited before the agent is ready, and how it ends.

mod admin_port;
mod agent;
mod canary;
mod descriptors;
mod history;
mod learning;
mod manifest;
mod memory;
mod pass_through;
mod proof;
mod relay;
mod routes;
mod run;
mod running;
mod skew;
mod sources;
mod threads;
mod views;

pub use agent::Agent;
pub use run::run;
pub(crate) use skew::skew;
