//! Running other programs, and where things are.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The cargo that runs this xtask, with a verb, on this workspace. It runs where the user is, so that the paths they
/// give mean what they see. Verbs choose by `--bin` or `--bench` and never by `--package`: cargo would settle features for
/// that package alone, and compile many dependencies a second time.
pub(crate) fn cargo(verb: &str) -> Command {
    cargo_on(verb, "")
}

/// As [`cargo`], on the package or workspace in a folder of the repository. Every verb that resolves dependencies takes the versions in the
/// lock file, and fails if the manifests ask for others.
pub(crate) fn cargo_on(verb: &str, folder: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let manifest = root().join(folder).join("Cargo.toml");
    command.arg(verb).arg("--manifest-path").arg(manifest);
    if !["fmt", "deny"].contains(&verb) {
        command.arg("--locked");
    }
    command
}

/// Says what is run, runs it, and fails if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(&format!("$ {}", line(command)));
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// As [`run`], and kills the program when `limit` has passed.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    say(&format!("$ {}", line(command)));
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", line(command)))?;
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("{}: {status}", line(command)),
            None if Instant::now() > deadline => {
                child.kill().and_then(|()| child.wait())?;
                bail!("{}: not done after {} s", line(command), limit.as_secs());
            }
            None => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// What the program printed, or `None` if it cannot be started or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The program's path, if PATH has it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Debian keeps `ip` and `haproxy` in sbin folders, which a user's PATH may lack.
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(sbin)
        .map(|folder| folder.join(program))
        .find(|p| p.is_file())
}

/// One line to the user. On standard error: standard output belongs to the programs that are run.
pub(crate) fn say(line: &str) {
    eprintln!("xtask: {line}");
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether doing less than everything is a failure: in CI, or when asked for.
pub(crate) fn require_all() -> bool {
    ["CI", "MVP_REQUIRE_ALL"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy);
    words.collect::<Vec<_>>().join(" ")
}
