//! Two connections joined, in every mode, through a real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod changes;
mod common;
mod ends;
mod modes;
mod ways;
