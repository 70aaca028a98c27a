//! An agent with kernel steering on real nodes (network namespaces): who gets which connection, and what happens when the agent
//! fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::common::{ADMIN, Cluster, Node, OWN_SOURCE, PATIENCE, PORT, eventually, on_nodes};
use mvp_tests::fixtures::{CONFIG_MAPS, NOWHERE, ONLY_36};
use mvp_tests::sim::control::Command;
use rustix::process::Signal;
use serde_json::json;

fn ips(peers: &[SocketAddr]) -> Vec<String> {
    peers.iter().map(|peer| peer.ip().to_string()).collect()
}

/// Requests that only this test sends.
fn target(number: usize) -> String {
    format!("{CONFIG_MAPS}/of-test-{number}")
}

#[test]
fn while_idle_clients_reach_the_server_itself() {
    on_nodes("idle", &[36, 36], |cluster| {
        let agents = cluster.agents();
        for agent in &agents {
            agent.until("idle");
        }
        let before: Vec<_> = agents.iter().map(|agent| agent.accepted()).collect();
        for (number, node) in cluster.nodes.iter().enumerate() {
            let target = target(number);
            let answer = cluster.get(&cluster.clients, node, &target).unwrap();
            assert_eq!(answer.status, 404);
            assert_eq!(
                ips(&node.received(&target)),
                [cluster.clients.address.as_str()]
            );
        }
        let after: Vec<_> = agents.iter().map(|agent| agent.accepted()).collect();
        assert_eq!(before, after);
        assert!(agents[0].metric("mvp_kernel_events_total{event=\"pass_idle\"}") > 0.0);
    });
}

#[test]
fn while_idle_clients_on_the_node_itself_come_through_the_agent() {
    on_nodes("local", &[36, 36], |cluster| {
        let (near, far) = (&cluster.nodes[0], &cluster.nodes[1]);
        // Made with the server itself before there is an agent. The server speaks last on it, as on one that a client has asked on: after
        // the first answer alone it may be the client, which acknowledges the server's settings.
        let loopback = SocketAddr::from(([127, 0, 0, 1], PORT));
        let before = Arc::new(cluster.connect(&near.place, loopback).unwrap());
        for _ in 0..2 {
            let asking = Arc::clone(&before);
            let asked = near
                .place
                .on(async move { asking.get(CONFIG_MAPS, &[]).await });
            assert_eq!(asked.unwrap().status, 200);
        }
        // Long enough for it to be silent for 5 s meanwhile: then nothing speaks against its end, whatever the ticks of the clock.
        let agent = cluster.agent_with(near, |config| {
            config["retire"] = json!({"within": "6s"});
        });
        let other = cluster.agent_with(far, |config| config["inspect"] = "armed".into());
        for agent in [&agent, &other] {
            agent.until("idle");
        }
        for to in [loopback, near.at()] {
            let accepted = agent.accepted();
            let answer = cluster.get_at(&near.place, to, CONFIG_MAPS).unwrap();
            assert_eq!(answer.status, 200, "{to}");
            assert_eq!(agent.accepted(), accepted + 1.0);
        }
        assert!(agent.metric("mvp_kernel_events_total{event=\"steered_local\"}") >= 2.0);
        assert_eq!(
            agent.metric("mvp_kernel_events_total{event=\"steered\"}"),
            0.0
        );
        // Its connection of before is ended as well, while the guard stays idle; those of others are not.
        eventually("the connection of before is retired", || {
            agent.metric("mvp_retired_connections_total{outcome=\"destroyed\"}") >= 1.0
        });
        assert_eq!(agent.metric("mvp_guard_state{state=\"idle\"}"), 1.0);
        drop(before);
        let accepted = agent.accepted();
        assert_eq!(
            cluster
                .get(&cluster.clients, near, CONFIG_MAPS)
                .unwrap()
                .status,
            200
        );
        assert_eq!(agent.accepted(), accepted);
        // With `inspect: armed` nobody is steered while the guard is idle, nor is after an operator disarmed it.
        assert_eq!(
            cluster.get(&far.place, far, CONFIG_MAPS).unwrap().status,
            200
        );
        assert_eq!(other.accepted(), 0.0);
        agent.admin("POST", "/disarm").unwrap();
        eventually("clients on the node reach the server itself", || {
            let accepted = agent.accepted();
            cluster.get(&near.place, near, CONFIG_MAPS).unwrap();
            agent.accepted() == accepted
        });
    });
}

