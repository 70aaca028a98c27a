//! The simulated native proxy on every node: clients connect to it, and it is there while its node's server is.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::bench::compare::subjects::NativeTarget;
use crate::bench::process::Process;
use crate::nodes::{Cluster, Node};

pub(super) struct Fronts {
    pub(super) addresses: Vec<SocketAddr>,
    _processes: Vec<Process>,
    _dir: TempDir,
}

const PORT: u16 = 7443;

impl Fronts {
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(front).collect();
        let mut processes = Vec::new();
        for (node, address) in cluster.nodes.iter().zip(&addresses) {
            let command = command(cluster, node, *address, &addresses)?;
            let (name, folder) = (node.name.clone(), dir.path().to_owned());
            let address = *address;
            let started = async move {
                let mut process = Process::start(&name, command, &folder)?;
                process.wait_listening(address)?;
                anyhow::Ok(process)
            };
            processes.push(node.place.on(started)?);
        }
        Ok(Self {
            addresses,
            _processes: processes,
            _dir: dir,
        })
    }
}

fn front(node: &Node) -> SocketAddr {
    SocketAddr::new(node.at().ip(), PORT)
}

fn command(
    cluster: &Cluster,
    node: &Node,
    listen: SocketAddr,
    all: &[SocketAddr],
) -> Result<Command> {
    // What the processes take by themselves is not measured here, and comes on top: little beside what is added.
    let target = NativeTarget::MEASURED;
    let (work, wait) = (target.cpu / 2, target.added - target.cpu);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("native");
    command.arg("--pki").arg(cluster.plane.pki().dir());
    command.args(["--listen", &listen.to_string()]);
    command.args(["--own", &node.at().to_string()]);
    for peer in all.iter().filter(|peer| **peer != listen) {
        command.args(["--peer", &peer.to_string()]);
    }
    command.args(["--work-us", &work.as_micros().to_string()]);
    command.args(["--wait-us", &wait.as_micros().to_string()]);
    Ok(command)
}
