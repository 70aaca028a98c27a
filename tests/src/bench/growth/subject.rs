//! The agent as a child process, with the figures that the kernel has of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mvp::net::{connections_for, hard_limit};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bench::agent::{Agent, is_ready};
use crate::bench::process::Process;
use crate::bench::target::{SERVER_NAME, answered_by};
use crate::bench::usage;
use crate::load::{Client, Endpoint, Get, bearer, tls};
use crate::ports::free_port;
use crate::sim::pki::Pki;

/// So many open files are enough for 20,000 connections, of which each may take two at the agent, and for what else there is.
const DESCRIPTORS: u64 = 65_536;
/// Until an agent is ready, with the documents of every server read.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(1);

/// Which implementation of HTTP/2 the agent uses, on both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Http2 {
    /// Of its rows.
    pub subject: &'static str,
    key: &'static str,
}

/// Both of them, as `serving.http2` and `upstream.http2` name them.
pub(super) const BOTH: [Http2; 2] = [
    Http2 {
        subject: "mvp_h2",
        key: "h2",
    },
    Http2 {
        subject: "mvp_h2wire",
        key: "h2wire",
    },
];

/// An agent that is ready.
pub(super) struct Subject {
    /// Where clients connect.
    pub address: SocketAddr,
    /// From the start of the process until `/readyz` says that it is ready.
    pub ready: Duration,
    process: Process,
}

impl Http2 {
    /// What `--set` is given for it.
    pub(super) fn settings(self) -> Vec<String> {
        ["serving", "upstream"]
            .map(|side| format!("{side}.http2={}", self.key))
            .to_vec()
    }
}

impl Subject {
    /// Starts an agent before the first of `servers`, of which the others are peers. `settings` are what `--set` is given.
    ///
    /// # Errors
    /// It ends, or does not become ready within a minute.
    pub(super) fn start(
        binary: &Path,
        pki: &Pki,
        dir: &Path,
        servers: &[(String, SocketAddr)],
        settings: &[String],
    ) -> Result<Self> {
        let [(node, local), peers @ ..] = servers else {
            bail!("there is no server for the agent");
        };
        let agent = Agent {
            node: node.clone(),
            listen: free_port("127.0.0.1")?,
            admin: free_port("127.0.0.1")?,
            local: *local,
            peers: peers.to_vec(),
            threads: None,
        };
        let begun = Instant::now();
        let mut process = agent.start_set(settings, binary, pki.dir(), dir)?;
        while !is_ready(agent.admin).unwrap_or_default() {
            process.check()?;
            if begun.elapsed() > PATIENCE {
                bail!("not ready within {PATIENCE:?}:\n{}", process.output());
            }
            std::thread::sleep(LOOK);
        }
        Ok(Self {
            address: agent.listen,
            ready: begun.elapsed(),
            process,
        })
    }

    /// Waits until the peer answers, of which an agent may not know yet when it is ready.
    ///
    /// # Errors
    /// It does not within a minute.
    pub(super) async fn wait_for_peer(&self, endpoint: &Endpoint, get: &Get) -> Result<()> {
        let begun = Instant::now();
        loop {
            let seen = answered_by(endpoint, get).await;
            if matches!(&seen, Ok(Some(server)) if server == "peer") {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!(
                    "nothing is forwarded to the peer: {seen:?}; {}",
                    self.output()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Bytes of resident memory; pages that it shares with others count in part (Pss).
    pub(super) fn memory(&self) -> Result<u64> {
        usage::memory(&[self.process.id()])
    }

    /// CPU that it takes by itself, in milliseconds per second, over `duration`.
    pub(super) async fn cpu(&self, duration: Duration) -> Result<f64> {
        let before = usage::cpu(&[self.process.id()])?;
        let begun = Instant::now();
        tokio::time::sleep(duration).await;
        let used = usage::cpu(&[self.process.id()])? - before;
        Ok(used.as_secs_f64() * 1e3 / begun.elapsed().as_secs_f64())
    }

    /// The end of what it wrote.
    pub(super) fn output(&self) -> String {
        self.process.output()
    }
}

/// A server or an agent as clients reach it. They resume no TLS session, as those of Go do not unless told to.
pub(super) fn endpoint(address: SocketAddr, pki: &Pki) -> Result<Endpoint> {
    let mut tls = tls(pki.read("ca.crt")?.as_bytes(), &["h2"])?;
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(Endpoint {
        address,
        server_name: SERVER_NAME.try_into()?,
        tls: tls.into(),
    })
}

/// An administrator of the simulated servers. It waits as long as their largest documents take.
pub(super) fn client(address: SocketAddr, pki: &Pki) -> Result<Client> {
    let client = Client::new(endpoint(address, pki)?, Some(bearer("admin-token")?));
    Ok(client.patient(PATIENCE, PATIENCE))
}

/// Lets this process and its children open as many files as the largest size needs, or as many as the system allows.
pub(super) fn raise_descriptors() -> Result<u64> {
    let given = getrlimit(Resource::Nofile);
    let maximum = given.maximum.map(|most| most.max(DESCRIPTORS));
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // Only root may raise the hard limit.
    let raised = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(_) => {
            let raised = Rlimit {
                current: given.maximum,
                ..given
            };
            setrlimit(Resource::Nofile, raised)?;
            raised
        }
    };
    Ok(raised.current.unwrap_or(u64::MAX))
}

/// As many connections of clients as an agent started by this process accepts at most: it keeps two open files for each.
pub(super) fn affordable() -> usize {
    connections_for(hard_limit(), Some(usize::MAX))
}
