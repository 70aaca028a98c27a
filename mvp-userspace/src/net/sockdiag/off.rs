//! Why connections cannot be ended through socket diagnosis here, in words that an operator can act on. The kernel's answer is one
//! number for several reasons; what else the machine shows distinguishes them.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use rustix::thread::{CapabilitySet, capabilities};

use super::SockDiagError;

/// Why connections cannot be retired here.
#[derive(Debug, thiserror::Error)]
pub enum Off {
    /// The operator's: the process lacks the right.
    #[error(
        "not permitted: CAP_NET_ADMIN is missing, in the user namespace to which the network namespace belongs"
    )]
    Capability,
    /// The operator's: the process has the capability, and something else refuses.
    #[error(
        "not permitted although the process has CAP_NET_ADMIN: look for a security module (SELinux: class \
         netlink_tcpdiag_socket, permission nlmsg_write) or a user namespace that does not own the network namespace"
    )]
    Refused,
    /// The kernel's: connections can be listed and not ended.
    #[error("not built: this kernel has no CONFIG_INET_DIAG_DESTROY")]
    DestroyNotBuilt,
    /// The kernel's.
    #[error("not built: this kernel's configuration has no CONFIG_INET_DIAG")]
    NotBuilt,
    /// The node's: nobody has loaded the modules.
    #[error(
        "not loaded: this kernel has inet_diag and tcp_diag as modules. It asks the node's modprobe for them by itself \
         (net-pf-16-proto-4-type-2), and that did not bring them: `modprobe tcp_diag` on the node says why; a file in \
         /etc/modules-load.d with the line tcp_diag loads them at every start"
    )]
    NotLoaded,
    /// The node's: the modules are not there and cannot come.
    #[error(
        "not loaded: this kernel has inet_diag and tcp_diag as modules, and kernel.modules_disabled is 1, so that none can be \
         loaded until the node's next start; a file in /etc/modules-load.d with the line tcp_diag loads them then"
    )]
    NeverLoaded,
    /// The node's, or the kernel's: its configuration cannot be seen from here, as in a container.
    #[error(
        "not there: the kernel has no inet_diag and tcp_diag now. They are modules that are not loaded (`modprobe tcp_diag` on \
         the node loads them), or CONFIG_INET_DIAG is not built; the kernel's configuration, which would tell, is not to be \
         seen from here"
    )]
    NotThere,
    /// The kernel says that it ended a connection, and the connection goes on.
    #[error("it does not work: a connection made for a try survived")]
    Survived,
    /// The try itself went wrong.
    #[error("{0}")]
    Failed(#[from] SockDiagError),
}

impl Off {
    /// A word for a metric's label.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Capability => "capability",
            Self::Refused => "refused",
            Self::DestroyNotBuilt => "destroy_not_built",
            Self::NotBuilt => "not_built",
            Self::NotLoaded | Self::NeverLoaded => "not_loaded",
            Self::NotThere => "not_there",
            Self::Survived => "survived",
            Self::Failed(_) => "failed",
        }
    }

    /// What the kernel's refusal means on this machine.
    pub(super) fn of(error: SockDiagError) -> Self {
        let errno = match &error {
            SockDiagError::System(error) => error.raw_os_error(),
            SockDiagError::Answer(_) => None,
        };
        match errno {
            Some(libc::EPERM | libc::EACCES) if may_net_admin() => Self::Refused,
            Some(libc::EPERM | libc::EACCES) => Self::Capability,
            // `inet_diag_cmd_exact` in the kernel's net/ipv4/inet_diag.c.
            Some(libc::EOPNOTSUPP) => Self::DestroyNotBuilt,
            // No handler for the family (`__sock_diag_cmd`, net/core/sock_diag.c) or for TCP (`inet_diag_lock_handler`), after the kernel
            // has asked modprobe for one.
            Some(libc::ENOENT | libc::EINVAL) => why_absent(&Machine::look()),
            _ => Self::Failed(error),
        }
    }
}

