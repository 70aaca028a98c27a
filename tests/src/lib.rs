//! A simulated Kubernetes control plane, and what the end-to-end tests, the benchmarks and the demo share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod agent;
pub mod bench;
pub mod bpffs;
pub mod browser;
pub mod chaos;
pub mod child;
pub mod client;
pub mod crowd;
pub mod cutter;
pub mod demo;
pub mod facts;
pub mod fixtures;
pub mod fleet;
pub mod helm;
pub mod javascript;
pub mod kubectl;
pub mod load;
pub mod netns;
pub mod nodes;
pub mod openssl;
pub mod operator;
pub mod pair;
pub mod pairs;
pub mod ports;
pub mod proving;
pub mod python;
pub mod raw;
pub mod raw_bpf;
pub mod rbac;
pub mod scrape;
pub mod script;
pub mod scripted;
pub mod sim;
pub mod tunnel;
pub mod upgrade;
