//! Connections forwarded whole, over real TLS with simulated servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod log;
mod refused;
mod retired;
mod splice;
mod whole;
