//! The four laws at the top of `docs/security.md`, a file each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blame;
#[path = "../nodes/common/mod.rs"]
mod common;
mod members;
mod passing;
mod proof;
mod state;
