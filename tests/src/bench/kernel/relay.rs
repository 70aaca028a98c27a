//! A GET of 1 KiB that only another server can answer, on a connection that is relayed to that server whole, against one that is
//! inspected and against HAProxy terminating TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mvp::splice::Mode;

use super::relayer::{CHOSEN, OTHERWISE};
use super::{Options, rotated};
use crate::bench::process::Process;
use crate::bench::report::Report;
use crate::bench::target::{LOADS, Load, Measured, Target, request};
use crate::bench::upstream::Upstream;
use crate::bench::{agent, forward, haproxy};
use crate::load::Get;
use crate::ports::free_port;
use crate::sim::pki::Pki;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    /// The client talks to the other server itself
    Direct,
    /// Through the agent, which decides about each request
    Inspected,
    /// Relayed, by the mode that the agent's calibration chooses
    Mvp,
    /// Relayed by this mode
    Relayed(Mode),
    Haproxy,
}

const SUBJECTS: [Subject; 7] = [
    Subject::Direct,
    Subject::Inspected,
    Subject::Mvp,
    Subject::Relayed(Mode::Sockmap),
    Subject::Relayed(Mode::Splice),
    Subject::Relayed(Mode::Copy),
    Subject::Haproxy,
];

pub(super) fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::tempdir()?;
    let pki = Pki::generate(dir.path())?;
    let upstream = Upstream::start(&pki)?;
    let mut targets = Vec::new();
    for subject in SUBJECTS {
        let started = subject.start(options, &pki, &upstream, dir.path());
        match started.with_context(|| subject.name()) {
            Ok(target) => targets.push((subject, target)),
            // What the ratios need must be there.
            Err(error) if subject.may_be_missing() => println!("WITHOUT {error:#}"),
            Err(error) => return Err(error),
        }
    }
    let get = request()?;
    let mut report = Report::new("relay");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        for (_, target) in &mut targets {
            target.wait_for_peer(&get).await?;
        }
        let order: Vec<usize> = (0..targets.len()).collect();
        for round in 0..options.rounds {
            let mut results = Vec::with_capacity(targets.len());
            for at in rotated(&order, round) {
                let (subject, target) = &targets[at];
                results.push((*subject, measure(target, &get, options).await?));
            }
            record(&mut report, &results);
            tell(round, &results);
        }
        anyhow::Ok(())
    })?;
    targets
        .iter()
        .try_for_each(|(_, target)| by_its_mode(target))?;
    Ok(report)
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Inspected => "inspected",
            Self::Mvp => "mvp",
            Self::Relayed(mode) => mode.name(),
            Self::Haproxy => "haproxy",
        }
    }

    /// HAProxy may not be installed, and the kernel may have no sockmap.
    fn may_be_missing(self) -> bool {
        matches!(self, Self::Haproxy | Self::Relayed(Mode::Sockmap))
    }

    fn is_relayed(self) -> bool {
        matches!(self, Self::Mvp | Self::Relayed(_))
    }

    fn start(
        self,
        options: &Options,
        pki: &Pki,
        upstream: &Upstream,
        dir: &Path,
    ) -> Result<Target> {
        let threads = options.threads();
        let relay = |mode| relayer(self.name(), upstream, mode, threads, dir);
        let (process, address) = match self {
            Self::Direct => (None, upstream.peer),
            Self::Inspected => {
                let binary = agent::binary(options.mvp_binary.as_deref())?;
                let agent = forward::agent(upstream, threads)?;
                (Some(agent.start(&binary, pki.dir(), dir)?), agent.listen)
            }
            Self::Mvp => relay(None)?,
            Self::Relayed(mode) => relay(Some(mode))?,
            Self::Haproxy => {
                let (process, address) = haproxy::start(pki, upstream.peer, threads, dir)?;
                (Some(process), address)
            }
        };
        Target::new(self.name(), address, pki, process)
    }
}

