//! Network namespaces for tests: several nodes on one machine. Needs root.
//!
//! A namespace here has no name in /run/netns: it lives as long as a descriptor of it, so nothing is left behind, not
//! even by a test process that is killed.

use std::{
    fs::File,
    os::fd::AsRawFd,
    process::{Command, id},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with its loopback up. Dropping it frees it, with its interfaces, once nobody runs in it.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes a namespace.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, or without the `ip` command.
    pub fn new() -> Result<Self> {
        // On a thread of its own: a thread cannot give its namespace back.
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET): are you root?")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let namespace = Self {
            file: join(made.join())?,
        };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `work` on a new thread in this namespace and waits for it. Sockets that it makes stay in the namespace
    /// wherever they go; threads and processes that it starts are born in it.
    ///
    /// # Errors
    /// If the thread cannot enter the namespace. A panic in `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let run = scope.spawn(|| -> Result<T> {
                setns(&self.file, CloneFlags::CLONE_NEWNET).context("setns")?;
                Ok(work())
            });
            join(run.join())
        })
    }

    /// Runs `ip` with these arguments in this namespace.
    ///
    /// # Errors
    /// If it cannot be started or fails; with what it printed.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        self.run(|| {
            let output = Command::new("ip")
                .args(args)
                .output()
                .context("ip (Debian package iproute2)")?;
            let text = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "ip {}: {}",
                args.join(" "),
                text.trim()
            );
            Ok(())
        })?
    }

    /// Joins this namespace and `other` by a pair of virtual Ethernet interfaces, both up. An end is its interface's
    /// name and its address with prefix length, for example `("eth0", "10.0.0.1/24")`.
    ///
    /// # Errors
    /// As [`Self::ip`].
    pub fn connect(
        &self,
        (name, address): (&str, &str),
        other: &Self,
        far: (&str, &str),
    ) -> Result<()> {
        // `ip` takes a namespace by path, and a descriptor of this process has one.
        let other_path = format!("/proc/{}/fd/{}", id(), other.file.as_raw_fd());
        self.ip(&[
            "link",
            "add",
            name,
            "type",
            "veth",
            "peer",
            "name",
            far.0,
            "netns",
            &other_path,
        ])?;
        for (namespace, name, address) in [(self, name, address), (other, far.0, far.1)] {
            // Without duplicate address detection an IPv6 address is usable at once.
            let nodad: &[&str] = if address.contains(':') {
                &["nodad"]
            } else {
                &[]
            };
            namespace.ip(&[&["address", "add", address, "dev", name], nodad].concat())?;
            namespace.ip(&["link", "set", name, "up"])?;
        }
        Ok(())
    }
}

/// Whether a test that needs root, and the BPF object if `needs_kernel`, can run here. If not: prints why and returns
/// false.
///
/// # Panics
/// If it cannot run and the environment has CI or MVP_REQUIRE_ALL: there a test that does not run is a failure.
pub fn privileged(test: &str, needs_kernel: bool) -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root".to_owned()
    } else {
        // aya finds out once in a process what the kernel can do. Here the thread still has its capabilities; a test that lays them
        // down on its thread would have it find out nothing, for every test of the process.
        let _ = aya::features();
        match mvp::kernel::availability() {
            why if needs_kernel && !why.is_ready() => why.to_string(),
            _ => return true,
        }
    };
    let required = ["CI", "MVP_REQUIRE_ALL"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
    assert!(
        !required,
        "{test} cannot run, and CI or MVP_REQUIRE_ALL is set: {reason}"
    );
    println!("skipped: {test}: {reason}");
    false
}

/// A thread's result, or its panic.
fn join<T>(result: thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
