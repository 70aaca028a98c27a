//! The ways through to a server of another version, compared in one run: no proxy at all, the agent with and without its kernel part, and
//! what people would use instead.
//!
//!
//! file | does |
//! |---|---|
//!
//! `subjects/` | starts each of them, set up for the same split of types between two servers |
//!
//! `native/` | one server's part of the simulated native proxy |
//!
//! `scenarios/` | what is asked of each, and measured |
//!
//! `timeline/` | three servers, upgraded one after the other |
//!
//! `figures` | rows, ratios, the table for terminals, the JSON |
//!
//! `page/` | the HTML |
//!
//! Subjects take turns in every round, in an order that rotates, before one upstream.

mod figures;
pub mod native;
mod page;
mod scenarios;
mod split;
mod subjects;
mod timeline;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use super::agent;
use super::kernel::{load_average, node, rotated};
use super::target::{cores, positive, request};
use super::upstream::Upstream;
use crate::nodes::Binaries;
use crate::sim::pki::Pki;
use figures::{Described, Document, Figures, LeftOut, Measured, Run};
use scenarios::{Bench, Scenario, Settings};
use subjects::{Ground, Running, Subject};
use timeline::{Pace, Timeline, Way};

/// The arguments of `compare`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Also write a page to this file: one HTML document without any other file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// One short round, whose figures are rough; under three minutes
    #[arg(long)]
    pub quick: bool,
    /// Rounds; every subject is measured once in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Rounds of the timeline
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub timelines: u32,
    /// Seconds for each measurement of each subject in a round
    #[arg(long, default_value_t = 5.0, value_parser = positive)]
    pub seconds: f64,
    /// Requests each second of the open loop
    #[arg(long, default_value_t = 1000.0, value_parser = positive)]
    pub rate: f64,
    /// Watches that are open while the rest is measured
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub watches: u32,
    /// What to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub scenarios: Vec<Scenario>,
    /// Whom to compare [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub subjects: Vec<Subject>,
    /// Threads of each proxy [default: the cores, at most 4]
    #[arg(long)]
    pub threads: Option<usize>,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
}

impl Options {
    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    fn timelines(&self) -> u32 {
        if self.quick { 1 } else { self.timelines }
    }

    fn seconds(&self) -> f64 {
        if self.quick {
            self.seconds.min(1.0)
        } else {
            self.seconds
        }
    }

    fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            duration: Duration::try_from_secs_f64(self.seconds())?,
            rate: self.rate,
            watches: self.watches as usize,
        })
    }

    fn scenarios(&self) -> Vec<Scenario> {
        let wanted =
            |scenario: &Scenario| self.scenarios.is_empty() || self.scenarios.contains(scenario);
        Scenario::ALL.into_iter().filter(wanted).collect()
    }

    fn subjects(&self) -> Vec<Subject> {
        let wanted =
            |subject: &Subject| self.subjects.is_empty() || self.subjects.contains(subject);
        Subject::ALL.into_iter().filter(wanted).collect()
    }

    fn pace(&self) -> Pace {
        let of = |quick, full| Duration::from_millis(if self.quick { quick } else { full });
        Pace {
            rate: self.rate.min(300.0),
            before: of(1000, 5000),
            starts_in: of(4000, 5000),
            others_start_in: of(1000, 5000),
            between: of(500, 3000),
            after: of(1500, 8000),
        }
    }
}

