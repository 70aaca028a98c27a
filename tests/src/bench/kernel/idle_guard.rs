//! An idle guard before a server, against no agent at all: requests on connections that stay, and on one each.
//!
//! All subjects are in one network namespace, with the same server and the same client.
//!
//! - None: no program, no agent.
//! - Again: the same once more. Its ratio to the first says what the machine alone makes of two equal subjects; nothing below that
//!   can be told apart here.
//! - Idle: an agent that has installed its steering, and whose guard has gone idle since its servers agree. The client counts as
//!   one of another node (`inspect.exceptSources`), so the program looks its address up and lets it pass.
//! - Local: the same agent by default. The client is on the node itself, and such clients are inspected also while the guard is
//!   idle: what that costs them is reported, without a goal.
//!
//! What is looked for is the cost of an agent that has been idle for a while. So a slice begins when the agent has got through its
//! start, in which it proves its servers and reads their documents, and what it uses of the CPU meanwhile is reported.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mvp::kernel::{Counters, read_pinned, uninstall};
use mvp_common::Counter;
use rustls::client::Resumption;
use serde_json::json;

use super::{Options, node};
use crate::bench::agent::{self, Agent};
use crate::bench::process::Process;
use crate::bench::report::{Report, median};
use crate::bench::target::{LOADS, Target, answered_by, request};
use crate::bench::upstream::Upstream;
use crate::load::{Get, Latency};
use crate::ports::free_port;
use crate::sim::pki::Pki;

pub(super) fn run(options: &Options) -> Result<Report> {
    node::run(|pins| Bench::new(options, pins)?.measure(options))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    None,
    Again,
    Idle,
    Local,
}

use Subject::{Again, Idle, Local, None as Nobody};

/// Each as often as the others, and each at places of the same sum, so that a steady drift of the machine favours none of them.
#[rustfmt::skip]
const ORDER: [Subject; 16] = [
    Nobody, Idle, Local, Again,
    Again, Local, Idle, Nobody,
    Idle, Nobody, Again, Local,
    Local, Again, Nobody, Idle,
];

/// An agent is through its start when it takes no more than this of the CPU in a second: two ticks of the kernel's accounting.
const QUIET: Duration = Duration::from_millis(20);
const START: Duration = Duration::from_secs(6);

/// Longer than any slice takes beyond its time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Median latencies in microseconds.
#[derive(Clone, Copy, Default)]
struct Figures {
    /// The latency of a request on a connection that stays.
    latency: f64,
    /// The latency of connection, handshake and request together.
    connect: f64,
    /// What the agent took of one CPU meanwhile, milliseconds per second.
    agent: f64,
}

struct Bench<'a> {
    pins: &'a Path,
    dir: tempfile::TempDir,
    pki: Pki,
    upstream: Upstream,
    binary: std::path::PathBuf,
    get: Get,
}

/// An agent with an idle guard.
struct Guarded {
    agent: Process,
    before: Counters,
    /// What the program must count every connection as.
    outcome: Counter,
}

impl<'a> Bench<'a> {
    fn new(options: &Options, pins: &'a Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let pki = Pki::generate(dir.path())?;
        Ok(Self {
            pins,
            upstream: Upstream::start(&pki)?,
            pki,
            dir,
            binary: agent::binary(options.mvp_binary.as_deref())?,
            get: request()?,
        })
    }

    fn measure(&self, options: &Options) -> Result<Report> {
        let mut report = Report::new("idle_guard");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let slice = Duration::try_from_secs_f64(options.seconds / 4.0)?;
        for round in 0..options.rounds {
            let mut slices: [Vec<Figures>; 4] = Default::default();
            for subject in ORDER {
                let guarded = match subject {
                    Nobody | Again => None,
                    Idle => Some(self.guarded(options, Counter::PassIdle)?),
                    Local => Some(self.guarded(options, Counter::SteeredLocal)?),
                };
                let (begin, cpu) = (Instant::now(), cpu(guarded.as_ref())?);
                let (mut figures, connections) = runtime.block_on(async {
                    let limit = 4 * slice + PATIENCE;
                    let measured = tokio::time::timeout(limit, self.slice(slice)).await;
                    measured.context("connections or requests hang")?
                })?;
                if let Some(guarded) = guarded {
                    let used = guarded.agent.cpu()?.saturating_sub(cpu);
                    figures.agent = 1000.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64();
                    self.check(guarded, connections)?;
                }
                slices[subject as usize].push(figures);
            }
            let [none, again, idle, local] = slices.map(|slices| middle(&slices));
            for (subject, f) in [
                ("none", none),
                ("again", again),
                ("idle", idle),
                ("local", local),
            ] {
                report.add(subject, "latency_p50_us", "us", f.latency);
                report.add(subject, "connect_latency_p50_us", "us", f.connect);
            }
            report.add("idle", "agent_cpu_ms_per_s", "ms", idle.agent);
            for (pair, f) in [
                ("again/none", again),
                ("idle/none", idle),
                ("local/none", local),
            ] {
                report.add(pair, "latency_p50_ratio", "x", f.latency / none.latency);
                let connect = f.connect / none.connect;
                report.add(pair, "connect_latency_p50_ratio", "x", connect);
            }
            println!(
                "round {}: a request {:.1} us, again {:.1} us, idle {:.1} us, local {:.1} us; with its connection {:.1} us, again {:.1} us, idle {:.1} us, local {:.1} us",
                round + 1,
                none.latency,
                again.latency,
                idle.latency,
                local.latency,
                none.connect,
                again.connect,
                idle.connect,
                local.connect
            );
        }
        Ok(report)
    }

