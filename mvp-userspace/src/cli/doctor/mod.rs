//! `mvp doctor`: what works on this node, for this process. It examines the kernel part by doing what the agent would do, and,
//! with a configuration, certificates and servers. It needs no agent, and removes whatever it makes.

mod cluster;

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Config, Mode};
use crate::kernel::{self, Splice};
use crate::net::SockDiag;
use crate::splice::selftest;
use crate::splice::shortcut::{cgroup_mount, cgroup_root, try_out};
use crate::text::table::{clean, table};

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct DoctorLine {
    /// What was looked at.
    pub subject: &'static str,
    pub outcome: Outcome,
    /// What was found, or what to do.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Ok,
    /// Not there; what depends on it is off, all else works.
    Off,
    /// Steering cannot work here.
    Failed,
}

/// Capabilities with their numbers (`include/uapi/linux/capability.h`) and what needs them.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (
        10,
        "CAP_NET_BIND_SERVICE",
        "source ports below 1024 (kernel.peerPorts)",
    ),
    (
        12,
        "CAP_NET_ADMIN",
        "steering, and retiring connections of before",
    ),
    (38, "CAP_PERFMON", "steering"),
    (39, "CAP_BPF", "steering"),
];

/// The settings of the kernel part, as the agent would have them.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub pin_path: PathBuf,
    pub steering: Mode,
    pub own_source: Ipv4Addr,
    pub peer_ports: RangeInclusive<u16>,
}

impl Node {
    /// The defaults of the configuration, with the pins in this folder.
    pub(super) fn by_default(pin_path: PathBuf) -> Self {
        Self {
            pin_path,
            steering: Mode::Auto,
            own_source: Ipv4Addr::new(127, 66, 0, 1),
            peer_ports: 700..=999,
        }
    }
}

impl From<&Config> for Node {
    fn from(config: &Config) -> Self {
        let kernel = &config.kernel;
        Self {
            pin_path: kernel.pin_path.clone(),
            steering: kernel.steering,
            own_source: kernel.own_source,
            peer_ports: kernel.peer_ports.clone(),
        }
    }
}

/// All lines. Without a configuration only the kernel part is examined.
pub(super) fn examine(node: &Node, config: Option<&Config>) -> Vec<DoctorLine> {
    let mut found = kernel_part(node);
    match config {
        Some(config) => found.extend(cluster::examine(config)),
        None => {
            let how = "not looked at: --config or --from-manifest says which they are";
            let result = Err(how.to_owned());
            found.push(finding("certificates and servers", result, Outcome::Off));
        }
    }
    found
}

/// A part that does not work fails if the agent is to steer, and otherwise counts as off.
fn kernel_part(node: &Node) -> Vec<DoctorLine> {
    if node.steering == Mode::Off {
        let off = Err("kernel.steering is off".to_owned());
        let mut found = vec![finding("steering", off, Outcome::Off)];
        found.extend(splice());
        return found;
    }
    let pins = node.pin_path.as_path();
    let mut found = vec![
        finding("BPF object", object(), Outcome::Failed),
        finding("kernel", available(), Outcome::Failed),
    ];
    let effective = effective_capabilities();
    for (bit, name, needed_for) in CAPABILITIES {
        let there = effective & (1 << bit) != 0;
        let result = if there {
            Ok(String::new())
        } else {
            Err(format!("missing; needed for {needed_for}"))
        };
        found.push(finding(name, result, Outcome::Failed));
    }
    found.push(finding("BPF file system", bpffs(pins), Outcome::Failed));
    found.push(finding("pinning", pinning(pins), Outcome::Failed));
    found.push(finding("pins", pinned(pins), Outcome::Off));
    found.push(finding(
        "other sk_lookup programs",
        other_programs(pins),
        Outcome::Off,
    ));
    let own = own_source(node.own_source);
    found.push(finding("own source", own, Outcome::Failed));
    let ports = peer_port(node.peer_ports.clone());
    found.push(finding("peers' source ports", ports, Outcome::Failed));
    found.push(finding("retiring connections", sockdiag(), Outcome::Off));
    found.push(finding("cgroup2", cgroup2(), Outcome::Off));
    found.extend(splice());
    found.push(finding(
        "short-cut",
        short_cut(node.own_source),
        Outcome::Off,
    ));
    found
}

pub(super) fn text(findings: &[DoctorLine]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let outcome = match finding.outcome {
                Outcome::Ok => "ok",
                Outcome::Off => "off",
                Outcome::Failed => "failed",
            };
            [
                finding.subject.to_owned(),
                outcome.to_owned(),
                clean(&finding.detail),
            ]
        })
        .collect();
    table(["SUBJECT", "STATE", "DETAIL"], &rows)
}

