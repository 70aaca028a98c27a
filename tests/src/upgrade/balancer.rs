//! A TCP load balancer before all servers, on a node of its own: HAProxy as kubeadm's documentation sets it up. Every connection comes from
//! its address.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::Settings;
use crate::bench::haproxy::available;
use crate::bench::process::{Process, find};
use crate::nodes::{Cluster, PORT, Place};

/// Ended when dropped.
pub struct Balancer {
    address: SocketAddr,
    _process: Process,
    _dir: TempDir,
    _place: Arc<Place>,
}

/// Its number among the nodes.
const NODE: u8 = 8;

impl Balancer {
    /// Starts it and waits until it passes connections on.
    ///
    /// # Errors
    /// There is no HAProxy, or it does not listen.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        available()?;
        let place = Arc::new(cluster.place(NODE));
        let address: SocketAddr = format!("{}:{PORT}", place.address).parse()?;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("haproxy.cfg");
        std::fs::write(&file, config(cluster, address))?;
        let mut command = Command::new(find("haproxy").context("haproxy was there a moment ago")?);
        command.arg("-db").arg("-f").arg(&file);
        let folder = dir.path().to_owned();
        let process = place.on(async move { started(command, &folder, address) })?;
        Ok(Self {
            address,
            _process: process,
            _dir: dir,
            _place: place,
        })
    }

    /// Clients connect to it.
    pub fn settings(&self, cluster: &Cluster) -> Result<Settings> {
        Ok(Settings {
            fronts: vec![self.address],
            clients: vec![self.address.ip()],
            ..Settings::direct(cluster)?
        })
    }
}

fn started(command: Command, folder: &Path, address: SocketAddr) -> Result<Process> {
    let mut process = Process::start("haproxy", command, folder)?;
    process.wait_listening(address)?;
    Ok(process)
}

/// A server is asked every second whether it is ready; the connections of one that is not are cut.
fn config(cluster: &Cluster, listen: SocketAddr) -> String {
    let servers = cluster.nodes.iter().map(|node| {
        let (name, at) = (&node.name, node.at());
        format!(
            "    server {name} {at} check check-ssl verify none inter 1s fall 2 rise 2 on-marked-down shutdown-sessions\n"
        )
    });
    let servers: String = servers.collect();
    let idle = Duration::from_secs(600).as_secs();
    format!(
        "global
    maxconn 4000
    nbthread 2

defaults
    mode tcp
    timeout connect 5s
    timeout client {idle}s
    timeout server {idle}s
    timeout check 2s

frontend clients
    bind {listen}
    default_backend servers

backend servers
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
{servers}"
    )
}
