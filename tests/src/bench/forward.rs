//! A small GET that only another server can answer: what does a terminating proxy add to it?
//!
//! Subjects take turns in every round, in an order that rotates, so that a machine that grows slower or faster meets all
//! of them. Added latency is the difference to `direct` of the same round.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use http::{HeaderMap, header};
use rustls_pki_types::ServerName;

use super::agent::{self, Agent};
use super::haproxy;
use super::process::{Process, free_port};
use super::report::Report;
use super::upstream::{ANSWERED_BY, PATH, Upstream};
use crate::load::{Endpoint, Get, Limit, Outcome, Session, bearer, tls};
use crate::sim::pki::Pki;

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
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Subject {
    /// The client talks to the peer itself
    Direct,
    /// Through `mvp agent`, whose own server does not serve what is asked
    Mvp,
    /// Through HAProxy: TLS terminated, HTTP/2 on both sides, connections reused
    Haproxy,
}

/// The two loads.
#[derive(Clone, Copy, Debug)]
struct Load {
    connections: usize,
    streams: usize,
    /// Appended to a metric's name.
    suffixes: Suffixes,
}

#[derive(Clone, Copy, Debug)]
struct Suffixes {
    latency: &'static str,
    work: &'static str,
}

/// The subject of rows that compare.
const RATIO: &str = "mvp/haproxy";

/// Latency is asked of an idle machine, CPU and throughput of a busy one: those have the plain names.
const LOADS: [Load; 2] = [
    Load {
        connections: 1,
        streams: 1,
        suffixes: Suffixes {
            latency: "",
            work: "_1x1",
        },
    },
    Load {
        connections: 16,
        streams: 4,
        suffixes: Suffixes {
            latency: "_16x4",
            work: "",
        },
    },
];

/// Runs the benchmark and prints its table. Needs the two binaries; takes `rounds * seconds * 6` and a little.
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
            subject.wait_for_peer(&get).await?;
        }
        for round in 0..options.rounds as usize {
            measure_round(round, options, &mut subjects, &get, &mut report).await?;
        }
        anyhow::Ok(())
    })?;

    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    Ok(())
}

/// The GET of the benchmark, with a bearer token as a service account would send.
pub fn request() -> Result<Get> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, "application/json".parse()?);
    headers.insert(header::USER_AGENT, "mvp-bench".parse()?);
    headers.insert(header::AUTHORIZATION, bearer(TOKEN)?);
    Ok(Get {
        uri: format!("https://kubernetes.default.svc{PATH}").parse()?,
        headers,
    })
}

/// The length of a service account's token, roughly.
const TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJlbmNobWFyayJ9.",
    "eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMiLCJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6ZGVmYXVsdDpiZW5jaCJ9.",
    "bm90LWEtc2lnbmF0dXJlLWJ1dC1hcy1sb25nLWFzLW9uZS1ub3QtYS1zaWduYXR1cmUtYnV0LWFzLWxvbmctYXMtb25lLW5vdC1hLXNpZ25hdHVyZQ"
);

struct Running {
    subject: Subject,
    endpoint: Endpoint,
    process: Option<Process>,
}

struct Measured {
    outcome: Outcome,
    /// Of the proxy; `None` for `direct`.
    cpu: Option<Duration>,
}

