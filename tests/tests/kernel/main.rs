//! The BPF programs and their maps in a real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod doctor;
mod lookup;
mod pins;
mod retire;
mod shortcut;
mod state;
mod steer;
