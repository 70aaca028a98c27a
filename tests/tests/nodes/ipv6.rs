//! Clients that come by IPv6, on real nodes: steered as those that come by IPv4, from the node itself and from others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, SocketAddr};

use crate::common::{OWN_SOURCE, PORT, eventually, on_nodes};
use mvp_tests::fixtures::CONFIG_MAPS;

#[test]
fn clients_of_both_families_are_steered() {
    on_nodes("ipv6", &[36, 35], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent_with(node, |config| config["listen"] = "[::]:16443".into());
        agent.until("armed");
        let v6: SocketAddr = format!("[{}]:{PORT}", node.place.address6).parse().unwrap();
        let near: SocketAddr = format!("[::1]:{PORT}").parse().unwrap();
        let places = [
            (&cluster.clients, v6),
            (&*cluster.nodes[1].place, v6),
            (&*node.place, v6),
            (&*node.place, near),
            (&cluster.clients, node.at()),
            (&*node.place, node.at()),
        ];
        let before = agent.accepted();
        let peers = |number: usize| -> Vec<IpAddr> {
            let received = node.received(&target(number));
            received.iter().map(SocketAddr::ip).collect()
        };
        for (number, (place, to)) in places.iter().enumerate() {
            let answer = cluster.get_at(place, *to, &target(number)).unwrap();
            assert_eq!(answer.status, 404);
            assert_eq!(
                peers(number),
                [OWN_SOURCE.parse::<IpAddr>().unwrap()],
                "{to}"
            );
        }
        assert_eq!(agent.accepted() - before, places.len() as f64);

        // Idle, each reaches the server itself, which sees who asks.
        agent.admin("POST", "/disarm").unwrap();
        let pins = cluster.bpffs.join(&node.name);
        eventually("the kernel is idle", || {
            !mvp::kernel::read_pinned(&pins).unwrap().guard.armed
        });
        let accepted = agent.accepted();
        let idle = [
            (&cluster.clients, v6, &cluster.clients.address6),
            (&cluster.clients, node.at(), &cluster.clients.address),
        ];
        for (number, (place, to, from)) in (places.len()..).zip(idle) {
            let answer = cluster.get_at(place, to, &target(number)).unwrap();
            assert_eq!(answer.status, 404);
            assert_eq!(peers(number), [from.parse::<IpAddr>().unwrap()], "{to}");
        }
        assert_eq!(agent.accepted(), accepted);
    });
}

/// Requests that only this test sends.
fn target(number: usize) -> String {
    format!("{CONFIG_MAPS}/of-ipv6-{number}")
}