fn relayer(
    name: &str,
    upstream: &Upstream,
    mode: Option<Mode>,
    threads: usize,
    dir: &Path,
) -> Result<(Option<Process>, std::net::SocketAddr)> {
    let listen = free_port("127.0.0.1")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("relayer");
    command.args(["--listen", &listen.to_string()]);
    command.args(["--server", &upstream.peer.to_string()]);
    command.args(["--threads", &threads.to_string()]);
    if let Some(mode) = mode {
        command.args(["--mode", mode.name()]);
    }
    let mut process = Process::start(name, command, dir)?;
    process.wait_listening(listen)?;
    if mode.is_none() {
        let output = process.output();
        let chosen = output.lines().find_map(|line| line.strip_prefix(CHOSEN));
        println!(
            "mvp relays by {}",
            chosen.context("the relay did not say its mode")?
        );
    }
    Ok((Some(process), listen))
}

/// A figure counts only if it was that mode that moved the bytes.
fn by_its_mode(target: &Target) -> Result<()> {
    let output = target.process.as_ref().map(Process::output);
    let output = output.unwrap_or_default();
    match output.lines().find(|line| line.starts_with(OTHERWISE)) {
        Some(line) => bail!("{}: {line}", target.name),
        None => Ok(()),
    }
}

async fn measure(target: &Target, get: &Get, options: &Options) -> Result<[Measured; 2]> {
    let duration = Duration::try_from_secs_f64(options.seconds)?;
    let [one, many] = LOADS;
    Ok([
        target.measure(get, one, duration).await?,
        target.measure(get, many, duration).await?,
    ])
}

/// Medians in microseconds, and CPU in microseconds per request.
#[derive(Clone, Copy)]
struct Figures {
    p50: f64,
    added: f64,
    cpu: f64,
}

/// Turns one round into values. Rows are made in the order of [`SUBJECTS`] whatever the round's order was.
fn record(report: &mut Report, results: &[(Subject, [Measured; 2])]) {
    for (index, load) in LOADS.iter().enumerate() {
        let of = |wanted: Subject| {
            let found = results.iter().find(|(subject, _)| *subject == wanted);
            found.map(|(_, measured)| &measured[index])
        };
        let Some(direct) = of(Subject::Direct).map(|m| m.outcome.latency.micros(0.5)) else {
            continue;
        };
        let figures: Vec<(Subject, Figures)> = SUBJECTS
            .into_iter()
            .filter_map(|subject| {
                let measured = of(subject)?;
                let p50 = measured.outcome.latency.micros(0.5);
                let figures = Figures {
                    p50,
                    added: p50 - direct,
                    cpu: measured.machine_cpu_micros(),
                };
                let rate = measured.outcome.requests_per_second();
                let metric = format!("throughput_rps{}", load.suffixes.work);
                report.add(subject.name(), &metric, "req/s", rate);
                Some((subject, figures))
            })
            .collect();
        add(report, load, &figures);
    }
}

fn add(report: &mut Report, load: &Load, figures: &[(Subject, Figures)]) {
    let (latency, work) = (load.suffixes.latency, load.suffixes.work);
    for (subject, f) in figures {
        let mut add = |metric: String, value| report.add(subject.name(), &metric, "us", value);
        add(format!("latency_p50_us{latency}"), f.p50);
        if *subject != Subject::Direct {
            add(format!("added_p50_us{latency}"), f.added);
        }
        add(format!("machine_cpu_us_per_request{work}"), f.cpu);
    }
    for (relayed, f) in figures.iter().filter(|(subject, _)| subject.is_relayed()) {
        for (other, than) in figures {
            if !matches!(other, Subject::Inspected | Subject::Haproxy) {
                continue;
            }
            let subject = format!("{}/{}", relayed.name(), other.name());
            let mut add = |metric, value| report.add(&subject, metric, "x", value);
            // Under saturation less may be waited for behind a proxy than before the server: no ratio of such differences.
            if load.connections > 1 {
                add("latency_p50_16x4_ratio", f.p50 / than.p50);
                add("cpu_ratio", f.cpu / than.cpu);
                continue;
            }
            if than.added > 0.0 {
                add("added_p50_ratio", f.added / than.added);
            }
            add("cpu_1x1_ratio", f.cpu / than.cpu);
        }
    }
}

fn tell(round: u32, results: &[(Subject, [Measured; 2])]) {
    let line: Vec<String> = results
        .iter()
        .map(|(subject, [one, many])| {
            format!(
                "{} p50 {:.0} us, {:.0} us CPU under load",
                subject.name(),
                one.outcome.latency.micros(0.5),
                many.machine_cpu_micros()
            )
        })
        .collect();
    println!("round {}: {}", round + 1, line.join(" | "));
}
