//! Aggregated discovery through an agent against the server it stands before: the whole document, and "not modified".
//!
//! Two planes: `steady`, where all servers agree and the agent only passes on; `mixed`, where it answers with its own merged
//! document after its server has answered. Subjects take turns in every round, in an order that rotates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use http::{HeaderMap, header};
use rustls_pki_types::ServerName;

use super::agent::{self, Agent};
use super::process::Process;
use super::report::Report;
use super::servers::Servers;
use crate::facts::V2;
use crate::load::{Call, Client, Endpoint, Get, Limit, Reply, Session, bearer, tls};
use crate::ports::free_port;
use crate::sim::ServerSpec;
use crate::sim::pki::Pki;

/// The arguments of `discovery`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds; every subject is measured once in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds for each load of each subject in a round
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Overrides the agent's configuration; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
}

/// Only 1.36 has it: its name in a document says that the document is merged.
const NEW: &[u8] = b"mutatingadmissionpolicies";
const TOKEN: &str = "admin-token";
const CONNECTIONS: [usize; 2] = [1, 64];
const RATIO: &str = "mvp/direct";

/// Runs the benchmark and prints its table. Takes `rounds * seconds * 16` and a little.
pub fn run(options: &Options) -> Result<()> {
    println!(
        "discovery: GET /apis, aggregated v2; TLS 1.3 and HTTP/2 on every leg; the servers are simulated"
    );
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing; use --release");
    }
    let mut report = Report::new("discovery");
    for (plane, minors) in [("steady", [36, 36]), ("mixed", [35, 36])] {
        let dir = tempfile::tempdir()?;
        let specs = ["cp-a", "cp-b"].iter().zip(minors);
        let specs = specs.map(|(name, minor)| ServerSpec::new(name, minor).log_capacity(16));
        let servers = Servers::start(dir.path(), specs.collect(), Vec::new())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(measure_plane(
            plane,
            options,
            &servers,
            dir.path(),
            &mut report,
        ))?;
    }
    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    Ok(())
}

