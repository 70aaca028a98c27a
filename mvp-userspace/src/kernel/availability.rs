//! What the kernel part can do in this build, on this machine, for this process.

use std::fmt;

use aya::{programs::ProgramType, sys::is_program_supported};

use super::Error;

/// The answer of [`availability`]; its `Display` is the line that the agent logs at start.
#[derive(Debug)]
pub enum Availability {
    /// The object is there, and this process may load `sk_lookup` programs into this kernel.
    Ready,
    /// The agent works without the kernel part, for this reason.
    UserspaceOnly(Error),
}

impl Availability {
    /// Whether [`super::Programs::load`] can be expected to work.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("sk_lookup ready"),
            Self::UserspaceOnly(reason) => write!(f, "userspace only: {reason}"),
        }
    }
}

/// Asks by loading a two-instruction `sk_lookup` program and closing it again; attaches nothing.
pub fn availability() -> Availability {
    const ACTION: &str = "a sk_lookup program";
    let reason = match (super::object(), is_program_supported(ProgramType::SkLookup)) {
        (None, _) => Error::NoObject,
        (Some(_), Ok(true)) => return Availability::Ready,
        (Some(_), Ok(false)) => Error::unsupported(ACTION, "unknown program type"),
        (Some(_), Err(error)) => Error::program(ACTION, &error),
    };
    Availability::UserspaceOnly(reason)
}
