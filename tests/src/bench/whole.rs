//! Agents that forward their clients' connections whole: the kernel steers what comes to the port of the agent's own server to the agent,
//! and whoever asks for what only the second server has is forwarded to that server.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mvp::splice::Mode;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::agent::Agent;
use super::target::{Target, answered_by};
use crate::agent::sample;
use crate::load::{Get, Session};
use crate::operator;

/// An agent that is to forward connections whole, and that can be asked whether it does.
#[derive(Clone, Copy, Debug)]
pub struct Relaying {
    /// Where its figures are read.
    pub admin: SocketAddr,
}

/// The configuration of `agent` with steering, whose pins are below `pins`. It forwards whole what it can as soon as it can.
pub fn config(agent: &Agent, pki: &Path, dir: &Path, pins: &Path) -> Value {
    let mut config = agent.config(pki);
    config["inspect"] = "auto".into();
    config["kernel"] = json!({
        "steering": "on",
        "pinPath": pins,
        // Longer than the default of discovery.interval, as it has to be.
        "settle": "2s",
        // Not there, and not this machine's own.
        "manifest": dir.join("kube-apiserver.yaml"),
    });
    // All of the load is one client's, which does nothing else.
    config["relay"] = json!({"mode": "auto", "after": AFTER, "window": "1h", "maxShare": 1});
    config
}

/// The certificate of a server has to be the same for a minute before connections are forwarded to it, and is looked at every 20 s.
const FIRST: Duration = Duration::from_secs(120);
/// Until all connections are forwarded whole.
const PATIENCE: Duration = Duration::from_secs(60);
const RELAYED: &str = "mvp_relay_decisions_total{decision=\"relayed\"}";
/// Requests of one client that make its next connections be forwarded whole.
const AFTER: u32 = 1;

impl Relaying {
    /// Connections that were forwarded whole so far.
    ///
    /// # Errors
    /// The agent does not answer.
    pub async fn count(&self) -> Result<u64> {
        self.metric(RELAYED).await
    }

    /// Connections forwarded whole that have ended and were moved in this mode at first.
    ///
    /// # Errors
    /// The agent does not answer.
    pub async fn moved(&self, mode: Mode) -> Result<u64> {
        let name = format!("mvp_spliced_connections_total{{mode=\"{}\"}}", mode.name());
        self.metric(&name).await
    }

    /// How an agent with `kernel.splice: auto` moves bytes, once it has measured that; in words.
    ///
    /// # Errors
    /// The agent does not answer, or measures for too long.
    pub async fn technique(&self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = operator::read(self.admin, http::Method::GET, "/status").await?;
            ensure!(status == 200, "/status: {status}");
            let relay = serde_json::from_str::<Value>(&answer.text())?["relay"].take();
            let why = relay["why"].as_str().unwrap_or_default();
            // The figures of the mode that is always among those measured.
            if why.contains("; copy: ") {
                return Ok(format!("{}, bulk {}: {why}", relay["mode"], relay["bulk"]));
            }
            ensure!(Instant::now() < deadline, "nothing is measured: {why}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The value of a sample, by its whole name.
    ///
    /// # Errors
    /// The agent does not answer, or has no such sample.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let (status, answer) = operator::read(self.admin, http::Method::GET, "/metrics").await?;
        ensure!(status == 200, "/metrics: {status}");
        Ok(sample(&answer.text(), name)? as u64)
    }

    /// Waits until a new connection is forwarded whole.
    ///
    /// # Errors
    /// None is within two minutes.
    pub async fn wait(&self, target: &Target, get: &Get) -> Result<()> {
        let deadline = Instant::now() + FIRST;
        let before = self.count().await?;
        while self.count().await? == before {
            ensure!(
                Instant::now() < deadline,
                "no connection is forwarded whole within {FIRST:?}"
            );
            self.ask(target, get).await?;
        }
        Ok(())
    }

    /// Open connections, all of which are forwarded whole: one that is not is asked to end, which this load's clients do not heed.
    ///
    /// # Errors
    /// No connection can be made, or not all of them are forwarded whole within a while.
    pub async fn session(&self, target: &Target, get: &Get, connections: usize) -> Result<Session> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.count().await?;
            let session =
                Session::open(std::slice::from_ref(&target.endpoint), connections).await?;
            if self.count().await? >= before + connections as u64 {
                return Ok(session);
            }
            drop(session);
            self.ask_again(target, get, deadline).await?;
        }
    }

    /// One connection, as those of [`Self::session`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(&self, target: &Target, get: &Get) -> Result<TlsStream<TcpStream>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.count().await?;
            let io = target.endpoint.connect().await?;
            if self.count().await? > before {
                return Ok(io);
            }
            drop(io);
            self.ask_again(target, get, deadline).await?;
        }
    }

    /// The agent forgets clients whose requests it does not see, and looks at servers for those only whom it remembers.
    async fn ask_again(&self, target: &Target, get: &Get, deadline: Instant) -> Result<()> {
        ensure!(
            Instant::now() < deadline,
            "{}: connections are not forwarded whole within {PATIENCE:?}",
            target.name
        );
        self.ask(target, get).await
    }

    async fn ask(&self, target: &Target, get: &Get) -> Result<()> {
        answered_by(&target.endpoint, get).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    }
}
