//! What a good client feels while a hostile one attacks: its errors and its slowest requests, against the same without an attack.
//!
//! The servers are simulated kube-apiservers, which do to attackers what real ones do. Subjects take turns in every round, in an
//! order that rotates, each with a quiet time first and then one attack after the other.

mod attacks;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use http::HeaderValue;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval};

pub use attacks::Attack;

use super::agent::{self, Agent};
use super::haproxy;
use super::process::Process;
use super::report::Report;
use super::target::{SERVER_NAME, cores, positive};
use crate::fixtures::{CONFIG_MAPS, spec};
use crate::load::{Call, Client, Endpoint, Latency, bearer, tls};
use crate::ports::free_port;
use crate::sim::ControlPlane;
use crate::sim::pki::ClientAuth;

/// The arguments of `neighbour`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// One round of 2 s for each attack
    #[arg(long)]
    pub quick: bool,
    /// Rounds; every subject is measured once in each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds for each attack on each subject in a round
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub seconds: f64,
    /// Which attacks [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub attacks: Vec<Attack>,
    /// What to attack
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,mvp,haproxy"
    )]
    pub subjects: Vec<Subject>,
    /// The agent [default: mvp beside this program]
    #[arg(long, value_name = "FILE")]
    pub mvp_binary: Option<PathBuf>,
    /// Overrides the agent's configuration
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What stands between the clients and the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Subject {
    /// No agent: everybody talks to kube-apiserver itself
    Direct,
    /// Through `mvp agent`, whose servers differ
    Mvp,
    /// Through HAProxy
    Haproxy,
}

/// The good client's token, and the user that it stands for.
const TOKEN: &str = "good-neighbour";
/// Between two requests on a kept connection, and between two new connections.
const KEPT: Duration = Duration::from_millis(10);
const NEW: Duration = Duration::from_millis(50);
/// After an attack, until the next begins.
const REST: Duration = Duration::from_millis(500);

/// Somebody to attack.
struct Target {
    subject: Subject,
    address: SocketAddr,
    _process: Option<Process>,
}

/// What the good client saw.
#[derive(Default)]
struct Seen {
    errors: u64,
    kept: Latency,
    new: Latency,
}

/// Runs the benchmark and prints its table.
///
/// # Errors
/// A subject cannot be started, or cannot serve the good client even in quiet.
pub fn run(options: &Options) -> Result<()> {
    let (rounds, seconds) = match options.quick {
        true => (1, 2.0),
        false => (options.rounds, options.seconds),
    };
    let attacks = match options.attacks.as_slice() {
        [] => &Attack::ALL,
        chosen => chosen,
    };
    crate::child::raise_descriptor_limit()?;
    let dir = tempfile::tempdir()?;
    // Servers and attackers do not share the good client's thread.
    let servers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let attackers = attackers()?;
    let plane = servers.block_on(async {
        let specs = [spec(b'a', 35), spec(b'b', 36)];
        ControlPlane::builder().servers(specs).start().await
    })?;
    let user = serde_json::json!({"name": "good", "groups": ["system:masters"]});
    plane.add_token(TOKEN, serde_json::from_value(user)?);
    let targets = start(options, &plane, dir.path())?;
    let hostile = Arc::new(plane.pki().client_config(ClientAuth::None, &[])?);
    let good = Arc::new(tls(plane.pki().read("ca.crt")?.as_bytes(), &["h2"])?);
    println!(
        "neighbour: {rounds} rounds of {seconds} s for each attack; client, attackers, servers and proxies share {} cores",
        cores()
    );
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures say nothing; use --release");
    }
    let mut report = Report::new("neighbour");
    let duration = Duration::from_secs_f64(seconds);
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for round in 0..rounds as usize {
        for turn in 0..targets.len() {
            let target = &targets[(round + turn) % targets.len()];
            let endpoint = endpoint(target.address, &good)?;
            let quiet = client.block_on(good_client(&endpoint, duration));
            ensure!(
                quiet.errors == 0,
                "{}: {} errors without any attack",
                name(target.subject),
                quiet.errors
            );
            record(&mut report, target.subject, "quiet", &quiet, None);
            for attack in attacks {
                let running = attackers.spawn(attack.run(target.address, Arc::clone(&hostile)));
                let seen = client.block_on(good_client(&endpoint, duration));
                running.abort();
                let attack = attack.name();
                println!(
                    "round {}: {} {attack}: {} errors, p99 {:.1} ms (quiet {:.1} ms)",
                    round + 1,
                    name(target.subject),
                    seen.errors,
                    seen.kept.micros(0.99) / 1e3,
                    quiet.kept.micros(0.99) / 1e3
                );
                record(&mut report, target.subject, attack, &seen, Some(&quiet));
                std::thread::sleep(REST);
            }
        }
    }
    println!("\n{}", report.table());
    tell_goals(&report);
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    Ok(())
}

/// One thread, which has a processor only while nobody else wants it (SCHED_IDLE, sched(7)). Attackers are on machines of their own, and
/// what they compute there costs nobody anything; here they would hold up the good client by themselves. With nice 19 they do as well:
/// who wakes up may have to wait until the running thread's slice of 3 ms has ended (`RUN_TO_PARITY` of kernel/sched/features.h).
fn attackers() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(|| {
            if let Err(error) = only_while_idle() {
                println!("THE ATTACKERS COMPETE with the good client: {error:#}");
            }
        })
        .enable_all()
        .build()?)
}

