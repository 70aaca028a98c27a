//! mvp: a mixed version proxy for Kubernetes control planes.
//!
//! The life of a request is one corridor: `net` (accept) -> `tls` -> `identity` -> `request` -> `route` -> `proxy`.
//! `discovery` and `membership` feed `route`; `steering` decides who comes; `admin`, `metrics`, `history` and `cli` only look; `app` only
//! wires.
//!
//! `docs/architecture.md` has the table of which module may use which; `cargo xtask check` holds the code to it.
// Input, the network and the kernel choose the indexes here, and must not bring the agent down. The tests' own crates are not asked.
#![warn(clippy::indexing_slicing)]

pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
mod codes;
pub mod config;
pub mod discovery;
pub mod document;
pub mod drain;
mod envelope;
mod h1wire;
pub mod h2wire;
pub mod history;
pub mod identity;
pub mod kernel;
pub mod logging;
pub mod membership;
pub mod metrics;
pub mod net;
pub mod preflight;
pub mod proxy;
pub mod readiness;
pub mod request;
pub mod route;
pub mod splice;
pub mod steering;
mod text;
pub mod tls;
