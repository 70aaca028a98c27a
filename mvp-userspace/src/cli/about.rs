//! What the program says of itself: its version, scripts for shells, manual pages.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory as _;
use serde::Serialize;

use super::client::ClientError;
use super::command::{Cli, Output};
use super::output::print;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    /// The processor's architecture, as Rust names it.
    architecture: &'static str,
    /// Whether the BPF programs are inside.
    kernel_part: bool,
}

/// # Errors
/// Never with these values.
pub(super) fn version(output: Output, out: &mut dyn Write) -> Result<(), ClientError> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        architecture: std::env::consts::ARCH,
        kernel_part: crate::kernel::object().is_some(),
    };
    let text = |_| {
        let part = match version.kernel_part {
            true => "with its kernel part",
            false => {
                "without its kernel part: it steers nothing (`cargo xtask build` builds one with it)"
            }
        };
        format!("mvp {} {}, {part}\n", version.version, version.architecture)
    };
    print(output, &version, text, out)
}

/// The script for a shell.
pub(super) fn completion(shell: clap_complete::Shell, out: &mut dyn Write) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mvp", &mut script);
    // The reader may have closed its end.
    let _ = out.write_all(&script);
}

/// Writes one page for each command.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn manual(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}
