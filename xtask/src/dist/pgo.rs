//! `cargo xtask dist --pgo`: the agent is built twice. The first build counts which way its code goes while the forwarding benchmark's own
//! load runs through it; the second is laid out and inlined by those counts (rustc's book, "Profile-guided Optimization").
//!
//! The counts differ from run to run, so such an archive is not the same byte for byte from the same commit.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    bench,
    run::{cargo, find, output, root, run, run_within, say},
};

/// How long a process of the training run may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections, streams on each, seconds, path ("" is the benchmark's object): the two loads of `bench forward`, and discovery.
const LOADS: [(u32, u32, u32, &str); 3] = [(1, 1, 4, ""), (16, 4, 10, ""), (4, 2, 2, "/version")];

/// The agent, built by what a training run on this machine counted. `target` is this machine's triple.
pub(super) fn build(profile: &str, target: &str) -> Result<PathBuf> {
    let merge = profdata()?;
    let folder = root().join("target/pgo");
    let counts = folder.join("counts");
    if counts.exists() {
        fs::remove_dir_all(&counts).with_context(|| counts.display().to_string())?;
    }
    fs::create_dir_all(&counts).with_context(|| counts.display().to_string())?;

    let generate = format!("-Cprofile-generate={}", counts.display());
    let counting = agent(&folder, profile, target, &generate)?;
    bench::build()?;
    train(&counting, &folder.join("training"))?;

    let merged = folder.join("merged.profdata");
    run(Command::new(merge)
        .args(["merge", "--output"])
        .args([&merged, &counts]))?;
    agent(
        &folder,
        profile,
        target,
        &format!("-Cprofile-use={}", merged.display()),
    )
}

/// Builds the agent with a flag of rustc's. The target is named so that the flag is for the agent alone, and not for build scripts and
/// macros as well.
fn agent(folder: &Path, profile: &str, target: &str, flag: &str) -> Result<PathBuf> {
    let mut build = cargo("build");
    build.args(["--profile", profile, "--bin", "mvp", "--target", target]);
    build.arg("--target-dir").arg(folder).env("RUSTFLAGS", flag);
    run(&mut build)?;
    let profile = if profile == "dev" { "debug" } else { profile };
    Ok(folder.join(target).join(profile).join("mvp"))
}

/// Load through the agent that counts. It is ended as an operator ends it, since it writes its counts when it exits.
fn train(agent: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let bench = bench::binary();
    let config = dir.join("bench-local.yaml");
    // From an earlier run: its ports are another's by now.
    if config.exists() {
        fs::remove_file(&config).with_context(|| config.display().to_string())?;
    }
    let _upstream = Running::start(
        Command::new(&bench)
            .args(["upstream", "--dir"])
            .arg(dir)
            .stdout(Stdio::null()),
    )?;
    wait("the upstream has written the agent's configuration", || {
        address(&config).is_ok()
    })?;
    let address = address(&config)?;
    let mut training = Running::start(
        Command::new(agent)
            .args(["agent", "--log-level", "warn", "--config"])
            .arg(&config),
    )?;
    wait("the agent listens", || TcpStream::connect(&address).is_ok())?;
    for (connections, streams, seconds, path) in LOADS {
        let mut load = Command::new(&bench);
        load.arg("load").arg("--ca").arg(dir.join("ca.crt"));
        for (flag, value) in [
            ("--connections", connections),
            ("--streams", streams),
            ("--seconds", seconds),
        ] {
            load.args([flag, &value.to_string()]);
        }
        run_within(load.arg(format!("https://{address}{path}")), 2 * PATIENCE)?;
    }
    training.end()
}

/// Where the agent listens, by its configuration, which is JSON here.
fn address(config: &Path) -> Result<String> {
    let config: Value = serde_json::from_slice(&fs::read(config)?)?;
    let listen = config["listen"].as_str().context("no listen address")?;
    Ok(listen.to_owned())
}

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        ensure!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            PATIENCE.as_secs()
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// SIGTERM, and its end.
    fn end(&mut self) -> Result<()> {
        run(Command::new("kill").args(["-TERM", &self.0.id().to_string()]))?;
        let mut ended = None;
        wait("the agent that counts has ended", || {
            ended = self.0.try_wait().ok().flatten();
            ended.is_some()
        })?;
        match ended {
            Some(status) if status.success() => Ok(()),
            other => bail!("the agent that counts ended with {other:?}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The llvm-profdata that reads what this rustc writes: of the same major version.
fn profdata() -> Result<PathBuf> {
    let rustc = output(Command::new("rustc").args(["--version", "--verbose"]))
        .and_then(|text| crate::toolchain::llvm_major(&text))
        .context("rustc does not say its LLVM's version")?;
    let name = format!("llvm-profdata-{rustc}");
    let folder = PathBuf::from(format!("/usr/lib/llvm-{rustc}/bin/llvm-profdata"));
    if let Some(found) = find(&name).or_else(|| folder.is_file().then_some(folder)) {
        return Ok(found);
    }
    say(&format!("installing LLVM {rustc} for {name}"));
    crate::setup::apt_install(&[&format!("llvm-{rustc}")])?;
    find(&name).with_context(|| format!("{name} is not there after its installation"))
}
