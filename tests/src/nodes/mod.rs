//! Nodes for tests of kernel steering: each a network namespace with a simulated kube-apiserver on port 6443 and, if wanted, an
//! agent, both processes of their own; a router between them, and a node with clients only.

mod place;

pub use place::Place;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::sample;
use crate::bench;
use crate::client::{Answer, Client};
use crate::fixtures::admin;
use crate::netns::Namespace;
use crate::operator;
use crate::sim::control;
use crate::sim::{ChildServer, ControlPlane, ServerSpec};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Of every kube-apiserver.
pub const PORT: u16 = 6443;
/// Where agents listen; nobody but the kernel needs to know.
pub const LISTEN: &str = "0.0.0.0:16443";
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
    pub nodes: Vec<Node>,
    /// Has clients only.
    pub clients: Place,
    pub plane: Arc<ControlPlane>,
    /// A folder on a BPF file system.
    pub bpffs: PathBuf,
    router: Namespace,
}

pub struct Node {
    pub place: Arc<Place>,
    pub name: String,
    pub server: Arc<ChildServer>,
}

/// `mvp agent` on a node. Killed when dropped.
pub struct Agent {
    place: Arc<Place>,
    child: Child,
    pub admin: SocketAddr,
    /// Where operators ask it.
    pub socket: PathBuf,
    dir: TempDir,
}

/// Runs `work` on nodes with servers of these minors, each set up as `server` says, on a thread in a mount namespace of its own with a
/// BPF file system. A panic in it goes on in the caller.
pub fn run_on_nodes<T: Send + 'static>(
    binaries: Binaries,
    minors: &[u8],
    server: fn(ServerSpec) -> ServerSpec,
    work: impl FnOnce(Cluster) -> T + Send + 'static,
) -> T {
    let folder = tempfile::Builder::new()
        .prefix("mvp-bpf-")
        .tempdir()
        .unwrap();
    let (path, minors) = (folder.path().to_owned(), minors.to_vec());
    let run = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let none = MsFlags::empty();
        // As systemd mounts it: an agent refuses one that is open to others.
        mount(Some("bpf"), &path, Some("bpf"), none, Some("mode=0700")).unwrap();
        work(Cluster::start(&path, &minors, &Arc::new(binaries), server))
    });
    run.join().unwrap_or_else(|panic| {
        drop(folder);
        std::panic::resume_unwind(panic)
    })
}

/// Waits for a condition.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
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
                let place = Arc::new(Place::new(&router, number, binaries));
                let name = format!("cp-{}", char::from(b'a' + number - 1));
                let server = start_server(&place, &plane, spec(ServerSpec::new(&name, *minor)));
                Node {
                    place,
                    name,
                    server: Arc::new(server),
                }
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

impl Node {
    pub fn at(&self) -> SocketAddr {
        format!("{}:{PORT}", self.place.address).parse().unwrap()
    }

    pub fn command(&self, command: control::Command) -> Value {
        let server = Arc::clone(&self.server);
        self.place
            .on(async move { server.command(&command).await.unwrap() })
    }

    /// Peers of the requests for `target` that the server received.
    pub fn received(&self, target: &str) -> Vec<SocketAddr> {
        let all = self.command(control::Command::Requests);
        let all = all.as_array().unwrap().iter();
        all.filter(|request| request["target"] == target)
            .map(|request| {
                request["peer"]
                    .as_str()
                    .unwrap()
                    .parse::<SocketAddr>()
                    .unwrap()
            })
            .map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()))
            .collect()
    }
}

impl Agent {
    fn start(place: &Arc<Place>, config: &Value, setpriv: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = match setpriv {
            [] => Command::new(&place.binaries.agent),
            arguments => {
                let mut command = Command::new("setpriv");
                command.args(arguments).arg(&place.binaries.agent);
                command
            }
        };
        command
            .args(["agent", "--log-level", "info", "--config"])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = place.on(async move { command.spawn().unwrap() });
        Self {
            place: Arc::clone(place),
            child,
            admin: config["admin"]["listen"].as_str().unwrap().parse().unwrap(),
            socket: config["admin"]["socket"].as_str().unwrap().into(),
            dir,
        }
    }

    pub fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.admin("GET", "/readyz").is_none_or(|(s, _)| s != 200) {
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Status and body of a path: a GET by the admin port, all else by the operators' socket. `None` if nobody answers.
    pub fn admin(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let (admin, socket) = (self.admin, self.socket.clone());
        let (method, path): (http::Method, _) = (method.parse().unwrap(), path.to_owned());
        let answer = self.place.on(async move {
            if method == http::Method::GET {
                operator::read(admin, method, &path).await.ok()
            } else {
                operator::operate(&socket, method, &path, "").await.ok()
            }
        });
        answer.map(|(status, answer)| (status, answer.text()))
    }

    /// [`crate::agent::TestAgent::metric`].
    pub fn metric(&self, name: &str) -> f64 {
        let (_, scrape) = self.admin("GET", "/metrics").unwrap();
        sample(&scrape, name).unwrap()
    }

    /// Client connections that it accepted so far.
    pub fn accepted(&self) -> f64 {
        self.metric("mvp_client_connections_total")
    }

    pub fn status(&self) -> Value {
        let (_, body) = self.admin("GET", "/status").unwrap();
        serde_json::from_str(&body).unwrap()
    }

    pub fn guard(&self) -> String {
        self.status()["guard"]["state"].as_str().unwrap().to_owned()
    }

    pub fn until(&self, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.guard() != state {
            let now = self.status()["guard"].clone();
            assert!(
                Instant::now() < deadline,
                "not {state}: {now}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Gives it another soft limit of open descriptors while it runs, and returns the one before.
    pub fn limit_descriptors(&self, soft: u64) -> u64 {
        use rustix::process::{Resource, Rlimit, prlimit};
        let pid = Some(Pid::from_child(&self.child));
        let file = format!("/proc/{}/limits", self.child.id());
        let text = std::fs::read_to_string(file).unwrap();
        let mut limits = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .unwrap()
            .split_whitespace()
            .map(|number| number.parse::<u64>().unwrap());
        let (before, maximum) = (limits.next().unwrap(), limits.next());
        let limit = Rlimit {
            current: Some(soft),
            maximum,
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
        before
    }

    /// The lowest descriptor that it does not have open: with this limit it gets no other.
    pub fn lowest_free_descriptor(&self) -> u64 {
        crate::child::lowest_free_descriptor(self.child.id()).unwrap()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still runs:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- agent on {}:\n{}", self.place.address, self.log());
        }
    }
}

fn start_server(place: &Arc<Place>, plane: &Arc<ControlPlane>, spec: ServerSpec) -> ChildServer {
    // On every address of both families by one socket, as kube-apiserver does.
    let spec = spec.listen((Ipv6Addr::UNSPECIFIED, PORT).into());
    let (plane, binary) = (Arc::clone(plane), place.binaries.server.clone());
    place.on(async move { plane.spawn(&binary, &spec).await.unwrap() })
}
