//! What the agent counts. [`ALL`] is the one list of names, labels and help texts; [`Metrics`] has one method an event.
//!
//! Hot paths call [`Metrics::request`], [`Metrics::added`], [`Metrics::server_time`] and [`Metrics::rerouted`]; they find
//! their counter in a map of their own thread and allocate nothing once it is there. Values that live elsewhere (ages,
//! health, expiry) are read at scrape time: [`Metrics::register_source`].

mod cache;
mod labels;
mod record;
mod source;
mod specs;
#[cfg(test)]
mod tests;
mod totals;
mod zeros;

pub use record::{Metrics, Open};
pub use source::Sink;
pub use specs::*;
pub use totals::RequestKey;
