//! Which connections are forwarded whole: who asks often enough, what must hold, and when it ends. Pure; time is passed in.
//!
//! ```text
//! forwarded request ─> hot (who, how often) ─┐
//! ClientHello ───────────────────────────────┼─> permit: relay to a server, or inspect and why
//! route table, probes, counts ───────────────┘        later: retire, once a condition ceases
//! ```

mod about;
mod explain;
mod hot;
mod permit;
mod retire;

pub use about::AboutThisServer;
pub use explain::explain;
pub use hot::{HotClient, HotSettings, HotTable, MAX_CLIENTS};
pub use permit::{
    ClientHelloFacts, InspectReason, ProbeFacts, RelayConditions, RelayDecision, decide, impossible,
};
pub use retire::{GRACE, RelayFate, RelayedFacts, RetireReason, SILENCE, lost_key, retire};

#[cfg(test)]
mod testing;
