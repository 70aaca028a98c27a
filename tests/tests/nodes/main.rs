//! Agents with kernel steering on real nodes: network namespaces with servers, agents and clients as processes of their own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent;
mod change;
mod common;
mod controllers;
mod ipv6;
mod knocking;
mod life;
mod rolling;
mod shortcut;
mod signs;
mod state;
mod upgrade;
mod versions;
