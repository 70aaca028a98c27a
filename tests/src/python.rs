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
        let python = match environment() {
            Ok(python) => python,
            Err(missing) => {
                let required = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
                assert!(!required, "{missing:#}");
                println!("skipped: no Python client: {missing:#}");
                return None;
            }
        };
        let mut child = Command::new(python)
            .arg(folder().join(script))
            .arg(kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        })
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
            bail!("the Python client has failed");
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

/// The environment's interpreter; the environment is made by whoever comes first.
fn environment() -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
    std::fs::create_dir_all(&target)?;
    let lock = File::create(target.join("python-client.lock"))?;
    lock.lock()?;
    let environment = target.join("python-client");
    let output = Command::new(folder().join("make-venv.sh"))
        .arg(&environment)
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
