//! Whole connections: requests that only another server can answer, over connections that an agent forwards to that server whole, against
//! connections whose requests it inspects, and against HAProxy.
//!
//! Each agent is `mvp agent` in a process of its own, with steering: clients connect to the port of its own server. All subjects are in
//! one network namespace. A value counts only if the agent's own counters say that every connection was forwarded whole, and by
//! the mode that was configured.

mod figures;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mvp::splice::Mode;

use super::{Options, node, rotated};
use crate::bench::agent::{self, Agent};
use crate::bench::report::Report;
use crate::bench::target::{LOADS, Load, SERVER_NAME, Target, request};
use crate::bench::upstream::{LARGE, Upstream};
use crate::bench::whole::{self, Relaying};
use crate::bench::{forward, haproxy};
use crate::load::Get;
use crate::sim::pki::Pki;
use figures::{Figures, Round, Seen};

pub(super) fn run(options: &Options) -> Result<Report> {
    node::run(|pins| Bench::new(options, pins)?.measure())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    /// The client talks to the other server itself
    Direct,
    /// Through the agent, which decides about each request
    Inspected,
    /// Relayed, with `kernel.splice: auto`
    Mvp,
    /// Relayed, with this mode as `kernel.splice`
    Fixed(Mode),
    /// TLS terminated, HTTP/2 on both sides
    Haproxy,
    /// Connections forwarded whole by HAProxy
    HaproxyTcp,
}

const SUBJECTS: [Subject; 8] = [
    Subject::Direct,
    Subject::Inspected,
    Subject::Mvp,
    Subject::Fixed(Mode::Sockmap),
    Subject::Fixed(Mode::Splice),
    Subject::Fixed(Mode::Copy),
    Subject::Haproxy,
    Subject::HaproxyTcp,
];

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Inspected => "inspected",
            Self::Mvp => "mvp",
            Self::Fixed(mode) => mode.name(),
            Self::Haproxy => "haproxy",
            Self::HaproxyTcp => "haproxy_tcp",
        }
    }

    /// HAProxy may not be installed, and the kernel may have no sockmap.
    const fn may_be_missing(self) -> bool {
        matches!(
            self,
            Self::Haproxy | Self::HaproxyTcp | Self::Fixed(Mode::Sockmap)
        )
    }

    /// `kernel.splice` of an agent that forwards connections whole.
    const fn splice(self) -> Option<&'static str> {
        match self {
            Self::Mvp => Some("auto"),
            Self::Fixed(mode) => Some(mode.name()),
            _ => None,
        }
    }
}

/// A subject that runs.
struct Running {
    subject: Subject,
    target: Target,
    relaying: Option<Relaying>,
    /// Its servers: the port of the first is the agent's alone.
    _upstream: Upstream,
}

struct Bench<'a> {
    options: &'a Options,
    pins: &'a Path,
    dir: tempfile::TempDir,
    pki: Pki,
}

/// Ended connections are counted a moment after the client has closed them.
const PATIENCE: Duration = Duration::from_secs(20);

impl<'a> Bench<'a> {
    fn new(options: &'a Options, pins: &'a Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let pki = Pki::generate(dir.path())?;
        Ok(Self {
            options,
            pins,
            dir,
            pki,
        })
    }

    fn measure(&self) -> Result<Report> {
        let mut running = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        for (number, subject) in (1..).zip(SUBJECTS) {
            match self.start(subject, number).context(subject.name()) {
                Ok(one) => {
                    if let (Subject::Mvp, Some(relaying)) = (subject, &one.relaying) {
                        // Before anything else starts: it measures the machine.
                        println!("mvp relays by {}", runtime.block_on(relaying.technique())?);
                    }
                    running.push(one);
                }
                // What the ratios need must be there.
                Err(error) if subject.may_be_missing() => println!("WITHOUT {error:#}"),
                Err(error) => return Err(error),
            }
        }
        let get = request()?;
        let list = Get {
            uri: format!("https://{SERVER_NAME}{LARGE}").parse()?,
            headers: get.headers.clone(),
        };
        let mut rounds = Vec::new();
        runtime.block_on(async {
            for one in &mut running {
                one.target.wait_for_peer(&get).await?;
            }
            for one in &running {
                if let Some(relaying) = &one.relaying {
                    let waited = relaying.wait(&one.target, &get).await;
                    waited.context(one.subject.name())?;
                }
            }
            let order: Vec<usize> = (0..running.len()).collect();
            for round in 0..self.options.rounds {
                let mut results = Vec::with_capacity(running.len());
                for at in rotated(&order, round) {
                    let one = &running[at];
                    let figures = self.figures(one, &get, &list).await;
                    results.push((one.subject, figures.context(one.subject.name())?));
                }
                tell(round, &results);
                rounds.push(Round(results));
            }
            anyhow::Ok(())
        })?;
        Ok(figures::report(&rounds))
    }

