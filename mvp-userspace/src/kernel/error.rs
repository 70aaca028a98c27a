//! Why the kernel part cannot be used, and what to look at.

use std::{error::Error as StdError, io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError, sys::SyscallError};
use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use super::advice;

/// A failure of the kernel part. None of them stops the agent from serving in userspace.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The build's: there is no BPF object in this binary.
    #[error("no BPF object in this build: build it with `cargo xtask build`")]
    NoObject,
    /// The build's: the object was built from other sources than the agent.
    #[error(
        "the BPF object has ABI version {found}, this agent needs {expected}: build both with `cargo xtask build`"
    )]
    Abi {
        /// The object's version.
        found: u32,
        /// The agent's version.
        expected: u32,
    },
    /// The build's: the object lacks a map or program, or cannot be parsed.
    #[error("the BPF object does not fit this agent ({0}): build both with `cargo xtask build`")]
    Object(String),
    /// The operator's: the kernel refuses this process.
    #[error("the kernel refuses {action} ({cause}): {needs}")]
    Permission {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        cause: String,
        /// What the process lacks.
        needs: String,
    },
    /// The machine's, or ours: the kernel does not know something that the programs use, or its verifier refuses them.
    #[error("the kernel does not accept {action} ({cause}): {needs}")]
    Unsupported {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer, with the end of the verifier's log if it gave one.
        cause: String,
        /// What the kernel lacks.
        needs: String,
    },
    /// The operator's: pins need a BPF file system.
    #[error(
        "{} is no folder of a BPF file system ({cause}): mount it (`mount -t bpf -o mode=0700 bpf /sys/fs/bpf`), in a pod as a hostPath \
         volume, and set kernel.pinPath to a folder directly below one that exists", folder.display()
    )]
    NoBpffs {
        /// Where the pin folder would have been made.
        folder: PathBuf,
        /// What is there.
        cause: String,
    },
    /// The operator's: others could squat names in the folder, hold its lock or change what is pinned.
    #[error(
        "{} is not root's alone ({found}): others could take its place or hold its lock. {advice}", path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Its owner and mode, or that it is no folder.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// The operator's: another process changes the pins at this moment.
    #[error("another process holds the lock of {}: is a second agent starting there?", folder.display())]
    Busy {
        /// The locked folder.
        folder: PathBuf,
    },
    /// The operator's: the folder holds something that this agent did not make.
    #[error("{} exists and does not hold the pins of an agent: choose another kernel.pinPath", path.display())]
    NotOurs {
        /// The pin folder.
        path: PathBuf,
    },
    /// The operator's: two nodes share one pin folder.
    #[error(
        "the pins in {} steer another network namespace: give each agent a kernel.pinPath of its own, or remove these \
         pins", path.display()
    )]
    OtherNamespace {
        /// The pin folder.
        path: PathBuf,
    },
    /// Nobody's: there are no pins to read.
    #[error("no pins in {}: no agent with kernel steering has run since the machine's start", path.display())]
    NotPinned {
        /// The pin folder.
        path: PathBuf,
    },
    /// The operator's: the pins are of another release.
    #[error("the pins in {} have ABI version {found}, this program reads {expected}: use the release that made them", path.display())]
    PinnedAbi {
        /// The pin folder.
        path: PathBuf,
        /// The pins' version.
        found: u32,
        /// This program's version.
        expected: u32,
    },
    /// The operator's: more than the maps hold.
    #[error("the kernel part holds at most {limit} {what}")]
    NoRoom {
        /// What there is too much of.
        what: &'static str,
        /// How many there can be.
        limit: usize,
    },
    /// Nobody's: the table was replaced again and again while it was read, or its writer died in a kernel's crash.
    #[error("the pinned route table could not be read whole: try again")]
    Torn,
    /// Nobody's: a newer agent took over, and this one must not write any more.
    #[error("another agent has taken over the kernel part")]
    Replaced,
    /// Any other failure of the system.
    #[error("{action} failed: {cause}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        cause: String,
    },
}

impl Error {
    pub(super) fn load(action: &'static str, error: EbpfError) -> Self {
        match error {
            EbpfError::ParseError(_)
            | EbpfError::RelocationError(_)
            | EbpfError::BtfRelocationError(_) => Self::Object(chain(&error)),
            other => classify(action, &other),
        }
    }

