//! The controllers that act on what they do not find, on connections made while the guard was idle, through an upgrade of all servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp_tests::upgrade::{agents, lingering, run_controllers};

use crate::common::on_nodes_with;

/// The upgrade that brings namespaced types: ResourceClaims and DeviceClasses of resource.k8s.io/v1.
const CLAIMS: [u8; 3] = [33, 33, 33];

#[test]
fn namespace_deletion_and_garbage_collection_do_the_right_thing_on_connections_of_before() {
    on_nodes_with("controllers", &CLAIMS, lingering, |cluster| {
        let agents = agents(&cluster, |_| {});
        let found = run_controllers(&cluster, &agents).unwrap();
        println!("{found:?}");
        assert!(found.is_right(), "{found:?}");
    });
}

#[test]
fn without_agents_the_same_controllers_orphan_objects_and_collect_wrongly() {
    on_nodes_with(
        "uncontrolled",
        &CLAIMS,
        |spec| spec,
        |cluster| {
            let found = run_controllers(&cluster, &[]).unwrap();
            println!("{found:?}");
            assert!(
                found.orphaned > 0 && found.collected_wrongly > 0,
                "{found:?}"
            );
        },
    );
}
