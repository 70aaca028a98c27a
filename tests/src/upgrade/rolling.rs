//! Upgrades the servers, one after another, as a person with kubeadm does: the manifest is written, kubelet stops the old server and
//! starts the new one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::clients::Clients;
use super::direct::Direct;
use super::outcome::{Outcome, Seconds};
use super::{Kind, News, Tally};
use crate::nodes::{Agent, Cluster, Node};
use crate::sim::ServerSpec;
use crate::sim::control::Command;

/// One upgrade.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect, in turns.
    pub fronts: Vec<SocketAddr>,
    /// Where connections of clients come from, as servers see it.
    pub clients: Vec<IpAddr>,
    /// Which of the fronts the busiest client is at.
    pub busiest: usize,
    /// The minor version of all servers in the end.
    pub minor: u8,
    /// From the end of a server to the first ready answer of the next, which is being started.
    pub starts_in: Duration,
}

/// Requests after the last server was upgraded.
const AFTERWARDS: u64 = 500;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

impl Settings {
    /// Clients connect to the servers themselves.
    pub fn direct(cluster: &Cluster) -> Result<Self> {
        Ok(Self {
            fronts: cluster.nodes.iter().map(Node::at).collect(),
            clients: vec![cluster.clients.address.parse()?],
            busiest: 1,
            minor: 36,
            starts_in: Duration::from_secs(5),
        })
    }
}

/// As slowly as a real server stops; kubelet kills it after 30 s.
pub fn lingering(spec: ServerSpec) -> ServerSpec {
    spec.lingers(Duration::from_secs(30))
}

/// An agent on every node, all with their guard idle.
pub fn agents(cluster: &Cluster, change: impl Fn(&mut Value)) -> Vec<Agent> {
    let nodes = cluster.nodes.iter();
    let agents: Vec<_> = nodes
        .map(|node| cluster.agent_with(node, &change))
        .collect();
    for agent in &agents {
        agent.until("idle");
    }
    agents
}

/// Upgrades all servers under all clients.
///
/// # Errors
/// The clients cannot connect, or the upgrade does not end. What clients saw is in the outcome, whatever it is.
pub fn run(cluster: &Cluster, agents: &[Agent], settings: &Settings) -> Result<Outcome> {
    crate::child::raise_descriptor_limit()?;
    let tally = Arc::new(Tally::default());
    let clients = Clients::start(cluster, &settings.fronts, settings.busiest, &tally)?;
    let direct = Direct::watch(cluster, settings.clients.clone())?;
    ensure!(direct.now() > 0, "no client has a connection of before");
    for agent in agents {
        ensure!(
            agent.guard() == "idle",
            "the guard of an agent has armed already"
        );
    }
    let sign = Instant::now();
    let stops = upgrade_all(cluster, agents, settings, &tally.news)?;
    let enough = requests(&tally) + AFTERWARDS;
    until("clients go on", || requests(&tally) > enough)?;
    let left = direct.now();
    let inspected = match (left, direct.last()) {
        (0, Some(last)) => Some(last.saturating_duration_since(sign)),
        _ => None,
    };
    let ready = tally.news.at().map(|at| at.saturating_duration_since(sign));
    clients.finish(&cluster.clients)?;
    let seconds = Seconds {
        inspected,
        ready: ready.unwrap_or_default(),
        stops,
    };
    let notes = agents.iter().map(notes);
    Ok(Outcome {
        notes: notes.collect(),
        ..Outcome::of(cluster, &tally, seconds)?
    })
}

/// What an agent says of connections of before, and of those that passed it by.
fn notes(agent: &Agent) -> String {
    let log = agent.log();
    let about = ["retire", "guard", "kube-apiserver reason", "accept queue"];
    let lines = log
        .lines()
        .filter(|line| about.iter().any(|word| line.contains(word)));
    let lines: Vec<_> = lines.filter(|line| !line.contains("access:")).collect();
    let counts = ["destroyed", "late", "active", "gone"].map(|outcome| {
        let name = format!("mvp_retired_connections_total{{outcome=\"{outcome}\"}}");
        format!("{outcome} {}", agent.metric(&name))
    });
    format!("--- {}\n{}\n", counts.join(", "), lines.join("\n"))
}

/// Upgrades one server after another, each when all agents know the one before. Returns how long the old ones took to stop.
pub(super) fn upgrade_all(
    cluster: &Cluster,
    agents: &[Agent],
    settings: &Settings,
    news: &News,
) -> Result<Vec<Duration>> {
    let mut stops = Vec::new();
    for (number, node) in cluster.nodes.iter().enumerate() {
        stops.push(upgrade_node(cluster, node, settings)?);
        news.spread();
        until_known(agents, settings.minor, number)?;
    }
    Ok(stops)
}

/// Waits until all agents know more than `number` servers as ready and upgraded.
///
/// # Errors
/// One does not within a minute.
pub fn until_known(agents: &[Agent], minor: u8, number: usize) -> Result<()> {
    agents.iter().try_for_each(|agent| {
        until("all agents know the new server", || {
            upgraded(agent, minor) > number
        })
    })
}

/// Upgrades one server. Returns how long the old one took to stop.
///
/// # Errors
/// The manifest cannot be written.
pub fn upgrade_node(cluster: &Cluster, node: &Node, settings: &Settings) -> Result<Duration> {
    let file = format!("{}.yaml", node.name);
    std::fs::write(cluster.plane.pki().dir().join(file), "kind: Pod")?;
    let began = Instant::now();
    node.command(Command::Stop);
    let stopped = began.elapsed();
    // What the next server needs to come up; nobody can see that it does.
    std::thread::sleep(settings.starts_in);
    node.command(Command::Restart {
        minor: settings.minor,
    });
    Ok(stopped)
}

/// Servers that an agent knows as ready and upgraded.
fn upgraded(agent: &Agent, minor: u8) -> usize {
    let version = format!("v1.{minor}");
    let servers = agent.status()["servers"].clone();
    let servers = servers.as_array().cloned().unwrap_or_default();
    let new = |server: &Value| {
        let known = server["version"].as_str().unwrap_or_default();
        server["available"] == true && known.starts_with(&version)
    };
    servers.iter().filter(|server| new(server)).count()
}

fn requests(tally: &Tally) -> u64 {
    Kind::ALL
        .iter()
        .map(|kind| tally.seen(*kind).requests)
        .sum()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
