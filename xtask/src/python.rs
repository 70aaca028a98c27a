//! Kubernetes' Python client, which one test runs: Debian's python3-venv, and an environment below target/.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    run::{output, root, run_within},
    setup::apt_install,
};

/// PyPI serves the client and what it needs, some 10 MB.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

/// The environment's interpreter. With `check` nothing is changed.
///
/// # Errors
/// It is not there, or it cannot be brought here.
pub fn client(check: bool) -> Result<PathBuf> {
    let environment = root().join("target/python-client");
    let interpreter = environment.join("bin/python");
    if output(Command::new(&interpreter).args(["-c", "import kubernetes"])).is_some() {
        return Ok(interpreter);
    }
    if check {
        bail!("Kubernetes' Python client in {}", environment.display());
    }
    // Debian's python3 has the module venv without this one, and fails half-way.
    if output(Command::new("python3").args(["-c", "import ensurepip"])).is_none() {
        apt_install(&["python3-venv"])?;
    }
    std::fs::create_dir_all(root().join("target"))?;
    let script = root().join("tests/python/make-venv.sh");
    run_within(Command::new(script).arg(&environment), LIMIT)
        .context("Kubernetes' Python client from PyPI")?;
    Ok(interpreter)
}
