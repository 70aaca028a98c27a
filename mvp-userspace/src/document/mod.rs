//! Discovery as clients see it: one server's document, the merge of several, and every form it is written in. Pure: no clock,
//! no I/O, no state.
//!
//! `types` says what a document is, `read` takes it out of JSON, and routing takes its keys from it. `merge` unites those of several servers in the order that
//! `order` and `priority` define, `legacy` is the same in the unaggregated shapes, and `encode` and `protobuf` write all of it.

mod encode;
mod encoding;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod json;
mod legacy;
mod legacy_json;
#[cfg(test)]
mod legacy_tests;
mod limits;
mod listed;
mod merge;
#[cfg(test)]
mod merge_tests;
mod order;
mod priority;
mod protobuf;
mod read;
#[cfg(test)]
mod read_tests;
mod root;
#[cfg(test)]
mod testing;
mod types;
mod wire;

pub use encode::{
    AggregatedVersion, Layout, aggregated_json, aggregated_yaml, etag, to_json, to_yaml,
};
pub use encoding::{DiscoveryForm, Encoding, Form, GZIP_ABOVE, Media, encode, encode_root, gzip};
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_merge;
pub(crate) use json::text;
pub use legacy::{
    ApiGroup, ApiGroupList, ApiResource, ApiResourceList, ApiVersions, GroupVersionForDiscovery,
    ServerAddress, api_group, api_group_list, api_resource_list, merge_resource_list,
};
pub use limits::{DecodeError, MAX_ENTRIES, MAX_GROUPS, MAX_NAME_BYTES, MAX_VERBS, MAX_VERSIONS};
pub use listed::group_versions;
pub use merge::{Input, merge};
pub use priority::{Priorities, compare_versions};
pub use protobuf::aggregated_protobuf;
pub use read::Decoded;
pub use root::Root;
pub use types::{
    Document, Freshness, Group, GroupVersionKind, Resource, Scope, Subresource, Text, Version,
};
