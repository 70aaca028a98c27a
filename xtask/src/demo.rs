//! `cargo xtask demo`: a rolling upgrade of a simulated control plane, without and with the agents.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Result;

use crate::{
    build_ebpf,
    run::{cargo, run},
};

/// Upgrade a simulated control plane under load, without and with the agents
///
/// Fails if the agents let one false 404 or one error through.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Passed on to mvp-demo as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    build_ebpf::if_usable()?;
    // The agent too: it is a child process there, found beside the program.
    run(cargo("build").args(["--release", "--bins"]))?;
    let mut demo = cargo("run");
    demo.args(["--release", "--bin", "mvp-demo", "--"]);
    if let Some(file) = &args.json {
        demo.arg("--json").arg(file);
    }
    run(demo.args(&args.args))
}
