//! What clients of a control plane see while something fails: a load as client-go makes it, watches that are resumed, and a ledger in which
//! every error has its reason.

mod calls;
mod ledger;
mod report;
mod watcher;

pub use calls::{Front, NAMESPACE, Traffic, prepare};
pub use ledger::{Event, Kind, Ledger, Seen, Wrong};
pub use report::{Line, table};
pub use watcher::{Watched, Watcher, collections, marks, written};
