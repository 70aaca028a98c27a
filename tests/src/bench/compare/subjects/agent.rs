//! `mvp agent`, as it decides about every request, and as it forwards connections whole.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Ground, Started};
use crate::bench::agent::Agent;
use crate::bench::whole::{self, Relaying};
use crate::ports::free_port;

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
    let config = whole::config(&agent, ground.pki.dir(), ground.dir, pins);
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
