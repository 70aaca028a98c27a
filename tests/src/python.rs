//! Kubernetes' Python client, in a virtual environment of its own below target/.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::script::{self, Script};

/// A script of `tests/python`.
pub struct Python(Script);

impl Python {
    /// Starts a script with a kubeconfig. `None`, with a line that says why, where the client cannot be had.
    ///
    /// # Panics
    /// It cannot be had although everything is required (`CI` is set to something).
    pub fn start(script: &str, kubeconfig: &Path) -> Option<Self> {
        let python = environment("python-client", "kubernetes", "python/requirements.txt")?;
        let script = script::tests().join("python").join(script);
        Some(Self(Script::start(&python, &script, kubeconfig)))
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
        self.0.answer(line)
    }
}

/// Starts `http2.py` with httpx, which speaks HTTP/2. `None`, with a line that says why, where that cannot be had.
///
/// # Panics
/// It cannot be had although everything is required (`CI` is set to something).
pub fn http2(argument: &Path) -> Option<Script> {
    let python = environment("python-http2", "httpx", "python/http2.txt")?;
    let script = script::tests().join("python").join("http2.py");
    Some(Script::start(&python, &script, argument))
}

/// The interpreter of an environment below target/ that has `module`. `None`, with a line that says why, where it cannot be had.
///
/// # Panics
/// It cannot be had although everything is required (`CI` is set to something).
pub fn environment(name: &str, module: &str, requirements: &str) -> Option<PathBuf> {
    let requirements = script::tests().join(requirements);
    let arguments = [Path::new(module), &requirements];
    let folder = script::made(name, "python/make-venv.sh", &arguments)?;
    Some(folder.join("bin/python"))
}