fn finding(subject: &'static str, result: Result<String, String>, bad: Outcome) -> DoctorLine {
    let (outcome, detail) = match result {
        Ok(detail) => (Outcome::Ok, detail),
        Err(detail) => (bad, detail),
    };
    DoctorLine {
        subject,
        outcome,
        detail,
    }
}

fn object() -> Result<String, String> {
    match kernel::object() {
        Some(object) => Ok(format!("{} KiB in this binary", object.len() / 1024)),
        None => Err(kernel::Error::NoObject.to_string()),
    }
}

fn available() -> Result<String, String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match kernel::availability() {
        kernel::Availability::Ready => Ok(format!(
            "Linux {}, sk_lookup; the oldest supported is {}",
            release.trim(),
            kernel::OLDEST_KERNEL
        )),
        kernel::Availability::UserspaceOnly(why) => Err(why.to_string()),
    }
}

/// `CapEff` of `/proc/self/status` (proc(5)).
fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn bpffs(pins: &Path) -> Result<String, String> {
    let folder = pins.parent().unwrap_or(pins);
    match kernel::is_bpffs(folder) {
        Ok(true) => Ok(folder.display().to_string()),
        Ok(false) => Err(format!(
            "{} is none: mount -t bpf -o mode=0700 bpf /sys/fs/bpf, in a pod as a hostPath volume",
            folder.display()
        )),
        Err(error) => Err(format!("{}: {error}", folder.display())),
    }
}

/// The one test that a security module cannot be asked about: it denies when it is done.
fn pinning(pins: &Path) -> Result<String, String> {
    match kernel::try_pins(pins) {
        Ok(()) => Ok(
            "a program, its maps and its link were pinned, attached, written to and removed"
                .to_owned(),
        ),
        Err(error) => Err(format!(
            "{error}; if the capabilities are there, a security module denies it: in a pod set appArmorProfile Unconfined (AppArmor's \
             default profile denies writing below /sys/fs/bpf) or the SELinux type spc_t"
        )),
    }
}

fn pinned(pins: &Path) -> Result<String, String> {
    let view = kernel::read_pinned(pins).map_err(|error| error.to_string())?;
    let guard = if view.guard.armed { "armed" } else { "idle" };
    let agent = if view.guard.alive {
        "an agent is alive"
    } else {
        "no agent is alive"
    };
    Ok(format!("{guard}, {agent}"))
}

fn other_programs(pins: &Path) -> Result<String, String> {
    let others = kernel::other_lookup_programs(pins).map_err(|error| error.to_string())?;
    if others.is_empty() {
        return Ok("none in this network namespace".to_owned());
    }
    Err(format!(
        "{}: all run, and what they choose first stays with them",
        others.join(", ")
    ))
}

fn own_source(own: Ipv4Addr) -> Result<String, String> {
    TcpListener::bind((own, 0))
        .map(|_| own.to_string())
        .map_err(|error| format!("{own}: {error}"))
}

fn peer_port(ports: RangeInclusive<u16>) -> Result<String, String> {
    let port = *ports.start();
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Ok(String::new()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(String::new()),
        Err(error) => Err(format!("port {port}: {error}")),
    }
}

fn sockdiag() -> Result<String, String> {
    let mut diag = SockDiag::open().map_err(|error| error.to_string())?;
    diag.available()
        .map(|()| String::new())
        .map_err(|off| off.to_string())
}

fn cgroup2() -> Result<String, String> {
    let mount = cgroup_mount().map_err(|error| error.to_string())?;
    mount.ok_or_else(|| "not mounted: the short-cut to the local server is off".to_owned())
}

/// The trial of `kernel.shortcut: auto`.
fn short_cut(own: Ipv4Addr) -> Result<String, String> {
    let cgroup = cgroup_root().map_err(|error| error.to_string())?;
    let trial = try_out(own, &cgroup).map_err(|error| error.to_string())?;
    match trial.helps() {
        true => Ok(trial.to_string()),
        false => Err(format!("it works and does not help: {trial}")),
    }
}

fn splice() -> Vec<DoctorLine> {
    let off = |why: String| vec![finding("splice", Err(why), Outcome::Off)];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return off(error.to_string()),
    };
    let splice = match Splice::load() {
        Ok(splice) => splice,
        Err(error) => return off(error.to_string()),
    };
    let report = runtime.block_on(selftest::run(&splice));
    let cases = report.cases.into_iter();
    cases
        .map(|(case, result)| {
            let result = result.map(|()| case.name().to_owned());
            let result = result.map_err(|why| format!("{}: {why}", case.name()));
            finding("splice", result, Outcome::Off)
        })
        .collect()
}