/// Runs the comparison, prints its tables, and writes what is asked for.
///
/// # Errors
/// A subject that is there could not be measured in a scenario. The others are, and everything is written.
pub fn run(options: &Options) -> Result<()> {
    crate::child::raise_descriptor_limit()?;
    let document = match options.subjects().contains(&Subject::MvpKernel) {
        // A network namespace of its own for the steering; everything runs there, so that all have the same.
        true if mvp::kernel::availability().is_ready() => {
            node::run(|pins| compare(options, Some(pins)))?
        }
        _ => compare(options, None)?,
    };
    for measured in &document.scenarios {
        println!("\n{}", measured.table());
    }
    if let Some(file) = &options.json {
        document.write_json(file)?;
    }
    if let Some(file) = &options.html {
        std::fs::write(file, page::html(&document))
            .with_context(|| format!("file {}", file.display()))?;
    }
    for LeftOut { what, why, .. } in &document.left_out {
        println!("left out: {what}: {why}");
    }
    let failed = document.left_out.iter().filter(|one| one.failed);
    let failed: Vec<&str> = failed.map(|one| one.what.as_str()).collect();
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

fn compare(options: &Options, pins: Option<&Path>) -> Result<Document> {
    let circumstances = circumstances(options);
    tell(&circumstances);
    let dir = tempfile::tempdir()?;
    let pki = Pki::generate(dir.path())?;
    let upstream = Upstream::start(&pki)?;
    let agent = agent::binary(options.mvp_binary.as_deref())?;
    let ground = Ground {
        pki: &pki,
        upstream: &upstream,
        dir: dir.path(),
        threads: options.threads.unwrap_or_else(|| cores().min(4)),
        agent: &agent,
        pins: pins.map(Path::to_owned),
    };
    let mut document = Document {
        run: circumstances,
        subjects: Vec::new(),
        left_out: Vec::new(),
        scenarios: Vec::new(),
        timelines: Vec::new(),
    };
    let scenarios = options.scenarios();
    let others = scenarios.iter().any(|one| *one != Scenario::Timeline);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut running = Vec::new();
    if others {
        running = start(options, &ground, &mut document);
        ensure!(!running.is_empty(), "nothing to compare");
        let get = request()?;
        for one in &mut running {
            runtime.block_on(one.target.wait_for_peer(&get))?;
        }
    }
    if scenarios.contains(&Scenario::Timeline) {
        // Before the others: an agent knows a server's certificate for a minute before it forwards a connection whole.
        let binaries = Binaries {
            agent: agent.clone(),
            server: std::env::current_exe()?.with_file_name("mvp-sim"),
        };
        timelines(options, &binaries, &mut document);
    }
    let bench = Bench {
        upstream: &upstream,
        settings: options.settings()?,
        get: request()?,
        bare: RefCell::new(HashMap::new()),
    };
    runtime.block_on(async {
        relayed(&mut running, &bench, &mut document).await;
        for scenario in scenarios {
            if scenario != Scenario::Timeline {
                measure(scenario, options, &running, &bench, &mut document).await;
            }
        }
    });
    Ok(document)
}

fn start(options: &Options, ground: &Ground<'_>, document: &mut Document) -> Vec<Running> {
    let mut running = Vec::new();
    for subject in options.subjects() {
        match Running::start(subject, ground) {
            Ok(one) => {
                println!("{}: {}", subject.title(), one.version);
                document.subjects.push(Described {
                    name: subject.name(),
                    title: subject.title(),
                    version: one.version.clone(),
                    setup: one.setup.clone(),
                });
                running.push(one);
            }
            Err(error) => document.leave_out(subject.title(), &error, false),
        }
    }
    running
}

/// Waits for those that forward connections whole; those that do not are left out.
async fn relayed(running: &mut Vec<Running>, bench: &Bench<'_>, document: &mut Document) {
    let mut without = Vec::new();
    for one in running.iter() {
        if let Some(relaying) = one.relaying
            && let Err(error) = relaying.wait(&one.target, &bench.get).await
        {
            document.leave_out(one.subject.title(), &error, true);
            without.push(one.subject);
        }
    }
    running.retain(|one| !without.contains(&one.subject));
}

async fn measure(
    scenario: Scenario,
    options: &Options,
    running: &[Running],
    bench: &Bench<'_>,
    document: &mut Document,
) {
    let about = scenario.about();
    println!("== {}", about.title);
    let mut figures = Figures::new(about);
    let mut left: Vec<usize> = (0..running.len()).collect();
    for round in 0..options.rounds() {
        let mut values = Vec::new();
        for at in rotated(&left.clone(), round) {
            let subject = running[at].subject;
            match scenario.measure(&running[at], bench).await {
                Ok(measured) => values.push((subject.name(), measured)),
                Err(error) => {
                    let what = format!("{}: {}", about.title, subject.title());
                    document.leave_out(&what, &error, true);
                    left.retain(|other| *other != at);
                }
            }
        }
        figures.add(&values);
    }
    let subjects = running
        .iter()
        .map(|one| (one.subject.name(), one.subject.title()));
    document.scenarios.push(figures.finish(subjects.collect()));
}

fn timelines(options: &Options, binaries: &Binaries, document: &mut Document) {
    let about = Scenario::Timeline.about();
    println!("== {}", about.title);
    let mut figures = Figures::new(about);
    let mut left = Way::ALL.to_vec();
    for round in 0..options.timelines() {
        let mut values = Vec::new();
        for way in rotated(&left.clone(), round) {
            match way.run(binaries, options.pace()) {
                Ok(timeline) => {
                    println!("{}: {}", way.title(), timeline.line());
                    values.push((way.name(), timeline.values()));
                    if round == 0 {
                        document.timelines.push(timeline);
                    }
                }
                Err(error) => {
                    document.leave_out(&format!("{}: {}", about.title, way.title()), &error, true);
                    left.retain(|other| *other != way);
                }
            }
        }
        figures.add(&values);
    }
    let subjects = Way::ALL.map(|way| (way.name(), way.title()));
    let measured: Measured = figures.finish(subjects.into());
    document.scenarios.push(measured);
}

impl Document {
    fn leave_out(&mut self, what: &str, why: &anyhow::Error, failed: bool) {
        println!("WITHOUT {what}: {why:#}");
        self.left_out.push(LeftOut {
            what: what.into(),
            why: format!("{why:#}"),
            failed,
        });
    }
}

impl Timeline {
    fn line(&self) -> String {
        let values = self.values();
        let values = values
            .iter()
            .map(|(name, value)| format!("{name} {}", figures::number(*value)));
        values.collect::<Vec<_>>().join(", ")
    }
}

fn circumstances(options: &Options) -> Run {
    let date = time::OffsetDateTime::now_utc();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Run {
        date: format!("{} {:02}:{:02}", date.date(), date.hour(), date.minute()),
        quick: options.quick,
        debug: cfg!(debug_assertions),
        cores: cores(),
        kernel: kernel.trim().to_owned(),
        load_average: load_average(),
        rounds: options.rounds(),
        seconds: options.seconds(),
        rate: options.rate,
        watches: options.watches as usize,
    }
}

fn tell(run: &Run) {
    println!(
        "compare: {} of {} s for each measurement; client, proxies and servers share {} cores",
        run.rounds(),
        run.seconds,
        run.cores
    );
    if let Some(load) = run.load_average.filter(|&load| load > 0.5) {
        println!("THE MACHINE IS BUSY (load average {load}): wait until it is quiet");
    }
    if run.debug {
        println!("THIS IS A DEBUG BUILD: its figures say nothing; use --release");
    }
}
