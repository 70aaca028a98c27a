//! A node and a client in namespaces of their own.

use std::path::Path;

use mvp_tests::netns::{Namespace, privileged};

use super::{ask, ask_from, with_bpffs};

/// Local addresses of the node: as clients elsewhere and as clients on the node see it.
pub(crate) const FAR: [&str; 3] = ["10.78.0.1:6443", "10.78.0.7:6443", "[fd78::1]:6443"];
pub(crate) const NEAR: [&str; 4] = [
    "127.0.0.1:6443",
    "127.0.0.12:6443",
    "[::1]:6443",
    "10.78.0.1:6443",
];

/// A node, and a client on the same link.
pub(crate) struct Net {
    pub node: Namespace,
    pub client: Namespace,
}

impl Net {
    pub(crate) fn new() -> Self {
        let (node, client) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let (here, there) = (("eth0", "10.78.0.1/24"), ("eth0", "10.78.0.2/24"));
        node.connect(here, &client, there).unwrap();
        node.ip(&["address", "add", "10.78.0.7/24", "dev", "eth0"])
            .unwrap();
        client
            .ip(&["address", "add", "10.78.0.3/24", "dev", "eth0"])
            .unwrap();
        for (namespace, address) in [
            (&node, "fd78::1/64"),
            (&client, "fd78::2/64"),
            (&client, "fd78::3/64"),
        ] {
            namespace
                .ip(&["address", "add", address, "dev", "eth0", "nodad"])
                .unwrap();
        }
        Self { node, client }
    }

    /// Runs a test with a BPF file system: on a thread in the node's namespace.
    pub(crate) fn run(test: &str, work: impl FnOnce(&Net, &Path) + Send + 'static) {
        if !privileged(test, true) {
            return;
        }
        with_bpffs(move |bpffs| {
            let net = Self::new();
            net.node.run(|| work(&net, &bpffs.join("mvp"))).unwrap();
        });
    }

    pub(crate) fn ask_from(&self, source: Option<&str>, address: &str) -> char {
        let answer = self.client.run(|| ask_from(source, address)).unwrap();
        answer.unwrap_or_else(|e| panic!("{source:?} to {address}: {e}"))
    }

    /// Who answers on every local address, from elsewhere and from the node itself.
    pub(crate) fn answers(&self) -> String {
        let far = FAR.map(|address| self.ask_from(None, address));
        far.into_iter().chain(NEAR.map(ask)).collect()
    }
}
