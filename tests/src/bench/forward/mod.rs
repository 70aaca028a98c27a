//! A small GET that only another server can answer: what does a terminating proxy add to it? And what to lists and watches, if the
//! server answers as kube-apiserver does?
//!
//! Subjects take turns in every round, in an order that rotates, so that a machine that grows slower or faster meets all
//! of them. Added latency is the difference to `direct` of the same round.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

mod cases;
mod rows;

use super::agent::{self, Agent};
use super::haproxy;
use super::report::Report;
use super::target::{Measured, Target, cores, positive, request};
use super::upstream::{Answering, Upstream};
use crate::load::Get;
use crate::ports::free_port;
use crate::sim::pki::Pki;

/// The arguments of `forward`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds; every subject is measured once in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds for each load of each subject in a round
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub seconds: f64,
    /// How the server answers
    #[arg(long, value_enum, value_delimiter = ',', default_value = "lean,real")]
    pub answers: Vec<Answering>,
    /// What to measure
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,mvp,haproxy"
    )]
    pub subjects: Vec<Subject>,
    /// Threads of each proxy [default: the cores, at most 4]
    #[arg(long)]
    pub threads: Option<usize>,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
    /// Another build of the agent, measured beside the first as the subject `other`
    #[arg(long, value_name = "FILE")]
    pub other_binary: Option<PathBuf>,
    /// What the subject `other` is configured to do otherwise, of the same build unless --other-binary names another
    #[arg(long, value_name = "KEY=VALUE")]
    pub other_set: Vec<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Subject {
    /// The client talks to the peer itself
    Direct,
    /// Through `mvp agent`, whose own server does not serve what is asked
    Mvp,
    /// The same through another build of the agent (--other-binary), or one with another configuration (--other-set)
    #[value(skip)]
    Other,
    /// Through HAProxy: TLS terminated, HTTP/2 on both sides, connections reused
    Haproxy,
}

/// Runs the benchmark and prints its table. Needs the two binaries; takes about `rounds * seconds * 21`.
pub fn run(options: &Options) -> Result<()> {
    let threads = options.threads.unwrap_or_else(|| cores().min(4));
    let dir = tempfile::tempdir()?;
    let pki = Pki::generate(dir.path())?;
    let upstream = Upstream::start(&pki)?;
    let mut subjects = start(options, &pki, &upstream, threads, dir.path())?;
    explain(options, threads, &subjects);

    let get = request()?;
    let mut report = Report::new("forward");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for subject in &mut subjects {
            subject.target.wait_for_peer(&get).await?;
        }
        for round in 0..options.rounds as usize {
            measure_round(round, options, (&upstream, &subjects), &get, &mut report).await?;
        }
        anyhow::Ok(())
    })?;

    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    Ok(())
}

struct Running {
    subject: Subject,
    target: Target,
}

fn start(
    options: &Options,
    pki: &Pki,
    upstream: &Upstream,
    threads: usize,
    dir: &Path,
) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    let mut wanted = options.subjects.clone();
    let other = options.other_binary.is_some() || !options.other_set.is_empty();
    wanted.extend(other.then_some(Subject::Other));
    for subject in wanted {
        let (process, address) = match subject {
            Subject::Direct => (None, upstream.peer),
            Subject::Mvp | Subject::Other => {
                let (binary, set) = match subject {
                    Subject::Other => (
                        options
                            .other_binary
                            .as_ref()
                            .or(options.mvp_binary.as_ref()),
                        options.other_set.as_slice(),
                    ),
                    _ => (options.mvp_binary.as_ref(), [].as_slice()),
                };
                let binary = agent::binary(binary.map(PathBuf::as_path))?;
                let agent = agent(upstream, threads)?;
                let process = agent.start_set(set, &binary, pki.dir(), dir)?;
                (Some(process), agent.listen)
            }
            Subject::Haproxy => match haproxy::available() {
                Ok(()) => {
                    let (process, address) = haproxy::start(pki, upstream.peer, threads, dir)?;
                    (Some(process), address)
                }
                Err(missing) => {
                    println!("WITHOUT HAProxy: {missing:#}");
                    continue;
                }
            },
        };
        let target = Target::new(name(subject), address, pki, process)?;
        running.push(Running { subject, target });
    }
    ensure!(!running.is_empty(), "nothing to measure");
    Ok(running)
}

/// The agent before the upstream's two servers.
pub fn agent(upstream: &Upstream, threads: usize) -> Result<Agent> {
    Ok(Agent {
        node: "bench-local".into(),
        listen: free_port("127.0.0.1")?,
        admin: free_port("127.0.0.1")?,
        local: upstream.local,
        peers: vec![("bench-peer".into(), upstream.peer)],
        threads: Some(threads),
    })
}

fn explain(options: &Options, threads: usize, subjects: &[Running]) {
    println!(
        "forward: a GET of 1 KiB (real: 1.5 KiB) that only the peer can answer; TLS 1.3 and HTTP/2 on every leg"
    );
    println!(
        "lean: header and body in one piece. real: as kube-apiserver, and also lists of 100 KB and 5 MB, and a watch with events"
    );
    println!(
        "{} rounds of {} s at 1 connection x 1 stream and at 16 connections x 4 streams; {threads} threads a proxy",
        options.rounds, options.seconds
    );
    println!(
        "client, proxy and upstream share {} cores: under the second load they compete",
        cores()
    );
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing; use --release");
    }
    if subjects
        .iter()
        .any(|running| running.subject == Subject::Haproxy)
    {
        println!("{}", haproxy::version().unwrap_or_default());
    }
}

async fn measure_round(
    round: usize,
    options: &Options,
    (upstream, subjects): (&Upstream, &[Running]),
    get: &Get,
    report: &mut Report,
) -> Result<()> {
    let seconds = Duration::from_secs_f64(options.seconds);
    for answering in &options.answers {
        upstream.answer(*answering);
        let cases = cases::of(*answering);
        let mut results: Vec<(Subject, Vec<Measured>)> = Vec::new();
        for turn in 0..subjects.len() {
            let running = &subjects[(round + turn) % subjects.len()];
            let mut measured = Vec::new();
            for case in cases {
                let of_case = case.measure(&running.target, upstream, get, seconds);
                measured.push(of_case.await?);
            }
            results.push((running.subject, measured));
        }
        let line: Vec<String> = results
            .iter()
            .map(|(subject, measured)| {
                let figures = cases.iter().zip(measured);
                let figures: Vec<_> = figures.map(|(case, of)| case.line(&of.outcome)).collect();
                format!("{} {}", name(*subject), figures.join(", "))
            })
            .collect();
        println!("round {}, {answering:?}: {}", round + 1, line.join(" | "));
        rows::record(cases, &results, report);
    }
    // What subjects meet between the rounds is as it was.
    upstream.answer(Answering::Lean);
    Ok(())
}

fn name(subject: Subject) -> &'static str {
    match subject {
        Subject::Direct => "direct",
        Subject::Mvp => "mvp",
        Subject::Other => "other",
        Subject::Haproxy => "haproxy",
    }
}
