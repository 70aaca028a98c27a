//! Nodes, agents, clients and watches that go on from one fault to the next.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mvp_tests::chaos::{Front, Ledger, Traffic, Watcher, collections, marks, prepare, written};
use mvp_tests::facts;
use mvp_tests::load::open_loop;
use mvp_tests::rbac;
use mvp_tests::sim::store::Store;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::{Agent, Cluster, Node, PORT, Place, eventually, within};

/// Requests per second at each of the six fronts.
const RATE: f64 = 30.0;
/// `retire.within`, for connections that were made while no agent ran. It is shorter than the default, so that a row is.
const RETIRE: &str = "10s";

pub(crate) struct Stage {
    pub cluster: Cluster,
    /// In the order of the nodes; `None` while there is none.
    pub agents: Vec<Option<Agent>>,
    row: Arc<ArcSwap<Ledger>>,
    watchers: Vec<Arc<Watcher>>,
    load: Vec<JoinHandle<u64>>,
    watching: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Stage {
    /// Starts everything and waits until it goes.
    pub(crate) fn start(cluster: Cluster, with_agents: bool) -> Self {
        rbac::apply(&cluster.plane).unwrap();
        for node in &cluster.nodes {
            let policy = (*cluster.plane.policy()).clone();
            node.command(mvp_tests::sim::control::Command::Policy(policy));
        }
        let store = cluster.plane.store().clone();
        let begins = store.clone();
        cluster
            .clients
            .on(async move { prepare(&begins).await.unwrap() });
        let mut stage = Self {
            agents: cluster.nodes.iter().map(|_| None).collect(),
            row: Arc::default(),
            watchers: Vec::new(),
            load: Vec::new(),
            watching: Vec::new(),
            stop: watch::Sender::new(false),
            cluster,
        };
        if with_agents {
            for number in 0..stage.agents.len() {
                stage.start_agent(number);
            }
            stage.healthy();
        }
        stage.go(&store);
        if with_agents {
            stage.recovered();
        }
        stage
    }

    /// Starts the agent of a node and waits until it is ready.
    pub(crate) fn start_agent(&mut self, number: usize) {
        let node = &self.cluster.nodes[number];
        // Every node has a BPF file system of its own, and so a lock of its own for changes of pins.
        let own = self.cluster.bpffs.join(format!("{}-bpffs", node.name));
        std::fs::create_dir_all(&own).unwrap();
        std::fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
        let agent = self.cluster.agent_with(node, |config| {
            config["kernel"]["pinPath"] = json!(own.join("mvp"));
            settings(config);
        });
        self.agents[number] = Some(agent);
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.cluster.nodes[number]
    }

    pub(crate) fn store(&self) -> Store {
        self.cluster.plane.store().clone()
    }

    pub(crate) fn kill_agent(&mut self, number: usize) {
        self.agents[number].take().unwrap().kill();
    }

    /// Books what begins from now on anew, and returns where.
    pub(crate) fn next_row(&self) -> Arc<Ledger> {
        let next = Arc::new(Ledger::default());
        self.row.store(Arc::clone(&next));
        next
    }

    /// Waits until every agent inspects and uses every server, and every watch is established.
    pub(crate) fn recovered(&self) {
        self.healthy();
        for watcher in &self.watchers {
            eventually(&format!("{} watches", watcher.name), || watcher.is_open());
        }
    }

    fn healthy(&self) {
        let nodes = self.cluster.nodes.len();
        for agent in self.agents.iter().flatten() {
            let mut seen = Value::Null;
            let well = |status: &Value| {
                let servers = status["servers"].as_array().map(Vec::as_slice);
                let servers = servers.unwrap_or_default();
                servers.len() == nodes
                    && servers.iter().all(|server| server["available"] == true)
                    && status["stance"]["word"] == "inspecting"
            };
            eventually("every agent inspects and uses every server", || {
                seen = match agent.admin("GET", "/status") {
                    Some((200, text)) => serde_json::from_str(&text).unwrap(),
                    _ => Value::Null,
                };
                well(&seen)
            });
        }
    }

    /// Waits until all requests of a row have ended and every watch has seen what the row wrote, once; and nothing was written twice, nor
    /// was anything lost that was confirmed.
    pub(crate) fn all_is_told(&self, name: &str, row: &Ledger) {
        let mut left = row.under_way();
        // Longer than the most patient client waits, and than it is told to wait.
        let over = within(Duration::from_secs(120), || {
            left = row.under_way();
            left.is_empty()
        });
        assert!(over, "{name}: these do not end: {left:?}");
        let store = self.store();
        for watched in collections() {
            let (store, scope) = (store.clone(), watched.scope.clone());
            let there = self
                .cluster
                .clients
                .on(async move { marks(&store, &scope).await });
            let same = |watcher: &&Arc<Watcher>| watcher.watched.path == watched.path;
            for watcher in self.watchers.iter().filter(same) {
                let told = format!("{name}: {} was told of every object", watcher.name);
                eventually(&told, || watcher.lacks(&there) == 0);
                assert_eq!(watcher.doubled(), 0, "{name}: {} twice", watcher.name);
            }
        }
        let confirmed = row.seen().confirmed;
        let counted = async move { written(&store, &confirmed).await };
        let (twice, lost) = self.cluster.clients.on(counted);
        assert_eq!((twice, lost), (0, 0), "{name}: written twice, and lost");
    }

    /// Stops clients and watches.
    pub(crate) fn end(mut self) {
        self.stop.send_replace(true);
        for task in self.watching.drain(..) {
            task.abort();
        }
        for task in self.load.drain(..) {
            self.cluster.clients.join(task);
        }
    }

    fn go(&mut self, store: &Store) {
        let expected = Arc::new(self.expected());
        let revision = {
            let (store, scope) = (store.clone(), collections()[0].scope.clone());
            let listed = async move { store.list(&scope).await.unwrap().1 };
            self.cluster.clients.on(listed)
        };
        let nodes = self.cluster.nodes.iter();
        let outside = nodes.clone().map(|node| (None, node));
        let fronts: Vec<_> = outside
            .chain(nodes.map(|node| (Some(Arc::clone(&node.place)), node)))
            .map(|(place, node)| (place, front(node)))
            .collect();
        for (number, (place, (far, near))) in fronts.into_iter().enumerate() {
            let front = if place.is_some() { near } else { far };
            let place: &Place = place.as_deref().unwrap_or(&self.cluster.clients);
            let plane = &self.cluster.plane;
            let traffic = Traffic::new(plane, number, &front, &expected, &self.row);
            let traffic = Arc::new(traffic.unwrap());
            let mut stop = self.stop.subscribe();
            self.load.push(place.spawn(async move {
                let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
                open_loop(RATE, stopped, |due| {
                    let traffic = Arc::clone(&traffic);
                    tokio::spawn(async move { traffic.send(due).await });
                })
                .await
            }));
            for watched in collections() {
                let watcher = Watcher::new(plane, (number, &front), watched, &self.row);
                let watcher = Arc::new(watcher.unwrap());
                self.watchers.push(Arc::clone(&watcher));
                let from = revision.to_string();
                let watching = async move { watcher.run(from).await };
                self.watching.push(place.spawn(watching));
            }
        }
    }

    /// What the newest server alone lists, which is what the control plane serves.
    fn expected(&self) -> BTreeSet<String> {
        let node = self.cluster.nodes.last().unwrap();
        let tls = mvp_tests::fixtures::admin(&self.cluster.plane);
        let tls = self.cluster.plane.pki().client_config(tls, &[]).unwrap();
        let to = node.at();
        let answer = self.cluster.clients.on(async move {
            let client = mvp_tests::client::Client::http2(to, &tls.into()).await?;
            client.get("/apis", &[("accept", facts::V2)]).await
        });
        facts::of(&answer.unwrap()).unwrap()
    }
}

/// How clients elsewhere and on the node itself reach it.
fn front(node: &Node) -> (Front, Front) {
    let named = |who: &str, address| Front {
        name: format!("{who} -> {}", node.name),
        address,
    };
    (
        named("clients", node.at()),
        named(&node.name, ([127, 0, 0, 1], PORT).into()),
    )
}

/// Peers are found as on a real node.
fn settings(config: &mut Value) {
    config["peers"] = json!({"kubernetes": {"enabled": true}});
    config["retire"] = json!({"within": RETIRE});
}

/// Twice [`RETIRE`]: what could not be retired in a good moment is, then.
pub(crate) const RETIRED: Duration = Duration::from_secs(20);
