//! The ways through that are compared, each as a competent person would set it up before the same two servers: TLS 1.3 with one
//! cipher suite, HTTP/2 to clients, connections to servers kept, as many threads, no access log.

mod agent;
mod envoy;
mod haproxy;
mod native;
mod nginx;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use rustls::client::Resumption;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(super) use native::Target as NativeTarget;

use crate::bench::machine;
use crate::bench::process::Process;
use crate::bench::target::{Load, Target, request};
use crate::bench::upstream::Upstream;
use crate::bench::usage;
use crate::bench::whole::Relaying;
use crate::load::{Endpoint, Session};
use crate::sim::pki::Pki;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Subject {
    /// The client talks to the second server itself
    Direct,
    /// `mvp agent` without its kernel part: every request is decided and forwarded
    Mvp,
    /// `mvp agent` with steering, whose clients' connections are forwarded whole
    MvpKernel,
    Haproxy,
    Envoy,
    Nginx,
    /// A simulation of Kubernetes' own mixed version proxy: two hops, authentication on each
    NativeSimulated,
}

impl Subject {
    pub const ALL: [Self; 7] = [
        Self::Direct,
        Self::Mvp,
        Self::MvpKernel,
        Self::Haproxy,
        Self::Envoy,
        Self::Nginx,
        Self::NativeSimulated,
    ];

    /// In rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mvp => "mvp",
            Self::MvpKernel => "mvp_kernel",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::NativeSimulated => "native_simulated",
        }
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct, no proxy",
            Self::Mvp => "mvp, userspace",
            Self::MvpKernel => "mvp, kernel parts",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Nginx => "nginx",
            Self::NativeSimulated => "native proxy (simulated)",
        }
    }
}

/// What all subjects get.
pub struct Ground<'a> {
    pub pki: &'a Pki,
    pub upstream: &'a Upstream,
    pub dir: &'a Path,
    pub threads: usize,
    /// The agent.
    pub agent: &'a Path,
    /// For pins of the kernel part; `None`: it cannot be used.
    pub pins: Option<PathBuf>,
}

/// A subject that runs.
pub struct Running {
    pub subject: Subject,
    pub address: SocketAddr,
    /// Program and version, or what stands for it.
    pub version: String,
    /// How it is set up, in a sentence.
    pub setup: String,
    pub target: Target,
    /// Further processes of the subject: [`Target`] has one at most.
    more: Vec<Process>,
    /// Set for an agent that forwards whole connections.
    pub relaying: Option<Relaying>,
}

/// What ran when it was started.
struct Started {
    address: SocketAddr,
    version: String,
    setup: String,
    processes: Vec<Process>,
    relaying: Option<Relaying>,
}

/// CPU used so far.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// By the subject's processes; `None`: it has none.
    pub own: Option<Duration>,
    /// By the whole machine, seconds.
    pub machine: f64,
}

impl Running {
    /// Starts a subject and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, cannot be used here, or does not start.
    pub fn start(subject: Subject, ground: &Ground<'_>) -> Result<Self> {
        let started = match subject {
            Subject::Direct => Started {
                address: ground.upstream.peer,
                version: String::from("no program"),
                setup: String::from("The client talks to the second server itself."),
                processes: Vec::new(),
                relaying: None,
            },
            Subject::Mvp => agent::userspace(ground)?,
            Subject::MvpKernel => agent::kernel(ground)?,
            Subject::Haproxy => haproxy::start(ground)?,
            Subject::Envoy => envoy::start(ground)?,
            Subject::Nginx => nginx::start(ground)?,
            Subject::NativeSimulated => native::start(ground)?,
        };
        let Started {
            address,
            version,
            setup,
            mut processes,
            relaying,
        } = started;
        let first = (!processes.is_empty()).then(|| processes.remove(0));
        Ok(Self {
            subject,
            address,
            version,
            setup,
            target: Target::new(subject.title(), address, ground.pki, first)?,
            more: processes,
            relaying,
        })
    }

    /// Ids of its processes, without their children.
    pub fn processes(&self) -> Vec<u32> {
        let all = self.target.process.iter().chain(&self.more);
        all.map(Process::id).collect()
    }

    /// # Errors
    /// A process of it has ended.
    pub fn used(&self) -> Result<Used> {
        let processes = self.processes();
        Ok(Used {
            own: match processes.is_empty() {
                true => None,
                false => Some(usage::cpu(&processes)?),
            },
            machine: machine::cpu()?,
        })
    }

    /// Its endpoint for clients that resume no TLS session, as Go's do not unless told to.
    pub fn without_resumption(&self) -> Endpoint {
        let mut endpoint = self.target.endpoint.clone();
        let mut tls = (*endpoint.tls).clone();
        tls.resumption = Resumption::disabled();
        endpoint.tls = tls.into();
        endpoint
    }

    /// Open connections. Those of an agent that forwards connections whole are all forwarded whole: one that is not is asked to end, which
    /// this load's clients do not heed.
    ///
    /// # Errors
    /// No connection can be made, or not all of them are forwarded whole within a while.
    pub async fn session(&self, connections: usize) -> Result<Session> {
        let open = || Session::open(std::slice::from_ref(&self.target.endpoint), connections);
        let Some(relaying) = self.relaying else {
            return open().await;
        };
        relaying
            .session(&self.target, &request()?, connections)
            .await
    }

    /// One connection, as those of [`Self::session`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let open = || self.target.endpoint.connect();
        let Some(relaying) = self.relaying else {
            return Ok(open().await?);
        };
        relaying.connect(&self.target, &request()?).await
    }

    /// After a measurement: its answers are worth something only if all came, and if a subject that forwards connections whole did so.
    ///
    /// # Errors
    /// Otherwise.
    pub fn check(&self, what: &str, ok: u64, not_ok: u64) -> Result<()> {
        ensure!(
            ok > 0 && not_ok == 0,
            "{}: {what}: {not_ok} of {} failed",
            self.subject.title(),
            ok + not_ok
        );
        Ok(())
    }
}

impl Used {
    /// Microseconds of the subject's CPU since then, for each of so many.
    pub fn own_micros_since(self, before: Self, count: u64) -> Option<f64> {
        let used = self.own?.checked_sub(before.own?)?;
        Some(used.as_secs_f64() * 1e6 / count.max(1) as f64)
    }

    /// The same of the whole machine.
    pub fn machine_micros_since(self, before: Self, count: u64) -> f64 {
        (self.machine - before.machine) * 1e6 / count.max(1) as f64
    }
}

/// For scenarios that want many requests at once.
pub(super) const SATURATION: Load = crate::bench::target::LOADS[1];
