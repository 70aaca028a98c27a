//! The benchmarks: what the agent costs, against no proxy at all and against HAProxy.

pub mod agent;
pub mod compare;
pub mod discovery;
pub mod forward;
pub mod freshness;
pub mod growth;
pub mod haproxy;
pub mod kernel;
pub mod machine;
pub mod neighbour;
pub mod process;
pub mod report;
pub mod target;
pub mod upgrade;
pub mod upstream;
pub mod whole;

mod answering;
pub(crate) mod answers;
mod servers;
mod upstream_http1;
mod upstream_http2;
mod usage;
mod watching;
