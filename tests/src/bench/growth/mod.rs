//! What an agent takes as a control plane grows: more servers, more types, more connections, more watches.
//!
//! | file | grows |
//! |---|---|
//! | `servers` | the servers of the control plane |
//! | `types` | the CustomResourceDefinitions on two servers |
//! | `connections` | kept connections of clients without a request |
//! | `watches` | watches without an event, and events that are sent to all of them |
//! | `tables` | what the agent computes of the servers' documents, called in this process |
//! | `subject` | the agent as a child process |
//!
//! Servers are simulated where discovery has to be real; connections and watches go to the fast upstream.

mod connections;
mod servers;
mod subject;
mod tables;
mod types;
mod watches;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::agent;
use super::report::Report;
use super::target::positive;

/// The arguments of `growth`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// One round up to 16 servers, 1,000 types, 1,000 connections and 1,000 watches
    #[arg(long)]
    pub quick: bool,
    /// Rounds; everything is measured once in each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds for each measurement of latency or CPU
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub seconds: f64,
    /// What grows [default: everything]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub scenarios: Vec<Scenario>,
    /// Sizes above this are left out
    #[arg(long, value_name = "N")]
    pub at_most: Option<usize>,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
}

/// What grows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Scenario {
    /// Servers of the control plane, of one version and of two
    Servers,
    /// CustomResourceDefinitions on two servers, of one version and of two
    Types,
    /// Connections that clients keep without a request
    Connections,
    /// Watches of a type that only another server has
    Watches,
}

/// What every scenario is given.
struct Bench {
    binary: PathBuf,
    duration: Duration,
    quick: bool,
    at_most: usize,
}

/// What is measured against what.
const RATIO: &str = "mvp/direct";

/// Runs the benchmark and prints its table.
///
/// # Errors
/// A server or an agent cannot be started, or an answer is not what it has to be: figures of the others are printed all the same.
pub fn run(options: &Options) -> Result<()> {
    println!(
        "growth: one agent, TLS 1.3 and HTTP/2 on every leg; servers, agent and clients share this machine"
    );
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing; use --release");
    }
    let descriptors = subject::raise_descriptors()?;
    println!("up to {descriptors} open files for clients and servers, and as many for the agent");
    let bench = Bench {
        binary: agent::binary(options.mvp_binary.as_deref())?,
        duration: Duration::try_from_secs_f64(match options.quick {
            true => options.seconds.min(1.0),
            false => options.seconds,
        })?,
        quick: options.quick,
        at_most: options.at_most.unwrap_or(usize::MAX),
    };
    let scenarios = match options.scenarios.as_slice() {
        [] => Scenario::value_variants(),
        chosen => chosen,
    };
    let rounds = if options.quick { 1 } else { options.rounds };
    let mut report = Report::new("growth");
    let outcome = (1..=rounds).try_for_each(|round| {
        println!("round {round} of {rounds}");
        scenarios
            .iter()
            .try_for_each(|scenario| scenario.measure(&bench, &mut report))
    });
    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    outcome
}

impl Scenario {
    fn measure(self, bench: &Bench, report: &mut Report) -> Result<()> {
        match self {
            Self::Servers => servers::measure(bench, report),
            Self::Types => types::measure(bench, report),
            Self::Connections => connections::measure(bench, report),
            Self::Watches => watches::measure(bench, report),
        }
    }
}

impl Bench {
    /// Of these sizes those that are asked for; `quick` is the largest one of a quick run.
    fn sizes(&self, all: &[usize], quick: usize) -> Vec<usize> {
        let most = match self.quick {
            true => self.at_most.min(quick),
            false => self.at_most,
        };
        let sizes = all.iter().copied();
        sizes.filter(|size| *size <= most).collect()
    }
}

/// A number of bytes as a row has it.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes for each of `count`, beyond those `before`.
fn kib_each(bytes: u64, before: u64, count: usize) -> f64 {
    bytes.saturating_sub(before) as f64 / 1024.0 / count as f64
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_and_a_limit_leave_the_large_sizes_out() {
        let bench = |quick, at_most| Bench {
            binary: PathBuf::new(),
            duration: Duration::ZERO,
            quick,
            at_most,
        };
        let all = [100, 1000, 10_000];
        assert_eq!(bench(false, usize::MAX).sizes(&all, 1000), all);
        assert_eq!(bench(true, usize::MAX).sizes(&all, 1000), all[..2]);
        assert_eq!(bench(true, 100).sizes(&all, 1000), all[..1]);
        assert_eq!(bench(false, 1000).sizes(&all, 100), all[..2]);
    }

    #[test]
    fn memory_for_each_is_what_came_with_them() {
        assert_eq!(kib_each(3 << 20, 1 << 20, 1024), 2.0);
        assert_eq!(kib_each(0, 1 << 20, 1024), 0.0);
    }
}
