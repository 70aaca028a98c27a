//! Kubernetes' JavaScript client and the Node.js that runs it, below target/.

use std::path::Path;

use crate::script::{self, Script};

/// Starts a script of `tests/javascript` with a kubeconfig. `None`, with a line that says why, where the client cannot be had.
///
/// # Panics
/// It cannot be had although everything is required (`CI` is set to something).
pub fn start(script: &str, kubeconfig: &Path) -> Option<Script> {
    let folder = script::made("javascript-client", "javascript/make-client.sh", &[])?;
    let script = script::tests().join("javascript").join(script);
    Some(Script::start(&folder.join("node"), &script, kubeconfig))
}
