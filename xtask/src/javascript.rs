//! Kubernetes' JavaScript client, and the Node.js and npm that bring and run it: below target/.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    python,
    run::{root, run_within},
};

/// PyPI and npm serve it within this: 61 MB of Node.js, 20 MB of packages.
const LIMIT: Duration = Duration::from_secs(300);

/// The folder of the client. With `check` nothing is changed.
///
/// # Errors
/// It is not there, or it cannot be brought here.
pub(crate) fn client(check: bool) -> Result<PathBuf> {
    let folder = root().join("target/javascript-client");
    if check {
        if !folder.join("made-of").is_file() {
            bail!("Kubernetes' JavaScript client in {}", folder.display());
        }
        return Ok(folder);
    }
    python::make_environments_possible()?;
    std::fs::create_dir_all(root().join("target"))?;
    let mut make = Command::new(root().join("tests/javascript/make-client.sh"));
    make.arg(&folder);
    run_within(&mut make, LIMIT)
        .context("Kubernetes' JavaScript client from npm, with Node.js from PyPI")?;
    Ok(folder)
}
