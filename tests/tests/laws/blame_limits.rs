//! On nodes with steering: when the agent has no room, new connections reach kube-apiserver and succeed as they do without an agent.

use std::time::Instant;

use crate::common::{Agent, Cluster, eventually, on_nodes};
use mvp_tests::crowd::Silent;
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36};
use rustix::process::Signal;
use serde_json::Value;

/// Requests on connections of their own, all of which must be answered by somebody who serves them.
const TRIES: usize = 20;
const FULL: &str = "mvp_kernel_heartbeats_withheld_total{reason=\"full\"}";

/// A node whose server lacks what the other has, with an agent that inspects.
fn inspecting(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> Agent {
    let agent = cluster.agent_with(&cluster.nodes[0], change);
    agent.until("armed");
    inspects_again(cluster);
    agent
}

fn inspects_again(cluster: &Cluster) {
    eventually("connections are inspected", || {
        let answer = cluster.get(&cluster.clients, &cluster.nodes[0], ONLY_36);
        answer.is_ok_and(|answer| answer.status == 200)
    });
}

/// Whether one more connection of a client reached the server itself; it must succeed.
fn reaches_server(cluster: &Cluster, target: &str) -> bool {
    let node = &cluster.nodes[0];
    let before = direct(cluster, target);
    let answer = cluster.get(&cluster.clients, node, target).unwrap();
    assert_eq!(answer.status, 200);
    direct(cluster, target) > before
}

/// Requests that the server received from the client's own address.
fn direct(cluster: &Cluster, target: &str) -> usize {
    let peers = cluster.nodes[0].received(target);
    let from = |peer: &&std::net::SocketAddr| peer.ip().to_string() == cluster.clients.address;
    peers.iter().filter(from).count()
}

fn crowd(cluster: &Cluster, at_once: usize, a_second: u32) -> Silent {
    let (from, to) = (
        cluster.clients.address.parse().unwrap(),
        cluster.nodes[0].at(),
    );
    cluster.clients.on(async move {
        let crowd = Silent::crowd(from, to, at_once, a_second);
        crowd.await.unwrap()
    })
}

#[test]
fn descriptors_exhausted() {
    on_nodes("descriptors", &[35, 36], |cluster| {
        let agent = inspecting(&cluster, |_| {});
        let before = agent.limit_descriptors(agent.lowest_free_descriptor());
        let (node, mut held) = (&cluster.nodes[0], Vec::new());
        while !agent.log().contains("accept failed") {
            assert!(held.len() < 200, "descriptors are never used up");
            // The last one is closed, and its client tries again.
            held.extend(cluster.connect(&cluster.clients, node.at()).ok());
        }
        let begun = Instant::now();
        eventually("connections reach the server", || {
            let seen = direct(&cluster, CONFIG_MAPS);
            let answer = cluster.get(&cluster.clients, node, CONFIG_MAPS);
            answer.is_ok_and(|answer| answer.status == 200) && direct(&cluster, CONFIG_MAPS) > seen
        });
        println!(
            "descriptors exhausted: passed by after {:?}",
            begun.elapsed()
        );
        // A connection of the agent's own that ends leaves room for one client, which is answered all the same.
        for _ in 0..TRIES {
            eventually("connections reach the server", || {
                reaches_server(&cluster, CONFIG_MAPS)
            });
        }
        drop(held);
        agent.limit_descriptors(before);
        inspects_again(&cluster);
    });
}

#[test]
fn accept_queue_full() {
    on_nodes("queue", &[35, 36], |cluster| {
        mvp_tests::child::raise_descriptor_limit().unwrap();
        let agent = inspecting(&cluster, |_| {});
        agent.signal(Signal::STOP);
        // More than any queue takes. What is beyond what the last heartbeat granted passes.
        let crowd = crowd(&cluster, 6000, 0);
        let begun = Instant::now();
        eventually("connections reach the server", || {
            reaches_server(&cluster, CONFIG_MAPS)
        });
        println!("accept queue full: passed by after {:?}", begun.elapsed());
        for _ in 0..TRIES {
            assert!(reaches_server(&cluster, CONFIG_MAPS));
        }
        drop(crowd);
        agent.signal(Signal::CONT);
        inspects_again(&cluster);
    });
}

#[test]
fn handshake_flood() {
    on_nodes("flood", &[35, 36], |cluster| {
        let agent = inspecting(&cluster, |config| {
            config["limits"]["pendingHandshakes"] = 16.into();
        });
        let crowd = crowd(&cluster, 64, 200);
        let begun = Instant::now();
        eventually("connections reach the server", || {
            reaches_server(&cluster, CONFIG_MAPS)
        });
        println!("handshake flood: passed by after {:?}", begun.elapsed());
        for _ in 0..TRIES {
            reaches_server(&cluster, CONFIG_MAPS);
        }
        assert!(agent.metric(FULL) > 0.0);
        drop(crowd);
        inspects_again(&cluster);
    });
}

/// A usual client is inspected beside 1,024 silent connections of its own address and 100 new ones per second.
#[test]
fn silent_connections_do_not_end_inspection() {
    on_nodes("silent", &[35, 36], |cluster| {
        mvp_tests::child::raise_descriptor_limit().unwrap();
        let agent = inspecting(&cluster, |_| {});
        let _crowd = crowd(&cluster, 1024, 100);
        for _ in 0..TRIES {
            reaches_server(&cluster, CONFIG_MAPS);
        }
        inspects_again(&cluster);
        for _ in 0..TRIES {
            let answer = cluster.get(&cluster.clients, &cluster.nodes[0], ONLY_36);
            assert_eq!(answer.unwrap().status, 200);
        }
        assert!(agent.metric("mvp_refused_total{limit=\"pending_handshakes\"}") > 0.0);
    });
}
