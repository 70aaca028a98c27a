//! mvp: a mixed version proxy for Kubernetes control planes.
//!
//! The life of a request is one corridor: `net` (accept) -> `tls` -> `identity` -> `request` -> `route` -> `proxy`.
//! `discovery` and `membership` feed `route`; `admin`, `metrics`, `history` and `cli` only look; `app` only wires.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod discovery;
mod envelope;
mod h2wire;
pub mod history;
pub mod identity;
pub mod kernel;
pub mod membership;
pub mod metrics;
pub mod net;
pub mod proxy;
pub mod request;
pub mod route;
pub mod splice;
pub mod steering;
pub mod tls;
