//! The short-cut between the agent and the server beside it, on and off: under requests through an agent, and on bare sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mvp::kernel::Shortcut;
use mvp::splice::shortcut::cgroup_root;
use mvp_common::Counter;
use socket2::{Domain, Protocol, Socket, Type};

use super::splice::{MESSAGE, Patient, one_way, round_trips};
use super::{Options, rotated};
use crate::bench::agent::{self, Agent};
use crate::bench::machine;
use crate::bench::report::Report;
use crate::bench::target::{LOADS, Target, request};
use crate::bench::upstream::Upstream;
use crate::load::Get;
use crate::pairs::PATIENCE;
use crate::ports::free_port;
use crate::sim::pki::Pki;

/// The address of the agent's end, on bare sockets.
const BARE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// The same of an agent that has no address of its own to connect from. No other client of its server has it here.
const AGENT: Ipv4Addr = Ipv4Addr::LOCALHOST;
const RATIO: &str = "on/off";

pub(super) fn run(options: &Options) -> Result<Report> {
    let path = Forward::new(options)?;
    let mut report = Report::new("shortcut");
    for round in 0..options.rounds {
        let mut figures = [None, None];
        for on in rotated(&[false, true], round) {
            let bare = bare(on, options).context("on bare sockets")?;
            let requests = path.measure(on, options).context("through an agent")?;
            figures[usize::from(on)] = Some((bare, requests));
        }
        if let [Some(off), Some(on)] = figures {
            record(&mut report, off, on);
        }
    }
    Ok(report)
}

/// On bare sockets.
#[derive(Clone, Copy)]
struct Bare {
    /// In microseconds.
    round_trip: f64,
    gb_per_second: f64,
    /// In seconds.
    cpu_per_gb: f64,
}

/// One of the two loads of requests.
#[derive(Clone, Copy, Default)]
struct Requests {
    /// In microseconds.
    p50: f64,
    /// CPU of the whole machine, in microseconds per request.
    cpu: f64,
}

type Figures = (Bare, [Requests; 2]);

fn record(report: &mut Report, off: Figures, on: Figures) {
    for (subject, (bare, requests)) in [("off", off), ("on", on)] {
        let mut add = |metric: &str, unit, value| report.add(subject, metric, unit, value);
        add("rtt_p50_us", "us", bare.round_trip);
        add("gb_per_s", "GB/s", bare.gb_per_second);
        add("cpu_per_gb", "s", bare.cpu_per_gb);
        for (load, requests) in LOADS.iter().zip(requests) {
            let suffixes = load.suffixes;
            let metric = format!("latency_p50_us{}", suffixes.latency);
            add(&metric, "us", requests.p50);
            let metric = format!("machine_cpu_us_per_request{}", suffixes.work);
            add(&metric, "us", requests.cpu);
        }
    }
    let mut ratio = |metric: &str, of: fn(&Figures) -> f64| {
        report.add(RATIO, metric, "x", of(&on) / of(&off));
    };
    ratio("rtt_p50_ratio", |(bare, _)| bare.round_trip);
    ratio("gb_per_s_ratio", |(bare, _)| bare.gb_per_second);
    ratio("cpu_per_gb_ratio", |(bare, _)| bare.cpu_per_gb);
    ratio("latency_p50_ratio", |(_, [one, _])| one.p50);
    ratio("latency_p50_16x4_ratio", |(_, [_, many])| many.p50);
    ratio("cpu_1x1_ratio", |(_, [one, _])| one.cpu);
    ratio("cpu_ratio", |(_, [_, many])| many.cpu);
}

/// Requests that an agent passes on to its own server.
struct Forward {
    dir: tempfile::TempDir,
    pki: Pki,
    upstream: Upstream,
    binary: std::path::PathBuf,
    get: Get,
}

impl Forward {
    fn new(options: &Options) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let pki = Pki::generate(dir.path())?;
        Ok(Self {
            upstream: Upstream::start(&pki)?,
            pki,
            dir,
            binary: agent::binary(options.mvp_binary.as_deref())?,
            get: request()?,
        })
    }

    /// With an agent of its own, since only connections that are made later take the short-cut.
    fn measure(&self, on: bool, options: &Options) -> Result<[Requests; 2]> {
        let server = self.upstream.peer;
        // Before the agent, and so dropped after its connections are closed.
        let shortcut = on
            .then(|| anyhow::Ok(Shortcut::load(AGENT, server.port(), cgroup_root()?)?))
            .transpose()?;
        let figures = self.through_agent(options)?;
        if let Some(shortcut) = shortcut {
            let redirected = shortcut.counters()?.get(Counter::ShortcutRedirected);
            ensure!(
                redirected > 0,
                "the agent's connections to its server did not take the short-cut"
            );
        }
        Ok(figures)
    }

    fn through_agent(&self, options: &Options) -> Result<[Requests; 2]> {
        let agent = Agent {
            node: "bench-local".into(),
            listen: free_port("127.0.0.1")?,
            admin: free_port("127.0.0.1")?,
            local: self.upstream.peer,
            peers: vec![("bench-peer".into(), self.upstream.twin)],
            threads: Some(options.threads()),
        };
        let mut config = agent.config(self.pki.dir());
        // Whether there is one is decided here.
        config["kernel"]["shortcut"] = "off".into();
        let mut process = agent.start_with(&config, &self.binary, self.dir.path())?;
        agent.wait_ready(&mut process)?;
        let mut target = Target::new("mvp", agent.listen, &self.pki, Some(process))?;
        let duration = Duration::try_from_secs_f64(options.seconds)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            target.wait_for_peer(&self.get).await?;
            let mut figures = [Requests::default(); 2];
            for (requests, load) in figures.iter_mut().zip(LOADS) {
                let measured = target.measure(&self.get, load, duration).await?;
                *requests = Requests {
                    p50: measured.outcome.latency.micros(0.5),
                    cpu: measured.machine_cpu_micros(),
                };
            }
            Ok(figures)
        })
    }
}

fn bare(on: bool, options: &Options) -> Result<Bare> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = listener.local_addr()?;
    let shortcut = on
        .then(|| anyhow::Ok(Shortcut::load(BARE, server.port(), cgroup_root()?)?))
        .transpose()?;
    let open = || -> Result<(TcpStream, TcpStream)> {
        let client = connect(server)?;
        let (near, _) = listener.accept()?;
        for stream in [&client, &near] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        let (mut client, mut near) = (Patient(client), Patient(near));
        let mut message = [0; MESSAGE];
        client.write_all(&message)?;
        near.read_exact(&mut message)?;
        near.write_all(&message)?;
        client.read_exact(&mut message)?;
        Ok((client.0, near.0))
    };
    let (client, near) = open()?;
    let round_trip = round_trips(client, near, options.round_trips)?;
    let (client, near) = open()?;
    let (cpu, started) = (machine::cpu()?, Instant::now());
    one_way(client, near, options.bytes())?;
    let (cpu, elapsed) = (machine::cpu()? - cpu, started.elapsed().as_secs_f64());
    if let Some(shortcut) = shortcut {
        let slow = shortcut.counters()?.get(Counter::ShortcutSlow);
        ensure!(slow == 0, "{slow} messages did not take the short-cut");
    }
    ensure!(
        cpu > 0.0,
        "too few gigabytes: they took no hundredth of a second"
    );
    Ok(Bare {
        round_trip: round_trip.as_secs_f64() * 1e6,
        gb_per_second: options.gigabytes / elapsed,
        cpu_per_gb: cpu / options.gigabytes,
    })
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((BARE, 0)).into())?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}
