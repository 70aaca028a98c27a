//! Nodes for tests of kernel steering, with the programs of this crate.
#![allow(dead_code)]

use std::path::PathBuf;

use mvp_tests::netns::privileged;
pub(crate) use mvp_tests::nodes::*;
use mvp_tests::sim::ServerSpec;

/// From there an agent connects to the server of its own node (`kernel.ownSource`).
pub(crate) const OWN_SOURCE: &str = "127.66.0.1";

/// Runs a test on nodes with servers of these minors.
pub(crate) fn on_nodes(
    test: &str,
    minors: &'static [u8],
    work: impl FnOnce(Cluster) + Send + 'static,
) {
    on_nodes_with(test, minors, |spec| spec, work);
}

/// The same with servers that are set up in another way.
pub(crate) fn on_nodes_with(
    test: &str,
    minors: &'static [u8],
    server: fn(ServerSpec) -> ServerSpec,
    work: impl FnOnce(Cluster) + Send + 'static,
) {
    if !privileged(test, true) {
        return;
    }
    let binaries = Binaries {
        agent: PathBuf::from(env!("CARGO_BIN_EXE_mvp-agent")),
        server: PathBuf::from(env!("CARGO_BIN_EXE_mvp-sim")),
    };
    run_on_nodes(binaries, minors, server, work);
}
