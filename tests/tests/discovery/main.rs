//! What the agent learns of servers, and what it makes of it, against small servers with faults and real documents.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod decode;
mod decode_generated;
mod events;
mod fake;
mod golden;
mod membership;
mod openapi;
mod poller;
mod proving;
mod readiness;
mod refresh;
