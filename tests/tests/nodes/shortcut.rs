//! The short-cut between an agent and the server beside it, on real nodes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common::{eventually, on_nodes};
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, config_map};
use serde_json::Value;

const HANDED_OVER: &str = "mvp_kernel_events_total{event=\"shortcut_redirected\"}";
/// More than one TLS record, and more than a socket takes at once.
const LARGE: usize = 700_000;

#[test]
fn the_agents_own_connections_take_it_and_nothing_else_does() {
    on_nodes("shortcut", &[36, 35], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent_with(node, |config| config["kernel"]["shortcut"] = "on".into());
        agent.until("armed");
        let status: Value =
            serde_json::from_str(&agent.admin("GET", "/status").unwrap().1).unwrap();
        let line = status["shortcut"].as_str().unwrap();
        assert!(
            line.starts_with("on: a message there and back takes"),
            "{line}"
        );
        let noted = "mvp_kernel_events_total{event=\"shortcut_noted\"}";
        let before = (agent.metric(HANDED_OVER), agent.metric(noted));
        let client = cluster.connect(&cluster.clients, node.at()).unwrap();
        let mut map = config_map("large");
        map["data"]["blob"] = "x".repeat(LARGE).into();

        let sent = map.clone();
        let (created, read) = cluster.clients.on(async move {
            let created = client.post_json(CONFIG_MAPS, &[], &sent).await.unwrap();
            let read = client
                .get(&format!("{CONFIG_MAPS}/large"), &[])
                .await
                .unwrap();
            (created, read)
        });
        assert_eq!((created.status.as_u16(), read.status.as_u16()), (201, 200));
        assert_eq!(read.json()["data"], map["data"]);
        eventually("messages that were handed over", || {
            agent.metric(HANDED_OVER) > before.0
        });
        // The other server's agent-less connections, and this node's own clients, go by TCP.
        let noted_before = agent.metric(noted);
        let answer = cluster
            .get(&cluster.nodes[1].place, &cluster.nodes[1], ONLY_36)
            .unwrap();
        assert_eq!(answer.status, 404);
        assert_eq!(agent.metric(noted), noted_before);
    });
}

#[test]
fn without_steering_there_is_none() {
    on_nodes("shortcut-off", &[36], |cluster| {
        let agent = cluster.agent_with(&cluster.nodes[0], |config| {
            config["kernel"]["steering"] = "off".into();
            config["kernel"]["shortcut"] = "auto".into();
        });
        let status: Value =
            serde_json::from_str(&agent.admin("GET", "/status").unwrap().1).unwrap();
        assert_eq!(
            status["shortcut"],
            "off: without steering the agent's connections have no source address of their own"
        );
    });
}
