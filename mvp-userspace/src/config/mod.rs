//! The configuration: one tree of plain types, read from YAML or from kube-apiserver's own manifest.
//!
//! ```text
//! YAML ─────> Tree ─┐
//! manifest ─> Tree ─┴─ overrides ─> build (types, ranges) ─> check::rules (pure) ─> check::files ─> Config
//! ```
//! [`KEYS`] is the one list of keys: what may be written, its type, range, default and meaning.

mod build;
mod check;
mod effective;
mod error;
mod follow;
mod keys;
mod load;
mod manifest;
#[cfg(test)]
mod node_tests;
mod overrides;
mod own;
mod references;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;
mod words;

pub use error::ConfigError;
pub use follow::{Effect, FOLLOWED, Followed, ManifestSource, changes, followed_table};
pub use keys::{KEYS, Key, Kind, Need, markdown_table};
pub use load::{
    effective_file, effective_manifest, from_file, from_manifest, goaway_chance, parse,
};
pub use overrides::{Overrides, parse_feature_gates};
pub use types::*;
pub use value::duration as parse_duration;
pub(crate) use value::is_name;