    /// `number` makes what agents must not share different.
    fn start(&self, subject: Subject, number: u8) -> Result<Running> {
        let upstream = Upstream::start(&self.pki)?;
        let (threads, dir) = (self.options.threads(), self.dir.path());
        let mut relaying = None;
        let (process, address) = match subject {
            Subject::Direct => (None, upstream.peer),
            Subject::Haproxy => {
                let (process, address) = haproxy::start(&self.pki, upstream.peer, threads, dir)?;
                (Some(process), address)
            }
            Subject::HaproxyTcp => {
                let (process, address) = haproxy::start_tcp(upstream.peer, threads, dir)?;
                (Some(process), address)
            }
            Subject::Inspected | Subject::Mvp | Subject::Fixed(_) => {
                let agent = Agent {
                    node: format!("bench-{}", subject.name()),
                    local: upstream.steered,
                    ..forward::agent(&upstream, threads)?
                };
                let pins = self.pins.join(subject.name());
                // An agent refuses a folder that others may look into.
                let mut folder = std::fs::DirBuilder::new();
                folder.recursive(true).mode(0o700).create(self.pins)?;
                let mut config = whole::config(&agent, self.pki.dir(), dir, &pins);
                config["kernel"]["ownSource"] = format!("127.66.0.{number}").into();
                match subject.splice() {
                    Some(mode) => {
                        config["kernel"]["splice"] = mode.into();
                        relaying = Some(Relaying { admin: agent.admin });
                    }
                    None => config["relay"] = serde_json::json!({"mode": "off"}),
                }
                let binary = agent::binary(self.options.mvp_binary.as_deref())?;
                let mut process = agent.start_with(&config, &binary, dir)?;
                agent.wait_ready(&mut process)?;
                (Some(process), upstream.steered)
            }
        };
        Ok(Running {
            subject,
            target: Target::new(subject.name(), address, &self.pki, process)?,
            relaying,
            _upstream: upstream,
        })
    }

    async fn figures(&self, one: &Running, get: &Get, list: &Get) -> Result<Figures> {
        let [alone, many] = LOADS;
        Ok(Figures {
            message: self.load(one, get, alone).await?,
            messages: self.load(one, get, many).await?,
            list: self.load(one, list, alone).await?,
            lists: self.load(one, list, many).await?,
        })
    }

    async fn load(&self, one: &Running, get: &Get, load: Load) -> Result<Seen> {
        let duration = Duration::try_from_secs_f64(self.options.seconds)?;
        let (target, connections) = (&one.target, load.connections);
        let session = match &one.relaying {
            Some(relaying) => relaying.session(target, &request()?, connections).await?,
            None => target.session(connections).await?,
        };
        let expected = match (&one.relaying, one.subject) {
            (Some(relaying), Subject::Fixed(mode)) => Some((
                relaying,
                mode,
                relaying.moved(mode).await? + connections as u64,
            )),
            _ => None,
        };
        let measured = target.run(&session, get, load.streams, duration).await?;
        drop(session);
        if let Some((relaying, mode, expected)) = expected {
            moved(relaying, mode, expected).await?;
        }
        Ok(Seen::from(&measured))
    }
}

/// Waits until so many connections have ended that this mode moved.
async fn moved(relaying: &Relaying, mode: Mode, expected: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let moved = relaying.moved(mode).await?;
        if moved >= expected {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} connections were not moved by {}",
            expected - moved,
            mode.name()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn tell(round: u32, results: &[(Subject, Figures)]) {
    println!("round {}:", round + 1);
    for (subject, f) in results {
        println!(
            "  {:<11} a GET {:.0} us, {:.0} per second at 16x4; a list {:.2} ms, {:.0} per second at 16x4",
            subject.name(),
            f.message.p50,
            f.messages.rate,
            f.list.p50 / 1e3,
            f.lists.rate
        );
    }
}
