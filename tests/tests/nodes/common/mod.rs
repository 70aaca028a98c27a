//! Nodes for tests of kernel steering: each a network namespace with a simulated kube-apiserver on port 6443 and, if wanted, an
//! agent, both processes of their own; a router between them, and a node with clients only.
#![allow(dead_code)]

mod agent;
mod node;
mod place;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mvp_tests::bench;
use mvp_tests::client::{Answer, Client};
use mvp_tests::fixtures::admin;
use mvp_tests::netns::{Namespace, privileged};
use mvp_tests::sim::ControlPlane;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

pub use agent::Agent;
pub use node::Node;
pub use place::Place;

/// Of every kube-apiserver.
pub const PORT: u16 = 6443;
/// Where agents listen; nobody but the kernel needs to know.
pub const LISTEN: &str = "0.0.0.0:16443";
pub const ADMIN: &str = "127.0.0.1:9440";
/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
const SERVER: &str = env!("CARGO_BIN_EXE_mvp-sim");

/// Everything. Dropping it ends the processes and frees the namespaces.
pub struct Cluster {
    pub nodes: Vec<Node>,
    /// Has clients only.
    pub clients: Place,
    pub plane: Arc<ControlPlane>,
    /// A folder on a BPF file system.
    pub bpffs: PathBuf,
    /// Joins the nodes; `nodeN` there is the other end of a node's `eth0`.
    pub router: Namespace,
}

/// Runs a test on nodes with servers of these minors, on a thread in a mount namespace of its own with a BPF file system.
pub fn on_nodes(test: &str, minors: &'static [u8], work: impl FnOnce(Cluster) + Send + 'static) {
    if !privileged(test, true) {
        return;
    }
    let folder = tempfile::Builder::new()
        .prefix("mvp-bpf-")
        .tempdir()
        .unwrap();
    let path = folder.path().to_owned();
    let run = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let none = MsFlags::empty();
        // As systemd mounts it: an agent refuses one that is open to others.
        mount(Some("bpf"), &path, Some("bpf"), none, Some("mode=0700")).unwrap();
        work(Cluster::start(&path, minors));
    });
    if let Err(panic) = run.join() {
        drop(folder);
        std::panic::resume_unwind(panic);
    }
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
    fn start(bpffs: &Path, minors: &[u8]) -> Self {
        let router = Namespace::new().unwrap();
        router
            .run(|| {
                for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
                }
            })
            .unwrap();
        let clients = Place::new(&router, 9);
        let plane = clients.on(async { ControlPlane::builder().start().await.unwrap() });
        let plane = Arc::new(plane);
        let nodes = (1u8..)
            .zip(minors)
            .map(|(number, minor)| Node::start(Place::new(&router, number), &plane, number, *minor))
            .collect();
        Self {
            nodes,
            clients,
            plane,
            bpffs: bpffs.to_owned(),
            router,
        }
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

    pub fn agent_with(&self, node: &Node, change: impl FnOnce(&mut Value)) -> Agent {
        let agent = self.unready(node, change);
        agent.ready();
        agent
    }

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

    pub fn get_at(&self, place: &Place, to: SocketAddr, target: &str) -> anyhow::Result<Answer> {
        let tls = self.plane.pki().client_config(admin(&self.plane), &[])?;
        let target = target.to_owned();
        place.on(async move {
            let client = Client::http2(to, &tls.into()).await?;
            client.get(&target, &[]).await
        })
    }
}
