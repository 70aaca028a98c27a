//! Two TCP connections joined into one: in the kernel (sockmap), through pipes (splice(2)), or copied. Whole and opaque
//! connections only; nothing here knows HTTP, TLS or routes.
//!
//! `join` runs a pair to its end; `kernel` is the part of that while sockmap moves the bytes; `pump` moves them in userspace;
//! `flow` decides what flows over a pair, by what `sense` reads; `counts` is the one table of what happened; `selftest` and
//! `calibrate` find out what this machine can do and what pays.

pub mod calibrate;
mod counts;
pub mod flow;
mod join;
mod kernel;
mod plan;
mod pump;
mod rig;
pub mod selftest;
mod sense;
pub mod shortcut;
mod shortcut_part;
mod traffic;

use std::time::Duration;

pub use counts::{Count, Counts};
pub use join::Splicer;
pub use plan::Plan;
pub use shortcut_part::ShortcutPart;
use tokio::net::TcpStream;

/// How bytes are moved between two sockets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mode {
    /// A BPF program moves the bytes, without waking the agent.
    Sockmap,
    /// Through a pipe by splice(2): no copy into userspace.
    Splice,
    /// Read into a buffer, and written.
    Copy,
}

impl Mode {
    /// Every mode, the most desirable first.
    pub const ALL: [Self; 3] = [Self::Sockmap, Self::Splice, Self::Copy];

    /// The name in configuration, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sockmap => "sockmap",
            Self::Splice => "splice",
            Self::Copy => "copy",
        }
    }
}

/// One of the two connections, and what has been read from it already and belongs to the other.
#[derive(Debug)]
pub struct Side {
    /// The connection; it is closed when the pair ends.
    pub stream: TcpStream,
    /// Bytes that come before what is read from the stream; sent to the other side first.
    pub early: Vec<u8>,
}

impl From<TcpStream> for Side {
    fn from(stream: TcpStream) -> Self {
        Self {
            stream,
            early: Vec::new(),
        }
    }
}

/// Bounds of one pair.
#[derive(Clone, Copy, Debug)]
pub struct PairLimits {
    /// Bytes that the kernel may hold for a slow reader beyond its socket's own buffer. With more the pair is taken out of the
    /// kernel, since sockmap has no back-pressure of its own. What can be held at most is this, and what arrives between two
    /// looks: a step of [`mvp_common::SPLICE_STEP`] and the time until the agent runs.
    pub backlog: u64,
    /// A side that has ended, or a pair that is being taken out of the kernel, gives the other side so long without taking a
    /// single byte before both are reset.
    pub stall: Duration,
    /// Without bulk for so long, or a multiple of it ([`flow::LONGEST`]), a pair goes back to the mode for messages.
    pub calm: Duration,
    /// Both directions silent for so long: the moment in which [`Signal::Retire`] ends a pair.
    pub silence: Duration,
}

impl Default for PairLimits {
    fn default() -> Self {
        Self {
            backlog: 4 << 20,
            stall: Duration::from_secs(60),
            calm: Duration::from_secs(1),
            silence: Duration::from_secs(5),
        }
    }
}

/// What the owner of pairs asks of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Signal {
    /// Go on.
    #[default]
    Run,
    /// End when nothing has moved for [`PairLimits::silence`].
    Retire,
    /// End now.
    Stop,
}

/// How a side of a pair ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// It said that it has no more to send, and all of it was passed on.
    Fin,
    /// It broke off (reset, timeout), or took nothing for [`PairLimits::stall`].
    Broken,
    /// The other side broke off, and so this one was reset.
    Reset,
    /// Closed by [`Signal`].
    Stopped,
}

/// Why a pair was not moved, or not to its end, by what was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The kernel part is not loaded.
    Unavailable,
    /// There are as many pairs in the kernel as are allowed.
    Cap,
    /// A side had ended before.
    Ended,
    /// There was never a moment without unread bytes.
    Busy,
    /// The kernel refused the sockets.
    Refused,
    /// Reader too slow: taken out in mid-stream.
    Backlog,
}

/// A pair's whole life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PairOutcome {
    /// Bytes passed on, from the first side and from the second.
    pub bytes: [u64; 2],
    /// How each side ended, in the order of the sides.
    pub ends: [End; 2],
    /// What moved the bytes: `Sockmap` if the kernel did at any time, else what did at the end.
    pub mode: Mode,
    /// Why that was not all that was asked for.
    pub reason: Option<Reason>,
}

impl PairOutcome {
    /// Began in the kernel and ended in userspace.
    pub fn unspliced(&self) -> bool {
        self.mode == Mode::Sockmap && self.reason == Some(Reason::Backlog)
    }
}

#[cfg(test)]
mod tests;
