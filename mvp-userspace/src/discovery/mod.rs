//! What every server can serve: one poller per server, what it last reported, and how old that is.

mod changes;
mod connection;
mod dropped;
mod entry;
mod events;
mod fetch_error;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod handle;
mod hub;
mod kept_openapi;
mod merged;
mod newest;
mod openapi;
mod poller;
mod priorities;
mod prove;
mod published;
mod reached;
mod readiness;
mod roots;
mod server_status;
#[cfg(test)]
pub(crate) mod testing;

pub use connection::{Dialer, DiscoveryConnection, USER_AGENT, authority, read_bounded};
pub use events::{EventState, EventTimes, EventsStatus, FollowedType};
pub use fetch_error::FetchError;
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_decode;
pub use handle::{Discovery, DiscoveryHandle};
pub use hub::{HubSettings, Refreshed, SyncCounters};
pub use merged::{Merged, OwnDocument, RootView, View};
pub use newest::newest;
pub use openapi::{
    MAX_INDEX, MAX_PATHS, OPENAPI_V3, OpenApiIndex, OtherIndex, ServerOpenApi, find, merge_indexes,
};
pub use priorities::{ApiService, ApiServices};
pub use prove::{Prover, review};
pub use published::{ByServer, PublishedTypes};
pub use reached::Reached;
pub use roots::ACCEPT;
pub use server_status::{PollTrouble, Polls, ServerStatus};
