//! The roster under any sequence of objects: whatever strangers may write, a listed foreign address is never local and never
//! missing, and nothing that is not listed becomes a member.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{LINGER, Roster};
use crate::config::Endpoint;
use crate::discovery::Reached;

/// Applies the objects that `data` spells, and checks the list after each. Panics if a rule is broken.
pub fn fuzz_roster(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let mut next = move || bytes.next();
    let reached = Reached::default();
    let local = Endpoint {
        name: "cp-0".into(),
        host: "127.0.0.1".into(),
        port: 6443,
    };
    let mut roster = Roster::new(local, Vec::new(), |ip| ip == OWN)
        .advertised(Some(ADVERTISED))
        .reached(reached.clone());
    let mut model = Model {
        now: Instant::now(),
        listed: BTreeMap::new(),
        reached: Vec::new(),
    };
    while let Some(step) = next() {
        let mut pick = || usize::from(next().unwrap_or_default());
        match step % 9 {
            0 => {
                let (object, addresses) = slice(&mut pick);
                roster.slice_applied(&object);
                model.slice(&object, addresses);
            }
            1 => {
                let (object, _) = slice(&mut pick);
                roster.slice_deleted(&object);
                model.slice(&object, Vec::new());
            }
            2 => {
                let (a, in_a) = slice(&mut pick);
                let (b, in_b) = slice(&mut pick);
                roster.slices_listed(&[a.clone(), b.clone()]);
                model.unlist();
                // Two of one name cannot be; of such the last counts.
                match Model::counts(&b) {
                    true => model.slice(&b, in_b),
                    false => model.slice(&a, in_a),
                }
            }
            3 => drop(roster.lease_applied(&lease(&mut pick))),
            4 => drop(roster.lease_deleted(&lease(&mut pick))),
            5 => drop(roster.leases_listed(&[lease(&mut pick), lease(&mut pick)])),
            6 => roster.node_applied(&node(&mut pick)),
            7 => match pick() % 2 {
                0 => roster.node_deleted(&node(&mut pick)),
                _ => roster.nodes_listed(&[node(&mut pick), node(&mut pick)]),
            },
            _ => {
                model.now += LINGER / (1 + pick() as u32 % 4);
                let address = POOL[pick() % POOL.len()];
                if let Ok(ip) = address.parse::<IpAddr>() {
                    let address = SocketAddr::new(ip.to_canonical(), PORTS[pick() % PORTS.len()]);
                    model.mark(address, &reached);
                }
            }
        }
        model.check(&roster.members(model.now));
    }
}

const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const ADVERTISED: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)), 7443);
const PORTS: [u16; 3] = [6443, 7443, 443];
const POOL: [&str; 12] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "::ffff:10.0.0.3",
    "127.0.0.1",
    "127.0.0.2",
    "198.51.100.7",
    "fd00::2",
    "0.0.0.0",
    "224.0.0.1",
    "not an address",
    "",
];
const NAMES: [&str; 6] = ["cp-0", "cp-1", "cp-2", "10.0.0.2", "", "cp 3/..\n"];

/// What the rules say must be so.
struct Model {
    now: Instant,
    /// When each address was last listed; at [`Self::now`]: it is listed.
    listed: BTreeMap<SocketAddr, (bool, Instant)>,
    reached: Vec<SocketAddr>,
}

impl Model {
    fn counts(slice: &EndpointSlice) -> bool {
        let metadata = &slice.metadata;
        metadata.name.as_deref() == Some("kubernetes")
            && metadata.namespace.as_deref() == Some("default")
    }

    fn slice(&mut self, slice: &EndpointSlice, addresses: Vec<SocketAddr>) {
        if !Self::counts(slice) {
            return;
        }
        self.unlist();
        for address in addresses {
            self.listed.insert(address, (true, self.now));
        }
    }

    fn unlist(&mut self) {
        for (is, _) in self.listed.values_mut() {
            *is = false;
        }
    }

