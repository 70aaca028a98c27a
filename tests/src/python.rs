//! Kubernetes' Python client, in a virtual environment of its own below target/.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A process that does what its script does for a line of input, and answers with a line. Ended when dropped.
pub struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// Starts a script of `tests/python` with a kubeconfig. `None`, with a line that says why, where the client cannot be had.
    ///
    /// # Panics
    /// It cannot be had although everything is required (`CI` is set to something).
    pub fn start(script: &str, kubeconfig: &Path) -> Option<Self> {
        let python = environment("python-client", "kubernetes", "python/requirements.txt")?;
        Some(Self::run(&python, &folder().join(script), kubeconfig))
    }

    /// Starts a script with one argument in an environment of [`environment`].
    pub(crate) fn run(python: &Path, script: &Path, argument: &Path) -> Self {
        let mut child = Command::new(python)
            .arg(script)
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Everything that `discover.py` finds, as `GROUP/VERSION RESOURCE`, without subresources.
    ///
    /// # Errors
    /// The discovery failed; what Python says of it is on standard error.
    pub fn discover(&mut self) -> Result<Vec<String>> {
        Ok(serde_json::from_str(&self.answer("")?)?)
    }

    /// What the script answers to this line.
    ///
    /// # Errors
    /// The script has ended.
    pub fn answer(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            bail!("the Python script has failed");
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// The interpreter of an environment below target/ that has `module`; whoever comes first makes it. `None`, with a line that says why,
/// where it cannot be had.
///
/// # Panics
/// It cannot be had although everything is required (`CI` is set to something).
pub fn environment(name: &str, module: &str, requirements: &str) -> Option<PathBuf> {
    match made(name, module, requirements) {
        Ok(python) => Some(python),
        Err(missing) => {
            let required = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
            assert!(!required, "{missing:#}");
            println!("skipped: {name} cannot be had: {missing:#}");
            None
        }
    }
}

fn made(name: &str, module: &str, requirements: &str) -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = tests.with_file_name("target");
    std::fs::create_dir_all(&target)?;
    let lock = File::create(target.join(format!("{name}.lock")))?;
    lock.lock()?;
    let environment = target.join(name);
    let output = Command::new(folder().join("make-venv.sh"))
        .arg(&environment)
        .arg(module)
        .arg(tests.join(requirements))
        .output()
        .context("make-venv.sh")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}",
            said.trim().lines().last().unwrap_or("make-venv.sh failed")
        );
    }
    Ok(environment.join("bin/python"))
}
