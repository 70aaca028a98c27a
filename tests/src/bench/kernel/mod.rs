//! What the kernel part costs and what it saves: `mvp-bench kernel`.
//!
//! Each scenario measures its subjects by turns in every round, in an order that changes, so that a machine that grows slower
//! or faster meets all of them; ratios are of values of the same round. Goals are reported as reached or not, and fail nothing.

mod goals;
mod idle_guard;
pub(super) mod node;
mod placement;
mod relay;
mod shortcut;
mod splice;
mod steer_cost;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::report::{Report, write_json};
use super::target::{cores, positive};

/// The arguments of `kernel`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "idle_guard,relay,splice,shortcut,steer_cost"
    )]
    pub scenario: Vec<Scenario>,
    /// Rounds; every subject is measured in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds for each load of requests on each subject in a round
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub seconds: f64,
    /// Gigabytes that each subject of splice and shortcut moves in a round
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub gigabytes: f64,
    /// Round trips of a small message that each subject of splice and shortcut makes in a round
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub round_trips: u32,
    /// Connections that each subject of steer_cost gets in a round
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Threads of each proxy [default: the cores, at most 4]
    #[arg(long)]
    pub threads: Option<usize>,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Scenario {
    /// Requests to a server with an idle guard before it, against no agent at all
    IdleGuard,
    /// Requests and lists on relayed connections, against inspected ones and against HAProxy
    Relay,
    /// Two connections joined: sockmap and splice(2) against copying
    Splice,
    /// The short-cut between the agent and the server beside it, on against off
    Shortcut,
    /// Run time of the steering program
    SteerCost,
}

impl Options {
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| cores().min(4))
    }

    /// The gigabytes.
    fn bytes(&self) -> u64 {
        (self.gigabytes * 1e9) as u64
    }
}

impl Scenario {
    const fn name(self) -> &'static str {
        match self {
            Self::IdleGuard => "idle_guard",
            Self::Relay => "relay",
            Self::Splice => "splice",
            Self::Shortcut => "shortcut",
            Self::SteerCost => "steer_cost",
        }
    }

    fn run(self, options: &Options) -> Result<Report> {
        match self {
            Self::IdleGuard => idle_guard::run(options),
            Self::Relay => relay::run(options),
            Self::Splice => splice::run(options),
            Self::Shortcut => shortcut::run(options),
            Self::SteerCost => steer_cost::run(options),
        }
    }
}

/// Runs the scenarios and prints their tables and the goals. Needs root and the BPF object for all of it.
///
/// # Errors
/// A scenario that could not be measured. The others are, and their rows are written.
pub fn run(options: &Options) -> Result<()> {
    println!(
        "kernel: {} rounds, {} cores shared by client, proxy and server; CPU is the whole machine's: let nothing else run",
        options.rounds,
        cores()
    );
    if let Some(load) = load_average().filter(|&load| load > 0.5) {
        println!("THE MACHINE IS BUSY (load average {load}): wait until it is quiet");
    }
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing; use --release");
    }
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for &scenario in &options.scenario {
        println!("\n== {}", scenario.name());
        match scenario.run(options) {
            Ok(report) => {
                print!("\n{}", report.table());
                rows.extend(report.rows());
            }
            Err(error) => {
                println!("not measured: {error:#}");
                failed.push(scenario.name());
            }
        }
    }
    println!("\n== goals\n{}", goals::table(&rows));
    if let Some(file) = &options.json {
        write_json(file, &rows)?;
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

/// The load of the last minute: how many threads ran or wanted to.
pub(super) fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Subjects in the order of this round: each begins once in as many rounds as there are subjects.
pub(super) fn rotated<T: Copy>(subjects: &[T], round: u32) -> impl Iterator<Item = T> {
    let start = round as usize % subjects.len().max(1);
    let (last, first) = subjects.split_at(start);
    first.iter().chain(last).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_begins_once() {
        let order = |round| rotated(&['a', 'b', 'c'], round).collect::<String>();
        assert_eq!([0, 1, 2, 3].map(order), ["abc", "bca", "cab", "abc"]);
        assert_eq!(rotated::<u8>(&[], 1).count(), 0);
    }
}
