//! What is installed, and how it is configured: every configuration that must be refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod broken;
mod broken_cases;
