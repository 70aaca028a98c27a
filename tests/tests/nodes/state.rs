//! What an agent on a node says of itself while the kernel does it, or does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use crate::common::{Agent, Cluster, Node, eventually, on_nodes};
use mvp_tests::fixtures::ONLY_36;
use nix::mount::{MsFlags, mount};
use rustix::process::Signal;
use serde_json::Value;

fn stance(agent: &Agent) -> Value {
    agent.status()["stance"].clone()
}

fn until_word(agent: &Agent, word: &str) {
    eventually(word, || stance(agent)["word"] == word);
}

/// Connections reach kube-apiserver itself and are answered as without an agent.
fn natively(cluster: &Cluster, node: &Node, before: usize) {
    let answer = cluster.get(&cluster.clients, node, ONLY_36).unwrap();
    assert_eq!(answer.status, 404, "as this server alone answers");
    assert_eq!(node.received(ONLY_36).len(), before + 1);
}

#[test]
fn the_first_line_is_what_the_kernel_does() {
    on_nodes("first line", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let agent = cluster.agent(node);
        until_word(&agent, "inspecting");
        assert_eq!(agent.metric("mvp_kernel_steering"), 1.0);
        agent.admin("POST", "/disarm").unwrap();
        until_word(&agent, "standing by");
        assert_eq!(agent.metric("mvp_kernel_steering"), 1.0);
        agent.admin("POST", "/auto").unwrap();
        until_word(&agent, "inspecting");

        // Somebody detaches the program behind the agent's back.
        let pins = cluster.bpffs.join(&node.name);
        mvp::kernel::uninstall(&pins).unwrap();
        until_word(&agent, "passing by");
        let stance = stance(&agent);
        assert_eq!(stance["reasons"][0]["reason"], "not_steering", "{stance}");
        assert_eq!(agent.metric("mvp_kernel_steering"), 0.0);
        let sample = "mvp_passing_by{reason=\"not_steering\"}";
        assert_eq!(agent.metric(sample), 1.0);
        natively(&cluster, node, node.received(ONLY_36).len());
    });
}

fn read_only(bpffs: &Path) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, bpffs, None::<&str>, flags, None::<&str>).unwrap();
}

/// As a security module does it: the folder is there, and nothing can be written.
#[test]
fn a_bpffs_that_cannot_be_written_is_passed_by_and_doctor_says_so() {
    on_nodes("read-only bpffs", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        read_only(&cluster.bpffs);
        let agent = cluster.agent_with(node, |config| {
            config["kernel"]["steering"] = "auto".into();
        });
        let stance = stance(&agent);
        assert_eq!(stance["word"], "passing by", "{stance}");
        assert_eq!(stance["reasons"][0]["reason"], "not_steering", "{stance}");
        assert_eq!(agent.metric("mvp_kernel_steering"), 0.0);
        natively(&cluster, node, node.received(ONLY_36).len());
        let pins = cluster.bpffs.join(&node.name);
        let pins = pins.to_str().unwrap();
        let doctor = node.place.try_command(&["doctor", "--pin-path", pins]);
        assert_eq!(doctor.status.code(), Some(1));
        let doctor = String::from_utf8(doctor.stdout).unwrap();
        let line = doctor.lines().find(|line| line.starts_with("pinning"));
        assert!(line.is_some_and(|line| line.contains("failed")), "{doctor}");
    });
}

/// An agent that took over from one that inspected would look away in the middle of an upgrade: with false 404s for whoever came then.
#[test]
fn the_guard_does_not_settle_before_every_server_was_asked() {
    on_nodes("unasked", &[36, 36], |cluster| {
        // Its first answer takes longer than the guard's settling time: until then nothing is known of it.
        let late = cluster.nodes[1].server();
        late.pause().unwrap();
        let agent = cluster.agent(&cluster.nodes[0]);
        assert!(
            !agent.log().contains("the guard is idle"),
            "{}",
            agent.log()
        );
        late.resume().unwrap();
        agent.until("idle");
    });
}

#[test]
fn a_replaced_agent_waits_for_its_supervisor() {
    on_nodes("replaced", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let mut old = cluster.agent_with(node, |config| {
            config["drain"] = serde_json::json!({"waitWhenReplaced": true, "deadline": "1s"});
        });
        let next = cluster.agent_with(node, |config| {
            config["admin"]["listen"] = "127.0.0.1:9441".into();
        });
        eventually("the old one has drained", || {
            old.log().contains("replaced and drained")
        });
        until_word(&next, "inspecting");
        old.signal(Signal::TERM);
        assert_eq!(old.exit_code(), Some(0), "{}", old.log());
        until_word(&next, "inspecting");
    });
}
