//! The rows: what fails, and which errors nothing could have avoided.

use std::cell::Cell;
use std::time::{Duration, Instant};

use mvp_tests::chaos::{Event, Kind, Wrong};
use mvp_tests::sim::store::{Key, Scope, revision};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::lasts;
use super::stage::{RETIRED, Stage};
use crate::common::eventually;

/// The node of the old server, and those of the new ones.
const OLD: usize = 0;
const NEW: usize = 1;
const OTHER: usize = 2;
/// From a process's end until everybody who was in the middle of something with it knows, on a busy machine.
const NOTICED: Duration = Duration::from_secs(1);
/// Until a server or a way to it that is silent is held to be dead: a PING after 5 s of silence, 5 s for its answer, and a busy machine.
const FOUND_SILENT: Duration = Duration::from_secs(11);

pub(crate) struct Row {
    pub name: &'static str,
    /// Returns when the fault is over.
    pub fault: fn(&mut Stage),
    /// Why an event could not be avoided.
    pub excuse: fn(&Harm, &Event) -> Option<&'static str>,
}

/// When a fault was.
pub(crate) struct Harm {
    pub begun: Instant,
    pub mended: Instant,
    /// The one request that retirement may cut was seen.
    pub cut: Cell<bool>,
}

pub(crate) const SERVER_KILLED: Row = Row {
    name: "a new server is killed, and started 4 s later",
    fault: |stage| {
        stage.node(NEW).kill_server();
        lasts(Duration::from_secs(4));
        stage.node(NEW).start_server();
    },
    excuse: |harm, event| harm.in_flight(event, NOTICED),
};

pub(crate) const ROWS: &[Row] = &[
    SERVER_KILLED,
    Row {
        name: "the old server is killed, and started 4 s later",
        fault: |stage| {
            stage.node(OLD).kill_server();
            lasts(Duration::from_secs(4));
            stage.node(OLD).start_server();
        },
        excuse: |harm, event| harm.in_flight(event, NOTICED),
    },
    Row {
        name: "a new server is stopped (SIGSTOP) for 20 s",
        fault: |stage| {
            stage.node(OTHER).server().pause().unwrap();
            lasts(Duration::from_secs(20));
            stage.node(OTHER).server().resume().unwrap();
        },
        excuse: |harm, event| harm.in_flight(event, FOUND_SILENT),
    },
    Row {
        name: "a new server's agent is killed, and started 2 s later",
        fault: |stage| {
            stage.kill_agent(NEW);
            lasts(Duration::from_secs(2));
            stage.start_agent(NEW);
        },
        excuse: |harm, event| {
            harm.lost_agent(event, &[NEW])
                .or_else(|| harm.retired(event, &[NEW]))
        },
    },
    Row {
        name: "the old server's agent is killed, and started 2 s later",
        fault: |stage| {
            stage.kill_agent(OLD);
            lasts(Duration::from_secs(2));
            stage.start_agent(OLD);
        },
        excuse: |harm, event| {
            harm.lost_agent(event, &[OLD])
                .or_else(|| harm.no_agent(event))
                .or_else(|| harm.retired(event, &[OLD]))
        },
    },
    Row {
        name: "a new server's agent is stopped (SIGSTOP) for 8 s",
        fault: |stage| stopped_agent(stage, OTHER),
        excuse: |harm, event| harm.retired(event, &[OTHER]),
    },
    Row {
        name: "the old server's agent is stopped (SIGSTOP) for 8 s",
        fault: |stage| stopped_agent(stage, OLD),
        excuse: |harm, event| harm.no_agent(event).or_else(|| harm.retired(event, &[OLD])),
    },
    Row {
        name: "the link of a new server's node is down for 12 s",
        fault: |stage| link_down(stage, NEW),
        excuse: |harm, event| harm.cut_off(event, NEW),
    },
    Row {
        name: "the link of the old server's node is down for 12 s",
        fault: |stage| link_down(stage, OLD),
        excuse: |harm, event| harm.cut_off(event, OLD).or_else(|| harm.nobody_else(event)),
    },
    Row {
        name: "the agents of both new servers are killed at once, and started 2 s later",
        fault: |stage| {
            stage.kill_agent(NEW);
            stage.kill_agent(OTHER);
            lasts(Duration::from_secs(2));
            stage.start_agent(NEW);
            stage.start_agent(OTHER);
        },
        excuse: |harm, event| {
            harm.lost_agent(event, &[NEW, OTHER])
                .or_else(|| harm.retired(event, &[NEW, OTHER]))
        },
    },
    Row {
        name: "all Leases in `kube-system` are deleted",
        fault: |stage| {
            let scope = Scope::new("coordination.k8s.io", "leases", "kube-system");
            for lease in list(stage, &scope) {
                let name = lease["metadata"]["name"].as_str().unwrap().to_owned();
                let key = Key::new(&scope.group, &scope.resource, &scope.namespace, &name);
                let store = stage.store();
                let deleted = async move { store.delete(&key, None).await };
                stage.cluster.clients.on(deleted).unwrap();
            }
            eventually("the servers write theirs again", || {
                list(stage, &scope).len() == 3
            });
        },
        excuse: |_, _| None,
    },
    Row {
        name: "EndpointSlice `kubernetes` is emptied",
        fault: |stage| {
            let scope = Scope::new("discovery.k8s.io", "endpointslices", "default");
            let key = Key::new(
                &scope.group,
                &scope.resource,
                &scope.namespace,
                "kubernetes",
            );
            let mut slice = list(stage, &scope).pop().unwrap();
            slice["endpoints"] = json!([]);
            let (store, expected) = (stage.store(), revision(&slice));
            let emptied = async move { store.update(&key, slice, expected).await };
            stage.cluster.clients.on(emptied).unwrap();
            eventually("the servers enter themselves again", || {
                let slice = list(stage, &scope).pop().unwrap();
                slice["endpoints"].as_array().unwrap().len() == 3
            });
        },
        excuse: |_, _| None,
    },
];