    /// Starts an agent and waits until its guard is idle. The client's connections are to have this outcome.
    fn guarded(&self, options: &Options, outcome: Counter) -> Result<Guarded> {
        // Two servers that agree.
        let agent = Agent {
            node: "bench-local".into(),
            listen: free_port("127.0.0.1")?,
            admin: free_port("127.0.0.1")?,
            local: self.upstream.peer,
            peers: vec![("bench-peer".into(), self.upstream.twin)],
            threads: Some(options.threads()),
        };
        let mut config = agent.config(self.pki.dir());
        config["inspect"] = match outcome {
            Counter::SteeredLocal => json!({"mode": "auto"}),
            _ => json!({"mode": "auto", "exceptSources": ["127.0.0.0/8"]}),
        };
        config["kernel"] = json!({
            "steering": "on",
            "pinPath": self.pins,
            // Longer than the default of discovery.interval, as it has to be.
            "settle": "2s",
            // Not there, and not this machine's own.
            "manifest": self.dir.path().join("kube-apiserver.yaml"),
        });
        let mut process = agent.start_with(&config, &self.binary, self.dir.path())?;
        agent.wait_ready(&mut process)?;
        process.wait_until("let its guard go idle", || {
            read_pinned(self.pins).is_ok_and(|view| {
                let port = self.upstream.peer.port();
                view.attached && view.ports == [port] && view.guard.alive && !view.guard.armed
            })
        })?;
        come_to_rest(&mut process)?;
        Ok(Guarded {
            agent: process,
            before: read_pinned(self.pins)?.counters,
            outcome,
        })
    }

    /// Ends the agent and removes its program.
    ///
    /// # Errors
    /// If the program has not seen all connections, or any of them had another outcome than the expected one.
    fn check(&self, guarded: Guarded, connections: u64) -> Result<()> {
        let Guarded {
            agent,
            before,
            outcome,
        } = guarded;
        let after = read_pinned(self.pins)?.counters;
        let since = |counter| after.get(counter) - before.get(counter);
        let (steered, local, passed) = (
            since(Counter::Steered),
            since(Counter::SteeredLocal),
            since(Counter::PassIdle),
        );
        let others = steered + local + passed - since(outcome);
        ensure!(
            others == 0 && since(outcome) >= connections,
            "of {connections} connections {passed} passed by an idle guard, {local} were steered as local, and {steered} otherwise"
        );
        drop(agent);
        Ok(uninstall(self.pins)?)
    }

    /// Both loads for a while, and how many connections that were.
    async fn slice(&self, duration: Duration) -> Result<(Figures, u64)> {
        let mut target = Target::new("server", self.upstream.peer, &self.pki, None)?;
        let kept = target.measure(&self.get, LOADS[0], duration).await?;
        // Go's TLS client resumes no session unless told to.
        let mut tls = (*target.endpoint.tls).clone();
        tls.resumption = Resumption::disabled();
        target.endpoint.tls = Arc::new(tls);
        let mut latency = Latency::new();
        for (wanted, counted) in [(duration / 10, false), (duration, true)] {
            let deadline = Instant::now() + wanted;
            loop {
                let start = Instant::now();
                if start >= deadline && (!counted || latency.count() > 0) {
                    break;
                }
                answered_by(&target.endpoint, &self.get).await?;
                if counted {
                    latency.record(start.elapsed());
                }
            }
        }
        let figures = Figures {
            latency: kept.outcome.latency.micros(0.5),
            connect: latency.micros(0.5),
            agent: 0.0,
        };
        Ok((figures, latency.count()))
    }
}

/// Waits until the agent is through its start, but no longer than [`START`]: something else may keep it busy, and the figure of its CPU
/// says so.
fn come_to_rest(agent: &mut Process) -> Result<()> {
    let deadline = Instant::now() + START;
    let mut before = agent.cpu()?;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(1));
        agent.check()?;
        let used = agent.cpu()?;
        if used.saturating_sub(before) <= QUIET {
            break;
        }
        before = used;
    }
    Ok(())
}

/// What the agent has used of the CPU so far, if there is one.
fn cpu(guarded: Option<&Guarded>) -> Result<Duration> {
    guarded.map_or(Ok(Duration::ZERO), |guarded| guarded.agent.cpu())
}

/// The median slice: what else ran on the machine for a moment is in one slice or two.
fn middle(slices: &[Figures]) -> Figures {
    let of = |value: fn(&Figures) -> f64| median(slices.iter().map(value).collect());
    Figures {
        latency: of(|f| f.latency),
        connect: of(|f| f.connect),
        agent: of(|f| f.agent),
    }
}