#[test]
fn while_armed_every_new_connection_reaches_the_agent() {
    on_nodes("armed", &[36, 35], |cluster| {
        let agents = cluster.agents();
        for agent in &agents {
            agent.until("armed");
        }
        let (node, agent) = (&cluster.nodes[0], &agents[0]);
        let loopback = SocketAddr::from(([127, 0, 0, 1], PORT));
        let places = [
            (&cluster.clients, node.at()),
            // Another node's processes, and this node's own.
            (&*cluster.nodes[1].place, node.at()),
            (&*node.place, node.at()),
            (&*node.place, loopback),
        ];
        let before = agent.accepted();
        for (number, (place, to)) in places.iter().enumerate() {
            let target = target(number);
            let answer = cluster.get_at(place, *to, &target).unwrap();
            assert_eq!(answer.status, 404);
            // The agent's own connection reached the server, and nothing came back to the agent.
            assert_eq!(ips(&node.received(&target)), [OWN_SOURCE]);
        }
        assert_eq!(agent.accepted() - before, places.len() as f64);
        // What only one server serves is served everywhere.
        for node in &cluster.nodes {
            let answer = cluster.get(&cluster.clients, node, ONLY_36).unwrap();
            assert_eq!(answer.status, 200, "{}", node.name);
        }
        // Forwarded from a port that the other node's agent lets pass.
        let forwarded = cluster.nodes[0].received(ONLY_36);
        let from_b = IpAddr::from([10, 66, 2, 1]);
        assert!(
            forwarded
                .iter()
                .any(|peer| peer.ip() == from_b && (700..=999).contains(&peer.port())),
            "{forwarded:?}"
        );
    });
}

/// Every agent forwards to every server at once, and no request comes back: each server sees it once at most.
#[test]
fn nothing_multiplies() {
    on_nodes("multiply", &[36, 35, 36], |cluster| {
        let agents = cluster.agents();
        for agent in &agents {
            agent.until("armed");
        }
        for node in &cluster.nodes {
            let before: Vec<_> = counts(&cluster, NOWHERE);
            let answer = cluster.get(&cluster.clients, node, NOWHERE).unwrap();
            assert_eq!(answer.status, 404);
            let after = counts(&cluster, NOWHERE);
            let more: usize = after.iter().zip(&before).map(|(a, b)| a - b).sum();
            assert!(
                more <= 1,
                "{}: {before:?} -> {after:?}, one request",
                node.name
            );
        }
        // One connection of the client each, and none from an agent to an agent.
        for agent in &agents {
            assert_eq!(agent.accepted(), 1.0);
        }
    });
}

fn counts(cluster: &Cluster, target: &str) -> Vec<usize> {
    let nodes = cluster.nodes.iter();
    nodes.map(|node| node.received(target).len()).collect()
}

/// A request that reached the server itself, and not by an agent.
fn natively(cluster: &Cluster, node: &Node, number: usize) -> bool {
    let target = target(number);
    let answered = cluster.get(&cluster.clients, node, &target).is_ok();
    answered && ips(&node.received(&target)).last() == Some(&cluster.clients.address)
}

#[test]
fn a_killed_agent_is_out_of_the_way_and_the_next_one_takes_its_place() {
    on_nodes("killed", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let mut agent = cluster.agent(node);
        agent.until("armed");
        assert_eq!(
            cluster.get(&cluster.clients, node, ONLY_36).unwrap().status,
            200
        );
        agent.kill();
        assert!(natively(&cluster, node, 0), "not one connection is lost");
        // Its pins are there; the next agent uses them, and routes by them.
        let next = cluster.agent(node);
        assert!(
            next.log().contains("taken over from the pins"),
            "{}",
            next.log()
        );
        assert!(
            next.log().contains("routes by the pinned table"),
            "{}",
            next.log()
        );
        eventually("the next agent serves", || {
            let answer = cluster.get(&cluster.clients, node, ONLY_36).unwrap();
            answer.status == 200
        });
    });
}

#[test]
fn a_stopped_agent_is_out_of_the_way_within_a_second() {
    on_nodes("stopped", &[36, 35], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent(node);
        agent.until("armed");
        let before = agent.accepted();
        cluster.get(&cluster.clients, node, &target(1)).unwrap();
        assert_eq!(agent.accepted() - before, 1.0);
        agent.signal(Signal::STOP);
        // What is steered meanwhile waits for the agent; the kernel's own clock ends it.
        let passes = || mvp::kernel::read_pinned(&cluster.bpffs.join(&node.name)).unwrap();
        eventually("the heartbeat is too old", || !passes().guard.alive);
        let age = passes().guard.heartbeat_age.unwrap();
        assert!(age >= std::time::Duration::from_secs(1) && age < PATIENCE);
        assert!(natively(&cluster, node, 2));
        agent.signal(Signal::CONT);
        eventually("it beats again", || passes().guard.alive);
        eventually("it is in the path again", || {
            let before = agent.accepted();
            cluster.get(&cluster.clients, node, &target(3)).unwrap();
            agent.accepted() > before
        });
    });
}

