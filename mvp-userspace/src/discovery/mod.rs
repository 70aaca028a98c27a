//! What every server can serve: one poller a server, last known good, age.

mod apiset;

pub use apiset::{ApiEntry, ApiSet};
