//! A rolling upgrade under clients of every kind that connected while the guard was idle, and what they saw of it.
//!
//!
//! file | does |
//! |---|---|
//!
//! `kind` | names the kinds of clients |
//!
//! `tally` | counts what each kind saw |
//!
//! `caller` | one client as client-go makes it: sends, classifies, remembers what discovery said |
//!
//! `clients` | what clients of each kind do |
//!
//! `watcher` | watches that are resumed |
//!
//! `direct` | counts the connections that clients have with the servers themselves |
//!
//! `balancer` | a TCP load balancer on a node of its own |
//!
//! `controllers` | test doubles of namespace deletion and garbage collection |
//!
//! `rolling` | upgrades the servers, one after another |
//!
//! `outcome` | what is reported of it, and what must hold |

mod balancer;
pub(crate) mod caller;
mod clients;
mod controllers;
mod direct;
mod kind;
mod outcome;
mod rolling;
mod tally;
mod watcher;

pub use balancer::Balancer;
pub use caller::Caller;
pub use controllers::{Found, run as run_controllers};
pub use direct::Direct;
pub use kind::Kind;
pub use outcome::{Outcome, Seconds};
pub use rolling::{Settings, agents, lingering, run, until_known, upgrade_node};
pub use tally::{News, Seen, Tally};