fn start(
    options: &Options,
    pki: &Pki,
    upstream: &Upstream,
    threads: usize,
    dir: &Path,
) -> Result<Vec<Running>> {
    let tls = Arc::new(tls(pki.read("ca.crt")?.as_bytes(), &["h2"])?);
    let mut running = Vec::new();
    for &subject in &options.subjects {
        let (process, address) = match subject {
            Subject::Direct => (None, upstream.peer),
            Subject::Mvp => {
                let binary = agent::binary(options.mvp_binary.as_deref())?;
                let agent = agent(upstream, threads)?;
                (Some(agent.start(&binary, pki.dir(), dir)?), agent.listen)
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
        let server_name = ServerName::try_from("kubernetes.default.svc")?;
        running.push(Running {
            subject,
            endpoint: Endpoint {
                address,
                server_name,
                tls: tls.clone(),
            },
            process,
        });
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
        "forward: a GET of 1 KiB that only the peer can answer; TLS 1.3 and HTTP/2 on every leg"
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
    subjects: &mut [Running],
    get: &Get,
    report: &mut Report,
) -> Result<()> {
    let mut results: Vec<(Subject, [Measured; 2])> = Vec::new();
    for turn in 0..subjects.len() {
        let index = (round + turn) % subjects.len();
        let running = &mut subjects[index];
        let seconds = Duration::from_secs_f64(options.seconds);
        let [one, many] = LOADS;
        results.push((
            running.subject,
            [
                running.measure(get, one, seconds).await?,
                running.measure(get, many, seconds).await?,
            ],
        ));
    }
    let line: Vec<String> = results
        .iter()
        .map(|(subject, [one, many])| {
            format!(
                "{} p50 {:.0} us, {:.0} req/s",
                name(*subject),
                one.outcome.latency.micros(0.5),
                many.outcome.requests_per_second()
            )
        })
        .collect();
    println!("round {}: {}", round + 1, line.join(" | "));
    record(&results, report);
    Ok(())
}

/// Turns one round into values. Rows are made in the order of the subjects' names whatever the round's order was.
fn record(results: &[(Subject, [Measured; 2])], report: &mut Report) {
    let of = |wanted: Subject| {
        results
            .iter()
            .find(|(subject, _)| *subject == wanted)
            .map(|(_, measured)| measured)
    };
    for (index, load) in LOADS.iter().enumerate() {
        let Suffixes { latency, work } = load.suffixes;
        let direct = of(Subject::Direct).map(|measured| &measured[index].outcome.latency);
        let mut added = [None; 2];
        let mut cpu = [None; 2];
        for subject in [Subject::Direct, Subject::Mvp, Subject::Haproxy] {
            let Some(Measured { outcome, cpu: used }) =
                of(subject).map(|measured| &measured[index])
            else {
                continue;
            };
            let mut add =
                |metric: String, unit, value| report.add(name(subject), &metric, unit, value);
            add(
                format!("throughput_rps{work}"),
                "req/s",
                outcome.requests_per_second(),
            );
            for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                add(
                    format!("{label}_us{latency}"),
                    "us",
                    outcome.latency.micros(quantile),
                );
                if let (Some(direct), false) = (direct, subject == Subject::Direct) {
                    let more = outcome.latency.micros(quantile) - direct.micros(quantile);
                    add(format!("added_{label}_us{latency}"), "us", more);
                    if label == "p50" {
                        added[usize::from(subject == Subject::Haproxy)] = Some(more);
                    }
                }
            }
            if let Some(used) = used {
                let micros = used.as_secs_f64() * 1e6 / outcome.answers.total() as f64;
                add(format!("cpu_us_per_request{work}"), "us", micros);
                cpu[usize::from(subject == Subject::Haproxy)] = Some(micros);
            }
        }
        // Under saturation less may be waited for behind a proxy than before the upstream: no ratio of such differences.
        if let (1, [Some(mvp), Some(haproxy)]) = (load.connections, added)
            && haproxy > 0.0
        {
            report.add(RATIO, "added_p50_ratio", "x", mvp / haproxy);
        }
        if let [Some(mvp), Some(haproxy)] = cpu {
            report.add(RATIO, &format!("cpu_ratio{work}"), "x", mvp / haproxy);
        }
    }
}

impl Running {
    /// Until the peer's answer arrives, as the agent has to learn first who serves the group.
    async fn wait_for_peer(&mut self, get: &Get) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = answered_by(&self.endpoint, get).await;
            if matches!(&seen, Ok(Some(server)) if server == "peer") {
                return Ok(());
            }
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            if Instant::now() > deadline {
                let output = self
                    .process
                    .as_ref()
                    .map(Process::output)
                    .unwrap_or_default();
                bail!(
                    "{} forwards nothing to the peer; last answer {seen:?}; it wrote:\n{output}",
                    name(self.subject)
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn measure(&mut self, get: &Get, load: Load, duration: Duration) -> Result<Measured> {
        let session = Session::open(std::slice::from_ref(&self.endpoint), load.connections).await?;
        session
            .run(get, load.streams, Limit::duration(duration / 10))
            .await;
        let before = self.process.as_ref().map(Process::cpu).transpose()?;
        let outcome = session
            .run(get, load.streams, Limit::duration(duration))
            .await;
        let after = self.process.as_ref().map(Process::cpu).transpose()?;
        let wrong = outcome.answers.not_ok();
        ensure!(
            wrong == 0 && outcome.answers.ok > 0,
            "{}: {wrong} of {} requests failed ({:?}); {}",
            name(self.subject),
            outcome.answers.total(),
            outcome.answers,
            self.process
                .as_ref()
                .map(Process::output)
                .unwrap_or_default()
        );
        // A local answer would be cheaper than a forwarded one, and wrong.
        let server = answered_by(&self.endpoint, get).await?;
        ensure!(
            server.as_deref() == Some("peer"),
            "{}: the answer came from {server:?}",
            name(self.subject)
        );
        Ok(Measured {
            outcome,
            cpu: before.zip(after).map(|(before, after)| after - before),
        })
    }
}

/// Which of the upstream's servers answers `get`, if its answer is a 200.
async fn answered_by(endpoint: &Endpoint, get: &Get) -> Result<Option<String>> {
    let io = endpoint.connect().await?;
    let (sender, connection) = h2::client::handshake(io).await?;
    let driver = tokio::spawn(connection);
    let mut request = http::Request::get(get.uri.clone()).body(())?;
    *request.headers_mut() = get.headers.clone();
    let response = sender
        .ready()
        .await?
        .send_request(request, true)?
        .0
        .await
        .context("no answer")?;
    driver.abort();
    if !response.status().is_success() {
        bail!("status {}", response.status());
    }
    Ok(response
        .headers()
        .get(ANSWERED_BY)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned))
}

fn name(subject: Subject) -> &'static str {
    match subject {
        Subject::Direct => "direct",
        Subject::Mvp => "mvp",
        Subject::Haproxy => "haproxy",
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("a number above 0 is needed".into()),
    }
}
