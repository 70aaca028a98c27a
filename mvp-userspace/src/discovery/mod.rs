//! What every server can serve: one poller a server, last known good, age.

mod apiset;
mod changes;
mod connection;
mod decode;
mod dropped;
mod encoding;
mod entry;
mod events;
mod fetch_error;
mod follow;
mod handle;
mod hub;
mod json;
mod kept_openapi;
mod legacy;
mod limits;
mod merged;
mod openapi;
mod poller;
mod priorities;
mod prove;
mod readiness;
mod roots;
mod server_status;
mod version;
pub mod view;

pub use apiset::{ApiEntry, ApiSet};
pub use connection::{Connection, Dialer, USER_AGENT, authority, read_bounded};
pub use decode::{Root, aggregated};
pub use encoding::{Encoding, Form, GZIP_ABOVE, Media, encode, encode_root, gzip};
pub use events::{EventState, EventTimes, EventsStatus, Followed};
pub use fetch_error::FetchError;
pub use handle::{Discovery, DiscoveryHandle};
pub use hub::{Refreshed, Settings, SyncCounters};
pub use legacy::{group_versions, resources};
pub use limits::{
    DecodeError, Decoded, GroupVersion, MAX_ENTRIES, MAX_GROUPS, MAX_NAME, MAX_VERBS, MAX_VERSIONS,
    is_path_segment,
};
pub use merged::{Merged, RootView, View};
pub use openapi::{
    MAX_INDEX, MAX_PATHS, OPENAPI_V3, OpenApiIndex, OtherIndex, ServerOpenApi, find, merge_indexes,
};
pub use priorities::{ApiService, ApiServices};
pub use prove::Prover;
pub use roots::{ACCEPT, Source};
pub use server_status::{Polls, ServerStatus, Trouble};
pub use version::{GitVersion, newest};
#[cfg(any(test, feature = "fuzzing"))]
pub use view::fuzz_merge;

/// Gives `data` to every decoder, as the fuzz target does. Must neither panic nor keep more than the limits allow.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_decode(data: &[u8]) {
    for root in [Root::Core, Root::Groups] {
        if let Ok(decoded) = aggregated(data, root) {
            assert!(decoded.entries.len() <= MAX_ENTRIES);
            let set = ApiSet::new(decoded.entries);
            assert!(
                set.entries()
                    .iter()
                    .all(|e| root.holds(&e.group) && is_path_segment(&e.resource))
            );
        }
        if let Ok(listed) = group_versions(data, root) {
            assert!(listed.iter().all(|gv| is_path_segment(&gv.version)));
        }
    }
    for (group, version) in [("", "v1"), ("apps", "v1")] {
        let gv = GroupVersion {
            group: group.into(),
            version: version.into(),
        };
        if let Ok(decoded) = resources(data, &gv) {
            assert!(decoded.entries.iter().all(|e| *e.version == *version));
        }
    }
    if let Ok(index) = OpenApiIndex::read(data) {
        assert!(index.len() <= MAX_PATHS);
        let urls = index.paths().map(|(_, url)| url);
        assert!(urls.into_iter().all(|url| url.starts_with("/openapi/v3/")));
    }
    for services in [false, true] {
        let _ = changes::Page::read(data, services);
        let _ = changes::Change::read(data, services);
    }
}
