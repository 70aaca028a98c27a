//! Where a request goes. Decisions are pure; the table is an immutable snapshot.

mod choose;
mod decide;
mod departure;
mod explain;
mod health;
mod newer;
mod plan;
mod reason;
pub mod relay;
mod server;
mod set;
mod table;
mod tried;
mod unknown;

pub use decide::Context;
pub use departure::{Departure, Departures};
pub use explain::explain;
pub use health::{Failure, HealthState, HealthView, ReadyzOutcome};
pub use newer::newer;
pub use plan::{Plan, plan};
pub use reason::Reason;
pub use server::{Release, Server};
pub use set::ServerSet;
pub use table::{Entry, Knowledge, MAX_SERVERS, Member, RouteTable};
pub use tried::Tried;
pub use unknown::{UnknownVerdict, verdict_unknown};

#[cfg(test)]
pub(crate) mod testing;
