//! Two releases of the agent: over one set of pins, whichever is the newer one, and side by side in one control plane.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp_common::ABI_VERSION;
use mvp_tests::raw_bpf::of_another_release;

use crate::common::on_nodes;
use crate::knocking::Knocking;

/// The one that runs has pins of this ABI version, as a release before or after this one would; then this one takes over.
fn takes_over_from(test: &str, abi: u32) {
    on_nodes(test, &[36, 35], move |cluster| {
        let node = &cluster.nodes[1];
        let mut old = cluster.agent(node);
        old.until("armed");
        let pins = cluster.bpffs.join(&node.name);
        of_another_release(&pins, abi);
        let knocking = Knocking::start(&cluster, node.at());
        knocking.until_more(20);
        let next = cluster.agent_with(node, |config| {
            config["admin"]["listen"] = "127.0.0.1:9441".into();
        });
        knocking.until_more(20);
        // The one before learns of it, although the maps that it writes to are no longer in force.
        assert_eq!(old.exit_code(), Some(0), "{}", old.log());
        let said = "another agent has taken over";
        assert!(old.log().contains(said), "{}", old.log());
        let kernel = next.status()["kernel"].as_str().unwrap().to_owned();
        let why = format!("they have ABI version {abi}, this agent has {ABI_VERSION}");
        assert!(kernel.contains(&why), "{kernel}");
        let before = next.accepted();
        knocking.until_more(20);
        assert!(next.accepted() > before);
        knocking.end(&cluster.clients);
        let view = mvp::kernel::read_pinned(&pins).unwrap();
        assert!(view.attached && view.guard.armed && view.guard.alive);
    });
}

#[test]
fn an_agent_takes_over_from_an_older_release() {
    takes_over_from("upgraded", ABI_VERSION - 1);
}

#[test]
fn an_agent_takes_over_from_a_newer_release() {
    takes_over_from("downgraded", ABI_VERSION + 1);
}
