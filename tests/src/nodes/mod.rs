//! Nodes for tests of kernel steering: each a network namespace with a simulated kube-apiserver on port 6443 and, if wanted, an
//! agent, both processes of their own; a router between them, and a node with clients only.

mod agent;
mod machine;
mod node;
mod place;

pub use agent::Agent;
pub use machine::Machine;
pub use node::Node;
pub use place::Place;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::bench;
use crate::bpffs::with_bpffs;
use crate::client::{Answer, Client};
use crate::fixtures::admin;
use crate::netns::Namespace;
use crate::sim::{ControlPlane, ServerSpec};
use serde_json::Value;

/// The port of every kube-apiserver.
pub const PORT: u16 = 6443;
/// Where agents listen; nobody but the kernel needs to know.
pub const LISTEN: &str = "0.0.0.0:16443";
/// The read-only port of every agent, in its node's namespace.
pub const ADMIN: &str = "127.0.0.1:9440";
/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The programs that run on nodes.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `mvp`, or mvp-agent of the tests.
    pub agent: PathBuf,
    /// mvp-sim.
    pub server: PathBuf,
}

/// Everything. Dropping it ends the processes and frees the namespaces.
pub struct Cluster {
    /// The nodes with servers, in the order of the minors that were given.
    pub nodes: Vec<Node>,
    /// Has clients only.
    pub clients: Place,
    /// Key material, store and policy of the servers.
    pub plane: Arc<ControlPlane>,
    /// A folder on a BPF file system.
    pub bpffs: PathBuf,
    /// Joins the nodes; `nodeN` there is the other end of a node's `eth0`.
    pub router: Namespace,
}

/// Runs `work` on nodes with servers of these minors, each set up as `server` says, on a thread in a mount namespace of its own with a
/// BPF file system. A panic in it goes on in the caller.
pub fn run_on_nodes<T: Send + 'static>(
    binaries: Binaries,
    minors: &[u8],
    server: fn(ServerSpec) -> ServerSpec,
    work: impl FnOnce(Cluster) -> T + Send + 'static,
) -> T {
    let minors = minors.to_vec();
    with_bpffs(move |bpffs| work(Cluster::start(bpffs, &minors, &Arc::new(binaries), server)))
}

/// Waits for a condition.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        within(PATIENCE, condition),
        "{what}: not within {PATIENCE:?}"
    );
}

/// Waits for a condition for so long, and says whether it holds.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

impl Cluster {
    fn start(
        bpffs: &Path,
        minors: &[u8],
        binaries: &Arc<Binaries>,
        spec: fn(ServerSpec) -> ServerSpec,
    ) -> Self {
        let router = Namespace::new().unwrap();
        router
            .run(|| {
                for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
                }
            })
            .unwrap();
        let clients = Place::new(&router, 9, binaries);
        let plane = clients.on(async { ControlPlane::builder().start().await.unwrap() });
        let plane = Arc::new(plane);
        let nodes = (1u8..)
            .zip(minors)
            .map(|(number, minor)| {
                let place = Place::new(&router, number, binaries);
                Node::start(place, &plane, number, |name| {
                    spec(ServerSpec::new(name, *minor))
                })
            })
            .collect();
        Self {
            nodes,
            clients,
            plane,
            bpffs: bpffs.to_owned(),
            router,
        }
    }

    /// One more place of this number, which no other has: nodes count from 1, and clients are at 9.
    pub fn place(&self, number: u8) -> Place {
        Place::new(&self.router, number, &self.clients.binaries)
    }

    /// The configuration of the agent of a node, steering on.
    pub fn config(&self, node: &Node) -> Value {
        let others = self.nodes.iter().filter(|other| other.name != node.name);
        let settings = bench::agent::Agent {
            node: node.name.clone(),
            listen: LISTEN.parse().unwrap(),
            admin: ADMIN.parse().unwrap(),
            local: node.at(),
            peers: others
                .map(|other| (other.name.clone(), other.at()))
                .collect(),
            threads: Some(2),
        };
        let mut config = settings.config(self.plane.pki().dir());
        config["kernel"] = serde_json::json!({
            "steering": "on",
            "pinPath": self.bpffs.join(&node.name),
            "settle": "2s",
            "manifest": self.plane.pki().dir().join(format!("{}.yaml", node.name)),
        });
        config["inspect"] = "auto".into();
        config
    }

    /// Starts the agent of a node and waits until it is ready.
    pub fn agent(&self, node: &Node) -> Agent {
        self.agent_with(node, |_| {})
    }

    /// The same with a configuration that is changed before.
    pub fn agent_with(&self, node: &Node, change: impl FnOnce(&mut Value)) -> Agent {
        let agent = self.unready(node, change);
        agent.ready();
        agent
    }

    /// Starts an agent without waiting for it.
    pub fn unready(&self, node: &Node, change: impl FnOnce(&mut Value)) -> Agent {
        let mut config = self.config(node);
        change(&mut config);
        Agent::start(&node.place, &config, &[])
    }

    /// An agent that `setpriv` (util-linux) starts with these arguments.
    pub fn confined(
        &self,
        node: &Node,
        setpriv: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Agent {
        let mut config = self.config(node);
        change(&mut config);
        Agent::start(&node.place, &config, setpriv)
    }

    /// Starts an agent on every node, in the order of the nodes.
    pub fn agents(&self) -> Vec<Agent> {
        self.nodes.iter().map(|node| self.agent(node)).collect()
    }

    /// An HTTP/2 connection of the administrator from `place` to a node's server, or to whoever the kernel gives it.
    pub fn connect(&self, place: &Place, to: SocketAddr) -> anyhow::Result<Client> {
        let tls = self.plane.pki().client_config(admin(&self.plane), &[])?;
        place.on(async move { Client::http2(to, &tls.into()).await })
    }

    /// One request over a connection of its own.
    pub fn get(&self, place: &Place, node: &Node, target: &str) -> anyhow::Result<Answer> {
        self.get_at(place, node.at(), target)
    }

    /// The same at an address that need not be a server's.
    pub fn get_at(&self, place: &Place, to: SocketAddr, target: &str) -> anyhow::Result<Answer> {
        let tls = self.plane.pki().client_config(admin(&self.plane), &[])?;
        let target = target.to_owned();
        place.on(async move {
            let client = Client::http2(to, &tls.into()).await?;
            client.get(&target, &[]).await
        })
    }
}
