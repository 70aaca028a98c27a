//! An idle guard before a server, against no agent at all: requests on connections that stay, and on one each.
//!
//! Both subjects are in one network namespace, with the same server and the same client. Idle: the steering program attached,
//! the server's port steered, an agent that listens and watches the server as always. None: no program, no agent.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mvp::kernel::{Reason, Targets};
use mvp_common::Counter;
use rustls::client::Resumption;

use super::{Options, node};
use crate::bench::agent::{self, Agent};
use crate::bench::process::{Process, free_port};
use crate::bench::report::Report;
use crate::bench::target::{LOADS, Target, answered_by, request};
use crate::bench::upstream::Upstream;
use crate::load::{Get, Latency};
use crate::sim::pki::Pki;

pub(super) fn run(options: &Options) -> Result<Report> {
    node::run(|pins| Bench::new(options, pins)?.measure(options))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    None,
    Idle,
}

use Subject::{Idle, None as Nobody};

/// Each as often as the other, and each as early, so that a steady drift of the machine is nobody's.
const ORDERS: [[Subject; 4]; 2] = [[Nobody, Idle, Idle, Nobody], [Idle, Nobody, Nobody, Idle]];

/// Median latencies in microseconds.
#[derive(Clone, Copy, Default)]
struct Figures {
    /// Of a request on a connection that stays.
    latency: f64,
    /// Of connection, handshake and request together.
    connect: f64,
}

struct Bench<'a> {
    pins: &'a Path,
    dir: tempfile::TempDir,
    pki: Pki,
    upstream: Upstream,
    binary: std::path::PathBuf,
    get: Get,
}

/// The agent, and the program. Its guard is set from here: the servers agree, so that the agent would.
struct Guarded {
    _agent: Process,
    installed: node::Installed,
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
        let slice = Duration::try_from_secs_f64(options.seconds / 2.0)?;
        for round in 0..options.rounds {
            let mut none = Vec::new();
            let mut idle = Vec::new();
            for subject in ORDERS[round as usize % 2] {
                let guarded = match subject {
                    Nobody => None,
                    Idle => Some(self.guarded(options)?),
                };
                let before = guarded.as_ref().map(Guarded::passed).transpose()?;
                let (figures, connections) = runtime.block_on(self.slice(slice))?;
                if let (Some(guarded), Some(before)) = (guarded, before) {
                    let passed = guarded.passed()? - before;
                    ensure!(
                        passed >= connections,
                        "{connections} connections, of which the program has seen {passed}"
                    );
                    guarded.installed.remove()?;
                }
                if subject == Idle {
                    &mut idle
                } else {
                    &mut none
                }
                .push(figures);
            }
            let [none, idle] = [none, idle].map(|slices| mean(&slices));
            for (subject, f) in [("none", none), ("idle", idle)] {
                report.add(subject, "latency_p50_us", "us", f.latency);
                report.add(subject, "connect_latency_p50_us", "us", f.connect);
            }
            let mut ratio = |metric, value| report.add("idle/none", metric, "x", value);
            ratio("latency_p50_ratio", idle.latency / none.latency);
            ratio("connect_latency_p50_ratio", idle.connect / none.connect);
            println!(
                "round {}: a request {:.1} us, idle {:.1} us; with its connection {:.1} us, idle {:.1} us",
                round + 1,
                none.latency,
                idle.latency,
                none.connect,
                idle.connect
            );
        }
        Ok(report)
    }

    fn guarded(&self, options: &Options) -> Result<Guarded> {
        // Two servers that agree.
        let agent = Agent {
            node: "bench-local".into(),
            listen: free_port("127.0.0.1")?,
            admin: free_port("127.0.0.1")?,
            local: self.upstream.peer,
            peers: vec![("bench-peer".into(), self.upstream.twin)],
            threads: Some(options.threads()),
        };
        let process = agent.start_ready(&self.binary, self.pki.dir(), self.dir.path())?;
        let targets = Targets {
            ports: vec![self.upstream.peer.port()],
            own_sources: vec!["127.66.0.1".parse()?],
            peers: vec![],
            peer_ports: 700..=799,
        };
        // Stands in the slot for the agent's. An idle guard is looked at before the slot.
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut installed = node::Installed::start(self.pins, &targets, listener, node::BEAT)?;
        installed.steering.disarm(Reason::Settled)?;
        Ok(Guarded {
            _agent: process,
            installed,
        })
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
        };
        Ok((figures, latency.count()))
    }
}

impl Guarded {
    /// Lookups that passed because the guard is idle.
    ///
    /// # Errors
    /// If any was steered.
    fn passed(&self) -> Result<u64> {
        let counters = self.installed.steering.counters()?;
        let steered = counters.get(Counter::Steered);
        ensure!(steered == 0, "an idle guard steered {steered} connections");
        Ok(counters.get(Counter::PassIdle))
    }
}

fn mean(slices: &[Figures]) -> Figures {
    let of = |value: fn(&Figures) -> f64| {
        slices.iter().map(value).sum::<f64>() / slices.len().max(1) as f64
    };
    Figures {
        latency: of(|f| f.latency),
        connect: of(|f| f.connect),
    }
}
