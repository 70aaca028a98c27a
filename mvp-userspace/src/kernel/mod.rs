//! The kernel side of the agent: the only user of aya. Loads the BPF object that was built into the binary, attaches
//! its programs, reads their counters and forwards their log.
//!
//! Everything here is optional. Without an object, capabilities or a new enough kernel the agent runs in userspace
//! only, and [`availability`] says why.

mod availability;
mod counters;
mod error;
mod log;
mod programs;
mod shortcut;
mod splice;

pub use availability::{Availability, availability};
pub use counters::Counters;
pub use error::Error;
pub use log::{LogForwarder, TARGET as LOG_TARGET};
pub use programs::Programs;
pub use shortcut::Shortcut;
pub use splice::{Joined, Splice};

/// The BPF object in this build (ELF, little endian), or `None` if the agent was built without one.
pub fn object() -> Option<&'static [u8]> {
    (!OBJECT.is_empty()).then_some(OBJECT)
}

/// Written by the build script; empty without an object.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mvp.o"));
