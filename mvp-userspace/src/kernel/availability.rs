//! What the kernel part can do in this build, on this machine, for this process.

use std::fmt;

use aya::{programs::ProgramType, sys::is_program_supported};

/// The answer of [`availability`]; its `Display` is the line that the agent logs at start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Availability {
    /// The object is there, and this process may load `sk_lookup` programs into this kernel.
    Ready,
    /// Userspace only: the binary was built without a BPF object.
    NoObject,
    /// Userspace only: the kernel has no `sk_lookup` (before Linux 5.9), or this process lacks CAP_BPF and CAP_NET_ADMIN.
    Refused,
    /// Userspace only: asking the kernel failed in another way.
    Unknown(String),
}

impl Availability {
    /// Whether [`super::Programs::load`] can be expected to work.
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("sk_lookup ready"),
            Self::NoObject => f.write_str("userspace only: no BPF object in this build"),
            Self::Refused => f.write_str(
                "userspace only: the kernel refuses sk_lookup programs (needs Linux 5.9, CAP_BPF and CAP_NET_ADMIN)",
            ),
            Self::Unknown(cause) => write!(f, "userspace only: asking the kernel for sk_lookup failed: {cause}"),
        }
    }
}

/// Asks by loading a two-instruction `sk_lookup` program and closing it again; attaches nothing.
pub fn availability() -> Availability {
    if super::object().is_none() {
        return Availability::NoObject;
    }
    match is_program_supported(ProgramType::SkLookup) {
        Ok(true) => Availability::Ready,
        Ok(false) => Availability::Refused,
        Err(error) => Availability::Unknown(error.to_string()),
    }
}
