//! What one agent sees or an operator says to one arms the agents of all nodes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;

use crate::common::{Agent, Cluster, Node, eventually, on_nodes};
use mvp_tests::rbac;
use mvp_tests::sim::control::Command;

/// An agent that finds its peers in Kubernetes, with the rights of `deploy/rbac.yaml` and no others.
fn agent(cluster: &Cluster, node: &Node) -> Agent {
    cluster.agent_with(node, |config| {
        config["peers"]["kubernetes"] = serde_json::json!({"enabled": true});
    })
}

fn agents(cluster: &Cluster, with_lease: bool) -> Vec<Agent> {
    let plane = cluster.plane.clone();
    cluster.clients.on(async move {
        rbac::apply(&plane).unwrap();
        if with_lease {
            rbac::create_lease(&plane).await.unwrap();
        }
    });
    for node in &cluster.nodes {
        node.command(Command::Policy((*cluster.plane.policy()).clone()));
    }
    let agents: Vec<_> = cluster.nodes.iter().map(|n| agent(cluster, n)).collect();
    for agent in &agents {
        agent.until("idle");
    }
    agents
}

fn reasons(agent: &Agent) -> Vec<String> {
    let guard = agent.status()["guard"].clone();
    let reasons = guard["reasons"].as_array().unwrap().iter();
    reasons.map(|r| r.as_str().unwrap().to_owned()).collect()
}

fn cluster_line(agent: &Agent) -> String {
    agent.status()["cluster"].as_str().unwrap().to_owned()
}

#[test]
fn one_agents_sign_arms_the_agents_of_all_nodes() {
    on_nodes("signs", &[36, 36, 36], |cluster| {
        let agents = agents(&cluster, true);
        let manifest = |node: &Node| {
            let name = format!("{}.yaml", node.name);
            std::fs::write(cluster.plane.pki().dir().join(name), "kind: Pod").unwrap();
        };
        manifest(&cluster.nodes[0]);
        for (agent, node) in agents.iter().zip(&cluster.nodes).skip(1) {
            eventually("the kernel is armed", || {
                let pins = cluster.bpffs.join(&node.name);
                mvp::kernel::read_pinned(&pins).unwrap().guard.armed
            });
            assert_eq!(reasons(agent), ["agent_armed"]);
            eventually("the last word is known", || {
                cluster_line(agent).contains("last word: manifest_changed at ")
            });
            assert_eq!(agent.metric("mvp_cluster_words_total{kind=\"heard\"}"), 1.0);
            assert_eq!(agent.metric("mvp_cluster_words_total{kind=\"told\"}"), 0.0);
        }
        assert_eq!(reasons(&agents[0]), ["manifest_changed"]);
        // It saw one itself, and is not held by what it said.
        agents[0].until("idle");
    });
}

#[test]
fn an_operator_arms_all_agents_and_takes_it_back_at_another() {
    on_nodes("muster", &[36, 36, 36], |cluster| {
        let agents = agents(&cluster, true);
        let said = agents[0]
            .admin("POST", "/arm?cluster=true&for=30m")
            .unwrap();
        assert_eq!(said, (200, "all agents are armed for 1800s\n".to_owned()));
        for agent in &agents {
            agent.until("armed");
            assert_eq!(reasons(agent), ["cluster_armed"]);
            assert!(cluster_line(agent).contains("by an operator at cp-a"));
        }
        // Who starts meanwhile hears of it too.
        let mut agents = agents;
        drop(agents.remove(2));
        agents.push(agent(&cluster, &cluster.nodes[2]));
        eventually("it is armed by it", || {
            reasons(&agents[2]).contains(&"cluster_armed".to_owned())
        });
        let said = agents[1].admin("POST", "/auto?cluster=true").unwrap();
        assert_eq!(said.0, 200, "{}", said.1);
        for agent in &agents {
            agent.until("idle");
        }
    });
}

#[test]
fn without_the_lease_agents_go_by_their_own_signs_and_say_so() {
    on_nodes("unshared", &[36, 36], |cluster| {
        let agents = agents(&cluster, false);
        for agent in &agents {
            let line = cluster_line(agent);
            assert!(line.contains("deploy/rbac.yaml makes it"), "{line}");
        }
        let (code, said) = agents[0].admin("POST", "/arm?cluster=true").unwrap();
        assert_eq!(code, 502, "{said}");
        assert!(said.contains("deploy/rbac.yaml makes it"), "{said}");
        cluster.nodes[1].command(Command::Restart { minor: 36 });
        for agent in &agents {
            agent.until("armed");
        }
        let all: Vec<Value> = agents.iter().map(Agent::status).collect();
        assert!(
            all.iter()
                .all(|s| s["guard"]["reasons"][0] != "agent_armed")
        );
        assert!(agents[0].metric("mvp_cluster_words_total{kind=\"failed\"}") >= 1.0);
    });
}
