//! What an API is called: group, version, resource, subresource, verbs, and the version of a server. Pure, and used by everybody.

mod git_version;
mod group_version;
mod key;
mod name;
pub mod published;
mod set;
mod verb;

pub use git_version::GitVersion;
pub use group_version::GroupVersion;
pub use key::Key;
pub use name::{MAX_NAME, is_path_segment};
pub use set::{ApiEntry, ApiSet};
pub use verb::{Verb, VerbSet};
