//! `mvp agent`, as it decides about every request, and as it forwards connections whole.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Ground, Started};
use crate::agent::sample;
use crate::bench::agent::Agent;
use crate::bench::target::{Target, answered_by};
use crate::load::Get;
use crate::operator;
use crate::ports::free_port;

/// An agent that is to forward connections whole, and that can be asked whether it does.
#[derive(Clone, Copy, Debug)]
pub struct Relaying {
    admin: SocketAddr,
}

/// The certificate of a server has to be the same for a minute before connections are forwarded to it, and is looked at every 20 s.
const PATIENCE: Duration = Duration::from_secs(120);
const RELAYED: &str = "mvp_relay_decisions_total{decision=\"relayed\"}";
/// Requests of one client that make its next connections be forwarded whole.
const AFTER: u32 = 1;

pub(super) fn userspace(ground: &Ground<'_>) -> Result<Started> {
    let agent = settings("compare-user", ground.upstream.local, ground)?;
    let config = agent.config(ground.pki.dir());
    started(
        &agent,
        &config,
        ground,
        "No kernel part: every request is decided and forwarded (steering and relay off). It finds out by itself who serves what.",
    )
}

/// Clients connect to the port of the agent's own server, where the kernel steers them to the agent; connections of clients that ask for
/// what only the second server has are forwarded to it whole.
pub(super) fn kernel(ground: &Ground<'_>) -> Result<Started> {
    let Some(pins) = &ground.pins else {
        bail!("{}", mvp::kernel::availability());
    };
    let server = ground.upstream.steered;
    let agent = settings("compare-kernel", server, ground)?;
    let mut config = agent.config(ground.pki.dir());
    config["inspect"] = "auto".into();
    config["kernel"] = json!({
        "steering": "on",
        "pinPath": pins,
        // Longer than the default of discovery.interval, as it has to be.
        "settle": "2s",
        // Not there, and not this machine's own.
        "manifest": ground.dir.join("kube-apiserver.yaml"),
    });
    // All of the load is one client's, which does nothing else.
    config["relay"] = json!({"mode": "auto", "after": AFTER, "window": "1h", "maxShare": 1});
    let started = started(
        &agent,
        &config,
        ground,
        "Clients connect to the server's port, the kernel steers them to the agent, and it forwards their connections to the second server \
         whole (relay, bytes moved as splice: auto chooses).",
    )?;
    Ok(Started {
        address: server,
        relaying: Some(Relaying { admin: agent.admin }),
        ..started
    })
}

fn settings(node: &str, local: SocketAddr, ground: &Ground<'_>) -> Result<Agent> {
    Ok(Agent {
        node: node.into(),
        listen: free_port("127.0.0.1")?,
        admin: free_port("127.0.0.1")?,
        local,
        peers: vec![(String::from("compare-second"), ground.upstream.peer)],
        threads: Some(ground.threads),
    })
}

fn started(agent: &Agent, config: &Value, ground: &Ground<'_>, setup: &str) -> Result<Started> {
    let mut process = agent.start_with(config, ground.agent, ground.dir)?;
    agent.wait_ready(&mut process)?;
    Ok(Started {
        address: agent.listen,
        version: version(ground)?,
        setup: setup.into(),
        processes: vec![process],
        relaying: None,
    })
}

fn version(ground: &Ground<'_>) -> Result<String> {
    let output = std::process::Command::new(ground.agent)
        .arg("--version")
        .output()
        .with_context(|| format!("{} --version", ground.agent.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl Relaying {
    /// Connections that were forwarded whole so far.
    ///
    /// # Errors
    /// The agent does not answer.
    pub async fn count(&self) -> Result<u64> {
        let (status, answer) = operator::read(self.admin, http::Method::GET, "/metrics").await?;
        ensure!(status == 200, "/metrics: {status}");
        Ok(sample(&answer.text(), RELAYED)? as u64)
    }

    /// Waits until a new connection is forwarded whole.
    ///
    /// # Errors
    /// None is within two minutes.
    pub async fn wait(&self, target: &Target, get: &Get) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let before = self.count().await?;
        while self.count().await? == before {
            ensure!(
                Instant::now() < deadline,
                "no connection is forwarded whole within {PATIENCE:?}"
            );
            answered_by(&target.endpoint, get).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}
