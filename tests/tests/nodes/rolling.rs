//! A rolling upgrade under clients of every kind that connected while the guard was idle: `cargo xtask bench upgrade` in one round.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp_tests::upgrade::{Outcome, Settings, agents, lingering, run};

use crate::common::on_nodes_with;

fn rolling(test: &'static str, with_agents: bool, check: fn(Outcome)) {
    on_nodes_with(test, &[35, 35, 35], lingering, move |cluster| {
        let agents = match with_agents {
            true => agents(&cluster, |_| {}),
            false => Vec::new(),
        };
        let settings = Settings::direct(&cluster).unwrap();
        check(run(&cluster, &agents, &settings).unwrap());
    });
}

#[test]
fn no_kind_of_client_is_told_anything_wrong() {
    rolling("rolling", true, |outcome| {
        println!("{}\n{}", outcome.seconds.line(), outcome.table());
        outcome.check_truth().unwrap();
        assert!(outcome.seconds.inspected.is_some(), "{}", outcome.notes);
    });
}

/// What the other test could see.
#[test]
fn without_agents_the_same_clients_are() {
    rolling("without", false, |outcome| {
        assert!(outcome.false_404() > 0, "{}", outcome.table());
        assert!(outcome.shrunken() > 0, "{}", outcome.table());
        assert!(outcome.seconds.inspected.is_none());
    });
}