/// The kernel knows threads as it knows processes; chrt (util-linux) asks it.
fn only_while_idle() -> Result<()> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt")
        .args(["--idle", "--pid", "0", &thread])
        .status()?;
    ensure!(status.success(), "chrt: {status}");
    Ok(())
}

fn endpoint(address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Endpoint> {
    Ok(Endpoint {
        address,
        server_name: ServerName::try_from(SERVER_NAME)?,
        tls: Arc::clone(tls),
    })
}

fn start(options: &Options, plane: &ControlPlane, dir: &Path) -> Result<Vec<Target>> {
    let (local, peer) = (plane.server(0).addr(), plane.server(1).addr());
    let mut targets = Vec::new();
    for &subject in &options.subjects {
        let (process, address) = match subject {
            Subject::Direct => (None, local),
            Subject::Mvp => {
                let binary = agent::binary(options.mvp_binary.as_deref())?;
                let agent = Agent {
                    node: "cp-a".into(),
                    listen: free_port("127.0.0.1")?,
                    admin: free_port("127.0.0.1")?,
                    local,
                    peers: vec![("cp-b".into(), peer)],
                    threads: None,
                };
                let mut process = agent.start_set(&options.set, &binary, plane.pki().dir(), dir)?;
                agent.wait_ready(&mut process)?;
                (Some(process), agent.listen)
            }
            Subject::Haproxy => match haproxy::available() {
                Ok(()) => {
                    let threads = cores().min(4);
                    let (process, address) = haproxy::start(plane.pki(), local, threads, dir)?;
                    (Some(process), address)
                }
                Err(missing) => {
                    println!("WITHOUT HAProxy: {missing:#}");
                    continue;
                }
            },
        };
        targets.push(Target {
            subject,
            address,
            _process: process,
        });
    }
    ensure!(!targets.is_empty(), "nothing to attack");
    Ok(targets)
}

/// A request every 10 ms on a kept connection, and one every 50 ms on a new one. An answer other than 200 is an error.
async fn good_client(endpoint: &Endpoint, duration: Duration) -> Seen {
    let until = Instant::now() + duration;
    let Ok(token) = bearer(TOKEN) else {
        return Seen::default();
    };
    let kept = Client::new(endpoint.clone(), Some(token.clone()));
    let (kept, new) = tokio::join!(
        requests(&kept, until),
        new_connections(endpoint, &token, until)
    );
    Seen {
        errors: kept.0 + new.0,
        kept: kept.1,
        new: new.1,
    }
}

async fn requests(client: &Client, until: Instant) -> (u64, Latency) {
    let (mut errors, mut latency) = (0, Latency::new());
    let mut tick = interval(KEPT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < until {
        tick.tick().await;
        one(client, &mut errors, &mut latency).await;
    }
    (errors, latency)
}

async fn new_connections(
    endpoint: &Endpoint,
    token: &HeaderValue,
    until: Instant,
) -> (u64, Latency) {
    let (mut errors, mut latency) = (0, Latency::new());
    let mut tick = interval(NEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < until {
        tick.tick().await;
        let client = Client::new(endpoint.clone(), Some(token.clone()));
        one(&client, &mut errors, &mut latency).await;
    }
    (errors, latency)
}

/// An error counts with the time that it took: a client waits for it as well.
async fn one(client: &Client, errors: &mut u64, latency: &mut Latency) {
    let begun = Instant::now();
    let reply = client.send(&Call::get(CONFIG_MAPS)).await;
    latency.record(begun.elapsed());
    if !reply.is_ok_and(|reply| reply.status == 200) {
        *errors += 1;
    }
}

fn record(report: &mut Report, subject: Subject, attack: &str, seen: &Seen, quiet: Option<&Seen>) {
    let subject = name(subject);
    let mut add = |what: &str, unit, value| {
        report.add(subject, &format!("{attack}_{what}"), unit, value);
    };
    add("errors", "", seen.errors as f64);
    add("p99_ms", "ms", seen.kept.micros(0.99) / 1e3);
    add("new_p99_ms", "ms", seen.new.micros(0.99) / 1e3);
    if let Some(quiet) = quiet {
        let ratio = seen.kept.micros(0.99) / quiet.kept.micros(0.99).max(1.0);
        add("p99_ratio", "x", ratio);
    }
}

/// No errors, and a p99 of at most twice the quiet one: reported, not asserted.
fn tell_goals(report: &Report) {
    for row in report.rows() {
        let goal = match row.metric.as_str() {
            metric if metric.ends_with("_errors") => 0.0,
            metric if metric.ends_with("_p99_ratio") => 2.0,
            _ => continue,
        };
        if row.subject == name(Subject::Mvp) && row.median > goal {
            println!("goal missed: {} is {}, not {goal}", row.metric, row.median);
        }
    }
}

fn name(subject: Subject) -> &'static str {
    match subject {
        Subject::Direct => "direct",
        Subject::Mvp => "mvp",
        Subject::Haproxy => "haproxy",
    }
}