impl Harm {
    /// A write of which nobody knows whether the server acted on it before it died.
    fn in_flight(&self, event: &Event, found: Duration) -> Option<&'static str> {
        (event.wrong == Wrong::InDoubt && event.sent < self.begun + found)
            .then_some("in flight on the server")
    }

    /// The connection ended with the agent; what was not sent yet met a handshake that never ended.
    fn lost_agent(&self, event: &Event, nodes: &[usize]) -> Option<&'static str> {
        let lost = matches!(event.wrong, Wrong::InDoubt | Wrong::NoConnection);
        let there = nodes.contains(&node(event));
        (lost && there && event.sent < self.begun + NOTICED).then_some("in flight on the agent")
    }

    /// One request under way on a connection that was made while no agent took it, and is ended for that afterwards: between the last
    /// look at a connection and its end lie microseconds, on a busy machine more, in which a request can come. One in 10,000 is the bound
    /// that retirement has (docs/benchmarks.md), and a row has about 1,000.
    fn retired(&self, event: &Event, nodes: &[usize]) -> Option<&'static str> {
        let there = nodes.contains(&node(event));
        let then = event.sent >= self.begun + NOTICED && event.sent < self.mended + RETIRED;
        let is_one = event.wrong == Wrong::InDoubt && there && then && !self.cut.replace(true);
        is_one.then_some("under way on a connection that was retired")
    }

    /// What an old server says itself: connections that were made to it while no agent ran there, and until they were retired.
    fn no_agent(&self, event: &Event) -> Option<&'static str> {
        let denied = matches!(event.wrong, Wrong::FalseNotFound | Wrong::Shrunk);
        (denied && node(event) == OLD && event.sent < self.mended + RETIRED)
            .then_some("the old server itself, while no agent ran beside it")
    }

    /// From elsewhere nobody reaches the node, and what was forwarded there has no answer.
    fn cut_off(&self, event: &Event, number: usize) -> Option<&'static str> {
        let answerless = matches!(
            event.wrong,
            Wrong::InDoubt | Wrong::NoConnection | Wrong::NoAnswer | Wrong::TimedOut
        );
        if answerless && event.front == number && event.sent < self.mended {
            return Some("the node was not reachable");
        }
        (event.wrong == Wrong::InDoubt && event.sent < self.begun + FOUND_SILENT)
            .then_some("in flight on the way")
    }

    /// On the node of the old server nobody is left who knows the new types.
    fn nobody_else(&self, event: &Event) -> Option<&'static str> {
        let new = matches!(event.kind, Kind::ReadNew | Kind::WriteNew);
        let there = node(event) == OLD && event.sent < self.mended;
        (event.wrong == Wrong::Unavailable && new && there)
            .then_some("no server with the type was reachable")
    }
}

/// The node that was asked: three fronts for clients elsewhere, and three for those on the nodes.
fn node(event: &Event) -> usize {
    event.front % 3
}

fn stopped_agent(stage: &mut Stage, number: usize) {
    let agent = stage.agents[number].as_ref().unwrap();
    agent.signal(Signal::STOP);
    lasts(Duration::from_secs(8));
    agent.signal(Signal::CONT);
}

fn link_down(stage: &mut Stage, number: usize) {
    let device = format!("node{}", number + 1);
    let set = |state| {
        let router = &stage.cluster.router;
        router.ip(&["link", "set", &device, state]).unwrap();
    };
    set("down");
    lasts(Duration::from_secs(12));
    set("up");
}

fn list(stage: &Stage, scope: &Scope) -> Vec<Value> {
    let (store, scope) = (stage.store(), scope.clone());
    let listed = async move { store.list(&scope).await.unwrap().0 };
    let listed = stage.cluster.clients.on(listed);
    listed.iter().map(|object| (**object).clone()).collect()
}
