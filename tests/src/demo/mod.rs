//! The demo: a rolling upgrade of a control plane under load, first without and then with an agent on each node.

pub(crate) mod agents;
mod operation;
mod phase;
mod plane;
mod progress;
mod report;
mod tally;
mod traffic;
mod watcher;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use phase::Phase;
use report::Report;

/// Requests a second, over all clients.
const RATE: f64 = 300.0;

/// A rolling upgrade of a simulated control plane, 1.35 to 1.36, without and then with the mixed version proxy
///
/// Fails if the agents let one false 404 or one error through.
#[derive(Debug, Parser)]
pub struct Options {
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    pub json: Option<PathBuf>,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
    /// Run one half alone, and print no comparison
    #[arg(long, value_enum)]
    pub only: Option<Half>,
}

/// One of the demo's two runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Half {
    /// Clients talk to the servers
    Without,
    /// Clients talk to the agents
    With,
}

/// Runs the demo and prints its table.
///
/// # Errors
/// Something could not be started, or a client of the agents saw a false 404 or an error.
pub fn run(options: &Options) -> Result<()> {
    let wanted = |half| options.only.is_none_or(|only| only == half);
    // Before half a minute of load, not after it.
    let binary = match wanted(Half::With) {
        true => Some(crate::bench::agent::binary(options.mvp_binary.as_deref())?),
        false => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!(
        "Three servers, {RATE} requests per second, upgraded one after another from 1.35 to 1.36. Half a minute each:"
    );
    let mut report = Report::default();
    if wanted(Half::Without) {
        report.without = Some(runtime.block_on(Phase { agent: None }.run())?);
    }
    if binary.is_some() {
        report.with = Some(runtime.block_on(Phase { agent: binary }.run())?);
    }
    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    if let Some(with) = &report.with {
        with.check()?;
    }
    Ok(())
}