/// What the machine shows about why there is no handler.
#[derive(Debug, Default)]
struct Machine {
    /// The kernel's configuration, wherever it is to be seen.
    config: Option<String>,
    /// A file of the module is there.
    has_file: bool,
    /// `kernel.modules_disabled`.
    modules_disabled: bool,
}

impl Machine {
    fn look() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim();
        let modules = Path::new("/lib/modules").join(release);
        let ipv4 = modules.join("kernel/net/ipv4");
        let disabled = fs::read_to_string("/proc/sys/kernel/modules_disabled");
        Self {
            config: config(release),
            has_file: ["", ".xz", ".gz", ".zst"]
                .iter()
                .any(|packed| ipv4.join(format!("inet_diag.ko{packed}")).exists()),
            modules_disabled: disabled.is_ok_and(|value| value.trim() == "1"),
        }
    }
}

fn why_absent(machine: &Machine) -> Off {
    let built = machine.config.as_deref().and_then(|config| {
        let line = config
            .lines()
            .find_map(|line| line.strip_prefix("CONFIG_INET_DIAG="));
        match line.map(str::trim) {
            Some("m" | "y") => Some(true),
            Some(_) => None,
            // A configuration with networking in it, so that it is a whole one.
            None if config.contains("CONFIG_NET=y") => Some(false),
            None => None,
        }
    });
    match built {
        Some(false) => Off::NotBuilt,
        None if !machine.has_file => Off::NotThere,
        Some(true) | None if machine.modules_disabled => Off::NeverLoaded,
        Some(true) | None => Off::NotLoaded,
    }
}

/// Where distributions put it (Debian and Ubuntu: /boot, Fedora and RHEL: both), and where the kernel itself shows it
/// (CONFIG_IKCONFIG_PROC).
fn config(release: &str) -> Option<String> {
    let files = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ];
    let packed = || {
        let file = fs::File::open("/proc/config.gz").ok()?;
        let mut text = String::new();
        let limit = 8 << 20;
        flate2::read::GzDecoder::new(file)
            .take(limit)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    };
    files
        .iter()
        .find_map(|file| fs::read_to_string(file).ok())
        .or_else(packed)
}

/// Whether this thread has CAP_NET_ADMIN.
fn may_net_admin() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn machine(config: &str) -> Machine {
        Machine {
            config: (!config.is_empty()).then(|| config.to_owned()),
            ..Machine::default()
        }
    }

    #[test]
    fn not_built_not_loaded_and_not_known_are_told_apart() {
        let module = machine("CONFIG_NET=y\nCONFIG_INET_DIAG=m\n");
        assert!(matches!(why_absent(&module), Off::NotLoaded));
        assert!(
            why_absent(&module)
                .to_string()
                .contains("modprobe tcp_diag")
        );
        let closed = Machine {
            modules_disabled: true,
            ..module
        };
        assert!(matches!(why_absent(&closed), Off::NeverLoaded));
        assert_eq!(why_absent(&closed).code(), "not_loaded");
        let none = machine("CONFIG_NET=y\n# CONFIG_INET_DIAG is not set\n");
        assert!(matches!(why_absent(&none), Off::NotBuilt));
        assert!(matches!(why_absent(&machine("")), Off::NotThere));
        assert!(matches!(why_absent(&machine("garbage")), Off::NotThere));
        let file = Machine {
            has_file: true,
            ..Machine::default()
        };
        assert!(matches!(why_absent(&file), Off::NotLoaded));
    }

    #[test]
    fn each_answer_of_the_kernel_has_its_reason() {
        let of = |errno| Off::of(io::Error::from_raw_os_error(errno).into());
        assert!(matches!(of(libc::EOPNOTSUPP), Off::DestroyNotBuilt));
        assert!(matches!(of(libc::EPERM), Off::Capability | Off::Refused));
        assert!(matches!(of(libc::ENOMEM), Off::Failed(_)));
    }
}
