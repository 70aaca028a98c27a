//! The four laws at the top of `docs/security.md`, a file each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blame;
mod manifest;
mod members;
mod proof;
mod state;
