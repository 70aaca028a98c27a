//! The kernel side of the agent: the only user of aya. Loads the BPF object that was built into the binary, attaches
//! its programs, reads their counters and forwards their log.
//!
//! Everything here is optional. Without an object, capabilities or a new enough kernel the agent runs in userspace
//! only, and [`availability`] says why.
//!
//! Steering, from start to stop:
//!
//! ```no_run
//! use std::{net::TcpListener, os::fd::AsFd, path::Path};
//! use mvp::kernel::{LocalSource, Reason, Steering, Targets, room};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("[::]:0")?;
//! let mut steering = Steering::install(Path::new("/sys/fs/bpf/mvp"))?;
//! println!("{}", steering.start());
//! steering.configure(&Targets {
//!     ports: vec![6443],
//!     own_sources: vec!["127.66.0.1".parse()?],
//!     local_sources: vec![LocalSource::address("127.0.0.1".parse()?)],
//!     peers: vec!["10.0.0.3".parse()?],
//!     peer_ports: 700..=799,
//! })?;
//! steering.set_listeners(&[listener.as_fd()])?;
//!
//! // Every 100 ms, by who knows that connections are accepted and served:
//! let mut heartbeat = steering.take_heartbeat().ok_or("taken")?;
//! heartbeat.beat(room(&[listener.as_fd()])?)?;
//!
//! // When servers differ, and when they are equal again or the agent stops:
//! steering.arm(Reason::VersionsDiffer)?;
//! steering.disarm(Reason::Settled)?;
//! # Ok(())
//! # }
//! ```

mod advice;
mod availability;
mod counters;
mod error;
mod guard;
mod listener;
mod local;
mod log;
mod look;
mod maps;
mod memory;
mod pins;
mod programs;
mod routes;
mod shared;
mod shortcut;
mod splice;
mod steering;
mod sys;
mod trial;
mod view;

pub use availability::{Availability, availability};
pub use counters::Counters;
pub use error::Error;
pub use guard::{Heartbeat, PinnedGuard};
pub use listener::{queued, room};
pub use local::{LocalSource, steers_while_idle};
pub use log::{LogForwarder, TARGET as LOG_TARGET};
pub use look::{is_bpffs, other_lookup_programs};
pub use memory::{Resident, give_back, map_large_blocks};
pub use mvp_common::Reason;
pub use programs::Programs;
pub use routes::{RouteWriter, Written};
pub use shortcut::Shortcut;
pub use splice::{JoinError, Joined, Splice};
pub use steering::{
    EXEMPT_MAX, PORTS_MAX, RunTime, Start, Steering, Targets, enable_run_time, run_time, uninstall,
};
pub use trial::try_pins;
pub use view::{PinnedRoute, PinnedServer, PinnedTable, PinnedView, read_pinned};

/// The oldest kernel on which everything that steering needs was tested. Nothing is decided by it: it is for messages and documentation.
pub const OLDEST_KERNEL: &str = "5.10";

/// The BPF object in this build (ELF, little endian), or `None` if the agent was built without one.
pub fn object() -> Option<&'static [u8]> {
    (!OBJECT.is_empty()).then_some(OBJECT)
}

/// Written by the build script; empty without an object.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mvp.o"));

#[cfg(test)]
mod tests {
    #[test]
    fn every_page_names_the_same_oldest_kernel() {
        let oldest = super::OLDEST_KERNEL;
        for (page, words) in [
            (
                include_str!("../../../README.md"),
                format!("root on Linux {oldest} or newer"),
            ),
            (
                include_str!("../../../docs/development.md"),
                format!("Linux {oldest} or newer"),
            ),
            (
                include_str!("../../../docs/kernel.md"),
                format!("The oldest supported kernel is Linux {oldest}."),
            ),
        ] {
            assert!(page.contains(&words), "{words}");
            assert!(!page.contains("Linux 5.9 or later"));
        }
    }
}
