//! The four laws at the top of `docs/security.md`, a file each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blame;
mod blame_limits;
#[path = "../nodes/common.rs"]
mod common;
mod isolation;
mod isolation_descriptors;
mod isolation_headers;
mod isolation_log;
mod manifest;
mod members;
mod passing;
mod proof;
mod proof_again;
mod proof_guard;
mod state;
