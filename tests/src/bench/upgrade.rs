//! Rolling upgrades of three servers under clients of every kind: what they see of it, and how long it takes until all of them are
//! inspected. Each node is a network namespace with a server and, unless left out, an agent with kernel steering.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::agent;
use super::report::{Report, median};
use crate::netns::privileged;
use crate::nodes::{Binaries, Cluster, run_on_nodes};
use crate::upgrade::{Balancer, Outcome, Settings, agents, lingering, run as upgrade};

/// The arguments of `upgrade`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Upgrades, each of three servers of 1.35 to 1.36 on fresh nodes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Without agents, to compare with
    #[arg(long)]
    pub no_agent: bool,
    /// `inspect` of the agents
    #[arg(long, value_enum, default_value_t = Inspect::Auto)]
    pub inspect: Inspect,
    /// `retire.within` of the agents, seconds; 0: connections of before stay unless they are silent for 5 s
    #[arg(long, default_value_t = 30)]
    pub within: u64,
    /// Clients come through HAProxy in TCP mode on a node of its own, which asks /readyz every second
    #[arg(long)]
    pub balanced: bool,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
}

/// `inspect.mode` of the agents.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Inspect {
    /// While the guard is armed; clients on the node always
    Auto,
    /// While the guard is armed
    Armed,
    /// All connections, at all times
    Always,
}

/// Runs the benchmark and prints its table.
///
/// # Errors
/// An upgrade cannot be made. What clients saw of it is reported, and fails nothing.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        privileged("bench upgrade", true),
        "root and the BPF object are needed"
    );
    let binaries = Binaries {
        agent: match options.no_agent {
            true => PathBuf::new(),
            false => agent::binary(options.mvp_binary.as_deref())?,
        },
        server: std::env::current_exe()?.with_file_name("mvp-sim"),
    };
    ensure!(
        binaries.server.is_file(),
        "there is no simulated server at {}: `cargo build --release -p mvp-tests --bin mvp-sim` builds it",
        binaries.server.display()
    );
    println!(
        "upgrade: {} rounds of three servers, {}",
        options.rounds,
        options.subject()
    );
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD, with fewer watches and requests");
    }
    let mut report = Report::new("upgrade");
    let mut all: Option<Outcome> = None;
    let mut failed = 0;
    for round in 0..options.rounds {
        let given = options.clone();
        let one = run_on_nodes(binaries.clone(), &[35, 35, 35], lingering, move |cluster| {
            given.round(&cluster, round)
        });
        let one = one.with_context(|| format!("round {round}"))?;
        println!(
            "round {round}: {} requests; {}",
            one.requests(),
            one.seconds.line()
        );
        if let Err(wrong) = one.check() {
            failed += 1;
            println!("{wrong:#}");
        }
        one.report(&mut report);
        match &mut all {
            None => all = Some(one),
            Some(all) => all.add(&one),
        }
    }
    let all = all.context("no round")?;
    println!("\n{}\n{}", all.table(), report.table());
    println!(
        "{} requests, {} false 404s, {} shrunken discoveries; {failed} of {} rounds were not as they should be",
        all.requests(),
        all.false_404(),
        all.shrunken(),
        options.rounds
    );
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    Ok(())
}

impl Options {
    fn subject(&self) -> String {
        let way = if self.balanced {
            ", behind HAProxy"
        } else {
            ""
        };
        match self.no_agent {
            true => format!("no agent{way}"),
            false => format!(
                "agents with inspect: {:?}, retire.within: {} s{way}",
                self.inspect, self.within
            )
            .to_lowercase(),
        }
    }

    fn round(&self, cluster: &Cluster, round: u32) -> Result<Outcome> {
        let change = |config: &mut Value| {
            let inspect = format!("{:?}", self.inspect).to_lowercase();
            config["inspect"] = inspect.into();
            config["retire"] = json!({"within": format!("{}s", self.within)});
        };
        let agents = match self.no_agent {
            true => Vec::new(),
            false => agents(cluster, change),
        };
        let (mut settings, _balancer) = match self.balanced {
            false => (Settings::direct(cluster)?, None),
            true => {
                let balancer = Balancer::start(cluster)?;
                (balancer.settings(cluster)?, Some(balancer))
            }
        };
        // Each server has the busiest client in turn.
        settings.busiest = round as usize;
        upgrade(cluster, &agents, &settings)
    }
}

impl Outcome {
    fn report(&self, report: &mut Report) {
        let seconds = |time: Duration| time.as_secs_f64();
        if let Some(inspected) = self.seconds.inspected {
            report.add("all", "sign_to_inspected", "s", seconds(inspected));
        }
        report.add("all", "sign_to_ready", "s", seconds(self.seconds.ready));
        let stops = self.seconds.stops.iter().copied().map(seconds);
        report.add("all", "stop", "s", median(stops.collect()));
        for of in &self.kinds {
            let name = of.kind.name();
            for (metric, value) in [
                ("requests", of.seen.requests),
                ("false_404", of.seen.false_404),
                ("shrunken", of.seen.shrunken),
                ("errors", of.seen.errors),
                ("cut", of.cut),
                ("lost", of.lost),
                ("twice", of.twice),
            ] {
                report.add(name, metric, "", value as f64);
            }
        }
    }
}
