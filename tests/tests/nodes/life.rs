//! The life of an agent on one node in one scene, from its start to its removal. On this machine other tests look at each part more
//! closely; on other kernels, which are emulated, this one is enough and costs a seventh of them (`xtask/src/kernels/cases.rs`).

use std::net::SocketAddr;
use std::sync::Arc;

use mvp_tests::fixtures::CONFIG_MAPS;
use rustix::process::Signal;

use crate::common::{Agent, Cluster, Node, OWN_SOURCE, PORT, Place, eventually, on_nodes};

#[test]
fn from_its_start_to_its_removal() {
    on_nodes("life", &[36, 36], |cluster| {
        let life = Life {
            node: &cluster.nodes[0],
            cluster: &cluster,
        };
        let agent = cluster.agent(life.node);
        life.idle(&agent);
        life.armed(&agent);
        life.hangs(&agent);
        let next = life.replaced(agent);
        life.killed_and_removed(next);
    });
}

struct Life<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
}

impl Life<'_> {
    /// Clients of other nodes reach the server itself, and clients of this node the agent.
    fn idle(&self, agent: &Agent) {
        agent.until("idle");
        assert_eq!(self.source("idle"), self.cluster.clients.address);
        assert!(agent.metric("mvp_kernel_events_total{event=\"pass_idle\"}") > 0.0);
        let loopback = SocketAddr::from(([127, 0, 0, 1], PORT));
        for to in [loopback, self.node.at()] {
            assert!(self.is_accepted(agent, &self.node.place, to), "{to}");
        }
        assert!(agent.metric("mvp_kernel_events_total{event=\"steered_local\"}") >= 2.0);
        assert_eq!(
            agent.metric("mvp_kernel_events_total{event=\"steered\"}"),
            0.0
        );
    }

    /// New connections of all clients reach the agent, and one of before is ended.
    fn armed(&self, agent: &Agent) {
        let clients = &self.cluster.clients;
        let before = Arc::new(self.cluster.connect(clients, self.node.at()).unwrap());
        let ask = || {
            let before = Arc::clone(&before);
            clients.on(async move { before.get(CONFIG_MAPS, &[]).await })
        };
        assert_eq!(ask().unwrap().status, 200);
        agent.admin("POST", "/arm").unwrap();
        eventually("the kernel is armed", || self.pinned().guard.armed);
        for place in [clients, &self.cluster.nodes[1].place, &self.node.place] {
            assert!(self.is_accepted(agent, place, self.node.at()));
        }
        assert_eq!(self.source("armed"), OWN_SOURCE);
        eventually("the connection of before is retired", || {
            agent.metric("mvp_retired_connections_total{outcome=\"destroyed\"}") >= 1.0
        });
        assert!(ask().is_err());
    }

    /// The kernel passes an agent by that does not beat, and comes back to it.
    fn hangs(&self, agent: &Agent) {
        agent.signal(Signal::STOP);
        eventually("the heartbeat is too old", || !self.pinned().guard.alive);
        assert_eq!(self.source("hangs"), self.cluster.clients.address);
        agent.signal(Signal::CONT);
        eventually("it is in the path again", || {
            self.is_accepted(agent, &self.cluster.clients, self.node.at())
        });
    }

    /// Another agent takes the pins over, and the first one ends.
    fn replaced(&self, mut agent: Agent) -> Agent {
        let next = self.cluster.agent_with(self.node, |config| {
            config["admin"]["listen"] = "127.0.0.1:9441".into();
        });
        assert_eq!(agent.exit_code(), Some(0), "{}", agent.log());
        assert!(agent.log().contains("another agent has taken over"));
        next.admin("POST", "/arm").unwrap();
        eventually("the next agent is in the path", || {
            self.is_accepted(&next, &self.cluster.clients, self.node.at())
        });
        next
    }

    /// Nothing is lost with an agent that is killed, and nothing of it is left when that is asked for.
    fn killed_and_removed(&self, mut agent: Agent) {
        agent.kill();
        assert_eq!(self.source("killed"), self.cluster.clients.address);
        let pins = self.cluster.bpffs.join(&self.node.name);
        let mvp = |arguments: &[&str]| {
            let pin_path = ["--pin-path", pins.to_str().unwrap()];
            self.node.place.command(&[arguments, &pin_path].concat())
        };
        eventually("the heartbeat is too old", || {
            mvp(&["status", "--pinned"]).contains("silent for")
        });
        let done = mvp(&["uninstall"]);
        assert!(done.contains("nothing of the agent is left"), "{done}");
        assert!(!pins.exists());
        assert_eq!(self.source("removed"), self.cluster.clients.address);
    }

    fn pinned(&self) -> mvp::kernel::PinnedView {
        mvp::kernel::read_pinned(&self.cluster.bpffs.join(&self.node.name)).unwrap()
    }

    /// Whether a new connection from there reaches this agent. It is answered in any case.
    fn is_accepted(&self, agent: &Agent, place: &Place, to: SocketAddr) -> bool {
        let before = agent.accepted();
        let answer = self.cluster.get_at(place, to, CONFIG_MAPS).unwrap();
        assert_eq!(answer.status, 200);
        agent.accepted() > before
    }

    /// From where the server sees a request of a client on another node.
    fn source(&self, step: &str) -> String {
        let target = format!("{CONFIG_MAPS}/of-step-{step}");
        let clients = &self.cluster.clients;
        let answer = self.cluster.get(clients, self.node, &target).unwrap();
        assert_eq!(answer.status, 404);
        let received = self.node.received(&target);
        received.last().unwrap().ip().to_string()
    }
}