    pub(super) fn program(action: &'static str, error: &ProgramError) -> Self {
        classify(action, error)
    }

    pub(super) fn map(action: &'static str, error: &MapError) -> Self {
        classify(action, error)
    }

    pub(super) fn pin(action: &'static str, error: &PinError) -> Self {
        classify(action, error)
    }

    pub(super) fn syscall(action: &'static str, error: &SyscallError) -> Self {
        classify(action, error)
    }

    pub(super) fn io(action: &'static str, error: &io::Error) -> Self {
        classify(action, error)
    }

    /// The kernel knows no such thing.
    pub(super) fn unsupported(action: &'static str, cause: &str) -> Self {
        Self::Unsupported {
            action,
            cause: cause.to_owned(),
            needs: advice::not_supported(action, cause, None),
        }
    }

    pub(super) fn missing(what: &str) -> Self {
        Self::Object(format!("{what} is missing"))
    }
}

/// Sorts by the errno at the end of the chain of causes. aya reports it at different depths for different calls.
fn classify(action: &'static str, error: &(dyn StdError + 'static)) -> Error {
    let cause = chain(error);
    let errno = errno(error);
    let refuses = |cause| Error::Permission {
        action,
        cause,
        needs: advice::not_permitted(),
    };
    let lacks = |cause: String| Error::Unsupported {
        action,
        needs: advice::not_supported(action, &cause, errno),
        cause,
    };
    match errno {
        // The verifier allows less without CAP_PERFMON (`bpf_allow_uninit_stack` and its like in include/linux/bpf.h).
        Some(libc::EACCES | libc::EPERM) if verifier_refused(error) && !may_perfmon() => {
            refuses(cause)
        }
        // EACCES from BPF_PROG_LOAD with a verifier log is the verifier's refusal, not a missing capability.
        Some(libc::EACCES) if verifier_refused(error) => lacks(cause),
        Some(libc::EPERM | libc::EACCES) => refuses(cause),
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | libc::E2BIG | libc::ENOPROTOOPT) => {
            lacks(cause)
        }
        _ => Error::System { action, cause },
    }
}

fn errno(error: &(dyn StdError + 'static)) -> Option<i32> {
    causes(error)
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)
}

fn verifier_refused(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|e| {
        matches!(e.downcast_ref::<ProgramError>(), Some(ProgramError::LoadError { verifier_log, .. })
            if !verifier_log.to_string().trim().is_empty())
    })
}

/// Whether this thread has CAP_PERFMON or CAP_SYS_ADMIN, which stands for it; true if that cannot be found out.
fn may_perfmon() -> bool {
    let any = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
    capabilities(None).map_or(true, |sets| sets.effective.intersects(any))
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

/// The texts of the error and its causes, without repetitions and without the bulk of a verifier log.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = tail(&cause.to_string());
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// One line, at most its first 200 and last 400 characters: the verifier states the reason at the end.
fn tail(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let count = line.chars().count();
    if count <= 600 {
        return line;
    }
    let head: String = line.chars().take(200).collect();
    let end: String = line.chars().skip(count - 400).collect();
    format!("{head} … {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach_error(errno: i32) -> Error {
        let io_error = io::Error::from_raw_os_error(errno);
        Error::program(
            "attaching",
            &ProgramError::SyscallError(SyscallError {
                call: "bpf_link_create",
                io_error,
            }),
        )
    }

    #[test]
    fn errno_decides_whose_fault_it_is() {
        assert!(matches!(
            attach_error(libc::EPERM),
            Error::Permission { .. }
        ));
        assert!(matches!(
            attach_error(libc::EINVAL),
            Error::Unsupported { .. }
        ));
        assert!(matches!(attach_error(libc::ENOMEM), Error::System { .. }));
        let create = MapError::CreateError {
            name: "COUNTERS".into(),
            io_error: io::Error::from_raw_os_error(libc::EPERM),
        };
        let error = Error::load("loading", EbpfError::MapError(create));
        assert!(matches!(&error, Error::Permission { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("CAP_BPF") && text.contains("COUNTERS"),
            "{text}"
        );
    }

    #[test]
    fn a_verifier_log_is_cut_to_its_ends() {
        let text = tail(&format!("start {} end", "x ".repeat(5000)));
        assert!(text.starts_with("start") && text.ends_with("end") && text.chars().count() < 610);
    }
}
