//! The benchmarks: what the agent costs, against no proxy at all and against HAProxy.

pub mod agent;
pub mod discovery;
pub mod forward;
pub mod freshness;
pub mod haproxy;
pub mod process;
pub mod report;
pub mod splice;
pub mod upstream;

pub(crate) mod answers;
mod shortcut;