    fn mark(&mut self, address: SocketAddr, reached: &Reached) {
        // Discovery speaks of members only.
        if self.listed.contains_key(&address) {
            self.reached.push(address);
            reached.mark(&Endpoint {
                name: String::new(),
                host: address.ip().to_string(),
                port: address.port(),
            });
        }
    }

    fn check(&mut self, members: &[Endpoint]) {
        let now = self.now;
        for (is, at) in self.listed.values_mut() {
            if *is {
                *at = now;
            }
        }
        let reached = &self.reached;
        self.listed.retain(|address, (is, at)| {
            *is || (reached.contains(address) && now.saturating_duration_since(*at) < LINGER)
        });
        let expected: Vec<SocketAddr> = self
            .listed
            .keys()
            .copied()
            .filter(|address| !is_local(*address))
            .collect();
        let mut found: Vec<SocketAddr> = members
            .iter()
            .filter_map(|member| Some(SocketAddr::new(member.host.parse().ok()?, member.port)))
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected, "the list itself decides, and nothing else");
        assert_eq!(found.len(), members.len());
        let mut names: Vec<_> = members.iter().map(|member| &member.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), members.len(), "two servers share a name");
        assert!(names.iter().all(|name| !name.is_empty() && *name != "cp-0"));
        assert!(names.iter().all(|name| !name.contains(['/', '\n'])));
    }
}

fn is_local(address: SocketAddr) -> bool {
    address == ADVERTISED
        || address == SocketAddr::from(([127, 0, 0, 1], 6443))
        || (address.ip() == OWN && address.port() == 6443)
}

fn slice(pick: &mut dyn FnMut() -> usize) -> (EndpointSlice, Vec<SocketAddr>) {
    let name = ["kubernetes", "kubernetes", "kubernetes-2", "evil"][pick() % 4];
    let namespace = ["default", "default", "default", "kube-system"][pick() % 4];
    let (texts, ports): (Vec<_>, Vec<_>) = (
        (0..pick() % 5).map(|_| POOL[pick() % POOL.len()]).collect(),
        (0..1 + pick() % 2)
            .map(|_| PORTS[pick() % PORTS.len()])
            .collect(),
    );
    let addresses = texts
        .iter()
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    let addresses = addresses
        .flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)))
        .collect();
    let endpoints: Vec<_> = texts.iter().map(|t| json!({"addresses": [t]})).collect();
    let ports: Vec<_> = ports
        .iter()
        .map(|port| json!({"name": "https", "port": port}))
        .collect();
    let object = json!({
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    });
    (read(object), addresses)
}

fn lease(pick: &mut dyn FnMut() -> usize) -> Lease {
    let mut object = json!({
        "metadata": {
            "name": format!("apiserver-{}", pick() % 3),
            "labels": {"kubernetes.io/hostname": NAMES[pick() % NAMES.len()]},
        },
        "spec": {"holderIdentity": format!("{}", pick() % 3)},
    });
    if !pick().is_multiple_of(4) {
        let address = format!(
            "{}:{}",
            POOL[pick() % POOL.len()],
            PORTS[pick() % PORTS.len()]
        );
        object["metadata"]["annotations"] =
            json!({"kubernetes.io/peer-advertise-address": address});
    }
    read(object)
}

fn node(pick: &mut dyn FnMut() -> usize) -> Node {
    let addresses: Vec<_> = (0..pick() % 3)
        .map(|_| {
            let kind = ["InternalIP", "InternalIP", "ExternalIP", "Hostname"][pick() % 4];
            json!({"type": kind, "address": POOL[pick() % POOL.len()]})
        })
        .collect();
    read(json!({
        "metadata": {"name": NAMES[pick() % NAMES.len()]},
        "status": {"addresses": addresses},
    }))
}

#[allow(clippy::expect_used)] // The objects are made above, of the right shape.
fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object of this kind")
}
