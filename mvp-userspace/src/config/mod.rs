//! The configuration: one tree of plain types, read from YAML or from kube-apiserver's own manifest.
//!
//! ```text
//! YAML ─────> Tree ─┐
//! manifest ─> Tree ─┴─ overrides ─> build (types, ranges) ─> rules (pure) ─> own (addresses of this node) ─> Config
//! ```
//! [`KEYS`] is the one list of keys: what may be written, its type, range, default and meaning.

mod build;
mod effective;
mod error;
mod follow;
mod keys;
mod load;
mod manifest;
mod overrides;
mod own;
mod references;
mod rules;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;
mod words;

pub use error::ConfigError;
pub use follow::{Effect, FOLLOWED, FollowedKeys, ManifestSource, changes, followed_table};
pub use keys::{ConfigKey, KEYS, Need, ValueType, markdown_table};
pub use load::{Read, goaway_chance, parse, read_file, read_manifest};
pub use overrides::{Overrides, parse_feature_gates};
pub use tree::Tree;
pub use types::*;
pub use value::duration as parse_duration;
pub(crate) use value::is_name;
pub(crate) use words::kubeconfig as kubeconfig_problem;