#[test]
fn signs_arm_and_quiet_disarms() {
    on_nodes("signs", &[36, 36], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent(node);
        agent.until("idle");
        let reasons = |agent: &crate::common::Agent| agent.status()["guard"]["reasons"].to_string();
        // The manifest.
        let manifest = cluster.plane.pki().dir().join("cp-a.yaml");
        std::fs::write(&manifest, "kind: Pod").unwrap();
        agent.until("armed");
        assert!(reasons(&agent).contains("manifest_changed"));
        agent.until("idle");
        // A server that says that it is not ready, and one that stops.
        cluster.nodes[1].command(Command::NotReady { on: true });
        agent.until("armed");
        assert!(reasons(&agent).contains("server_not_ready"));
        cluster.nodes[1].command(Command::NotReady { on: false });
        agent.until("idle");
        cluster.nodes[1].command(Command::Stop);
        agent.until("armed");
        assert!(
            reasons(&agent).contains("server_broken"),
            "{}",
            reasons(&agent)
        );
        cluster.nodes[1].command(Command::Start);
        agent.until("idle");
        // Operators.
        let (status, line) = agent.admin("POST", "/arm").unwrap();
        assert_eq!((status, line.trim()), (200, "armed: operator_armed"));
        let armed = || mvp::kernel::read_pinned(&cluster.bpffs.join("cp-a")).unwrap();
        eventually("the kernel is armed", || armed().guard.armed);
        agent.admin("POST", "/disarm").unwrap();
        eventually("the kernel is idle", || !armed().guard.armed);
        agent.admin("POST", "/auto").unwrap();
        assert_eq!(agent.guard(), "idle");
        assert!(
            agent.metric("mvp_guard_transitions_total{to=\"armed\",reason=\"manifest_changed\"}")
                >= 1.0
        );
    });
}

#[test]
fn without_a_bpf_file_system_auto_goes_on_and_on_refuses() {
    on_nodes("bpffs", &[36, 35], |cluster| {
        let node = &cluster.nodes[0];
        let nowhere = cluster.plane.pki().dir().join("pins");
        let agent = cluster.agent_with(node, |config| {
            config["kernel"]["steering"] = "auto".into();
            config["kernel"]["pinPath"] = json!(nowhere);
        });
        let status = agent.status();
        let kernel = status["kernel"].as_str().unwrap();
        assert!(
            kernel.contains("steering off") && kernel.contains("BPF file system"),
            "{kernel}"
        );
        let all = json!(["sets_differ", "versions_differ"]);
        eventually("the signs are seen", || {
            agent.status()["guard"]["reasons"] == all
        });
        drop(agent);
        let mut agent = cluster.unready(node, |config| {
            config["kernel"]["pinPath"] = json!(nowhere);
            config["admin"]["listen"] = ADMIN.into();
        });
        assert_eq!(agent.exit_code(), Some(1));
        let log = agent.log();
        let line = log.lines().last().unwrap();
        assert!(
            line.starts_with("mvp: kernel.steering: ") && line.contains("BPF file system"),
            "{log}"
        );
    });
}

#[test]
fn pins_tell_without_an_agent_and_go_when_told() {
    on_nodes("pins", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let pins = cluster.bpffs.join(&node.name);
        let path = pins.to_str().unwrap().to_owned();
        let mvp = |arguments: &[&str]| {
            node.place
                .command(&[arguments, &["--pin-path", &path]].concat())
        };
        let mut agent = cluster.agent(node);
        agent.until("armed");
        eventually("the table is pinned", || {
            let view = mvp::kernel::read_pinned(&pins).unwrap();
            view.table
                .is_some_and(|table| table.servers.iter().all(|server| server.known))
        });
        let alive = mvp(&["status", "--pinned"]);
        assert!(alive.contains("alive, last heartbeat"), "{alive}");
        agent.kill();
        eventually("the heartbeat is too old", || {
            mvp(&["status", "--pinned"]).contains("silent for")
        });
        let status: serde_json::Value =
            serde_json::from_str(&mvp(&["status", "--pinned", "-o", "json"])).unwrap();
        assert_eq!(status["armed"], true);
        assert_eq!(status["ports"], json!([6443]));
        let routes = mvp(&["routes", "--pinned", "--differences"]);
        let line = routes
            .lines()
            .find(|line| line.contains("mutatingadmissionpolicies "));
        assert!(line.is_some_and(|line| line.contains("cp-a")), "{routes}");
        let doctor = mvp(&["doctor"]);
        assert!(!doctor.contains("failed"), "{doctor}");
        assert!(doctor.contains("armed, no agent is alive"), "{doctor}");
        let done = mvp(&["uninstall"]);
        assert!(done.contains("nothing of the agent is left"), "{done}");
        assert!(!pins.exists());
        let doctor = mvp(&["doctor", "-o", "json"]);
        let lines: serde_json::Value = serde_json::from_str(&doctor).unwrap();
        let others = lines.as_array().unwrap().iter();
        let mut others = others.filter(|line| line["subject"] == "other sk_lookup programs");
        assert_eq!(others.next().unwrap()["outcome"], "ok");
        assert!(natively(&cluster, node, 0));
    });
}
