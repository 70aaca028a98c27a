//! `cargo xtask bench NAME`: measures.

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    build_ebpf, python,
    run::{cargo, root, run},
    setup,
};

/// The release profile optimises the tests' package little. What measures, and the servers that it measures with, must not be the
/// slowest part.
const OPTIMISED: [&str; 3] = [
    "--release",
    "--config",
    "profile.release.package.mvp-tests.opt-level=3",
];

/// Run a benchmark
///
/// `decide` is the route lookup alone (criterion); every other name is a scenario of mvp-bench, over real sockets.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which one: decide, forward, discovery, freshness, growth, kernel, neighbour, upgrade, compare
    name: String,
    /// Also write the rows as JSON to this file (not for decide)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write a page to this file (only for compare)
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A short run whose figures are rough (only for growth, neighbour and compare)
    #[arg(long)]
    quick: bool,
    /// Passed on to the benchmark as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Builds mvp-bench.
pub(crate) fn build() -> Result<()> {
    run(cargo("build").args(OPTIMISED).args(["--bin", "mvp-bench"]))
}

/// Where [`build`] puts it.
pub(crate) fn binary() -> PathBuf {
    root().join("target/release/mvp-bench")
}

pub(crate) fn main(args: &Args) -> Result<()> {
    if args.name == "decide" {
        return run(cargo("bench")
            .args(["--bench", "decide", "--"])
            .args(&args.args));
    }
    setup::tools_if_possible(true)?;
    build_ebpf::if_usable()?;
    // What ships is what is measured: the agent is a child process there.
    run(cargo("build").args(["--profile", "dist", "--bin", "mvp"]))?;
    let compares = args.name == "compare";
    if compares {
        setup::rivals_if_possible()?;
    }
    if compares || args.name == "upgrade" {
        // Its servers are child processes too.
        run(cargo("build").args(OPTIMISED).args(["--bin", "mvp-sim"]))?;
    }
    build()?;
    let mut bench = Command::new(binary());
    bench.arg(&args.name);
    if let Some(file) = &args.json {
        bench.arg("--json").arg(file);
    }
    let with_agent = [
        "forward",
        "discovery",
        "freshness",
        "growth",
        "kernel",
        "neighbour",
        "upgrade",
        "compare",
    ];
    if with_agent.contains(&args.name.as_str()) {
        bench
            .arg("--mvp-binary")
            .arg(root().join("target/dist/mvp"));
    }
    if let Some(file) = &args.html {
        bench.arg("--html").arg(file);
    }
    if args.quick {
        bench.arg("--quick");
    }
    if compares && let Some(envoy) = python::envoy() {
        bench.env("ENVOY", envoy);
    }
    run(bench.args(&args.args))
}