struct Subject {
    name: &'static str,
    endpoint: Endpoint,
    /// Each with the ETag that this subject gives.
    requests: [(&'static str, Get); 2],
}

async fn measure_plane(
    plane: &str,
    options: &Options,
    servers: &Servers,
    dir: &Path,
    report: &mut Report,
) -> Result<()> {
    let agent = Agent {
        node: "cp-a".into(),
        listen: free_port("127.0.0.1")?,
        admin: free_port("127.0.0.1")?,
        local: servers.all[0].1,
        peers: servers.all[1..].to_vec(),
        threads: None,
    };
    let binary = agent::binary(options.mvp_binary.as_deref())?;
    let mut process = agent.start_set(&options.set, &binary, servers.pki.dir(), dir)?;
    let mut subjects = Vec::new();
    for (name, address) in [("direct", agent.local), ("mvp", agent.listen)] {
        subjects.push(subject(name, address, &servers.pki, &mut process, plane).await?);
    }
    for round in 0..options.rounds as usize {
        for (index, connections) in CONNECTIONS.into_iter().enumerate() {
            for request in 0..2 {
                let mut p50 = [0.0; 2];
                let mut rate = [0.0; 2];
                let metric = |what: &str, of: &str| format!("{plane}_{of}_{what}_{connections}c");
                let of = subjects[0].requests[request].0;
                for turn in 0..2 {
                    let number = (round + index + request + turn) % 2;
                    let subject = &subjects[number];
                    let outcome = subject
                        .measure(request, connections, options.seconds)
                        .await?;
                    p50[number] = outcome.latency.micros(0.5);
                    rate[number] = outcome.requests_per_second();
                    report.add(subject.name, &metric("p50", of), "us", p50[number]);
                    report.add(
                        subject.name,
                        &metric("p99", of),
                        "us",
                        outcome.latency.micros(0.99),
                    );
                    report.add(subject.name, &metric("rate", of), "req/s", rate[number]);
                }
                report.add(RATIO, &metric("p50_ratio", of), "x", p50[1] / p50[0]);
                report.add(RATIO, &metric("rate_ratio", of), "x", rate[1] / rate[0]);
            }
        }
        println!("{plane}: round {} of {}", round + 1, options.rounds);
        process.check()?;
    }
    Ok(())
}

/// Waits until the subject answers as it should, and takes its ETag.
async fn subject(
    name: &'static str,
    address: SocketAddr,
    pki: &Pki,
    process: &mut Process,
    plane: &str,
) -> Result<Subject> {
    let endpoint = Endpoint {
        address,
        server_name: ServerName::try_from("kubernetes.default.svc")?,
        tls: Arc::new(tls(pki.read("ca.crt")?.as_bytes(), &["h2"])?),
    };
    let client = Client::new(endpoint.clone(), Some(bearer(TOKEN)?));
    let merged = name == "mvp" && plane == "mixed";
    let deadline = Instant::now() + Duration::from_secs(20);
    let reply = loop {
        let reply = client.send(&discovery_call(None)?).await;
        match &reply {
            Ok(reply) if reply.status == 200 && (!merged || holds(&reply.body, NEW)) => {}
            _ if Instant::now() < deadline => {
                process.check()?;
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Ok(reply) if reply.status == 200 => {
                println!(
                    "THE AGENT'S DOCUMENT IS NOT MERGED: what follows for {plane} is plain forwarding"
                );
            }
            other => bail!(
                "{name} has no discovery: {other:?}; the agent wrote:\n{}",
                process.output()
            ),
        }
        break reply?;
    };
    let etag = etag(&reply).context("no ETag")?;
    println!("{plane} {name}: {} bytes", reply.body.len());
    Ok(Subject {
        name,
        endpoint,
        requests: [("200", get(None)?), ("304", get(Some(&etag))?)],
    })
}

impl Subject {
    async fn measure(
        &self,
        request: usize,
        connections: usize,
        seconds: f64,
    ) -> Result<crate::load::Outcome> {
        let session = Session::open(std::slice::from_ref(&self.endpoint), connections).await?;
        let (what, get) = &self.requests[request];
        let duration = Duration::try_from_secs_f64(seconds)?;
        session.run(get, 1, Limit::duration(duration / 10)).await;
        let outcome = session.run(get, 1, Limit::duration(duration)).await;
        ensure!(
            outcome.answers.not_ok() == 0 && outcome.answers.ok > 0,
            "{} {what}: {:?}",
            self.name,
            outcome.answers
        );
        // Bodies tell a 200 from a 304.
        let whole = outcome.bytes > 0;
        ensure!(
            whole == (*what == "200"),
            "{} {what}: {} bytes",
            self.name,
            outcome.bytes
        );
        Ok(outcome)
    }
}

fn get(etag: Option<&str>) -> Result<Get> {
    let mut headers = headers(etag)?;
    headers.insert(header::AUTHORIZATION, bearer(TOKEN)?);
    Ok(Get {
        uri: "https://kubernetes.default.svc/apis".parse()?,
        headers,
    })
}

/// GET of aggregated discovery, conditional if an ETag is given.
pub(super) fn discovery_call(etag: Option<&str>) -> Result<Call> {
    Ok(Call {
        headers: headers(etag)?,
        ..Call::get("/apis")
    })
}

pub(super) fn etag(reply: &Reply) -> Option<String> {
    Some(reply.headers.get(header::ETAG)?.to_str().ok()?.to_owned())
}

pub(super) fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

fn headers(etag: Option<&str>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, V2.parse()?);
    headers.insert(header::USER_AGENT, "mvp-bench".parse()?);
    if let Some(etag) = etag {
        headers.insert(header::IF_NONE_MATCH, etag.parse()?);
    }
    Ok(headers)
}
