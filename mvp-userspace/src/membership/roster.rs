//! From the EndpointSlice, Nodes and identity Leases to a list of servers. No I/O.
//!
//! Who is a member is said by one object alone: kube-apiserver reconciles its own address into the EndpointSlice
//! `default/kubernetes` on every release (`pkg/controlplane/reconcilers`). Everything else only gives names to addresses that are
//! listed there, and can neither add an address nor take one away: Leases and Nodes are written by more than the control plane.
//!
//! The slice has no names. A Node has the name and, as its `InternalIP`, the address of a server of that machine, whatever the
//! server's release, so that a server has one name before, during and after an upgrade. An identity Lease (1.26 and later) has
//! the host name, but the address only where the native feature is on (`pkg/controlplane/apiserver/server.go`, annotation
//! `kubernetes.io/peer-advertise-address`): it is the second choice. The third is the address itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::config::{Endpoint, is_name};
use crate::discovery::Reached;
use crate::route::MAX_SERVERS;

/// How long a server that is no longer listed stays a member. A server that is being upgraded takes itself off the list; what
/// only it serves must be a 503 until it is back, not a 404. It also means that an empty list removes nobody at once.
pub const LINGER: Duration = Duration::from_secs(600);
/// More peers than this are ignored, and it is said that they are; a control plane has three to seven servers. With the local
/// server they fill a [`crate::route::RouteTable`].
pub const MAX_MEMBERS: usize = MAX_SERVERS - 1;
/// More addresses of the slice than this are not even looked at. Kubernetes allows 1000 endpoints in a slice.
const MAX_LISTED: usize = 1024;

/// What is listed now, and what was until lately.
pub struct Roster {
    local: Endpoint,
    /// `local.advertise`.
    advertise: Option<SocketAddr>,
    fixed: Vec<Endpoint>,
    /// True for an address of an interface of this node.
    own: fn(IpAddr) -> bool,
    reached: Reached,
    listed: BTreeSet<SocketAddr>,
    leases: BTreeMap<String, Identity>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    seen: BTreeMap<SocketAddr, Seen>,
    ignored: usize,
    misnamed: Option<String>,
}

/// What a Lease says of one kube-apiserver process.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Identity {
    hostname: Option<String>,
    address: Option<SocketAddr>,
    /// Contains a UUID that is new with every process.
    holder: String,
}

/// An address that is or was listed. Names, once learned, are kept when the Node or the Lease goes: a server's name must not
/// change because the server stops.
struct Seen {
    listed: Instant,
    node: Option<String>,
    lease: Option<String>,
}

impl Seen {
    fn name(&self) -> Option<&str> {
        self.node.as_deref().or(self.lease.as_deref())
    }
}

impl Roster {
    /// `own` says whether an address is one of an interface of this node.
    pub fn new(local: Endpoint, fixed: Vec<Endpoint>, own: fn(IpAddr) -> bool) -> Self {
        Self {
            local,
            advertise: None,
            fixed,
            own,
            reached: Reached::default(),
            listed: BTreeSet::new(),
            leases: BTreeMap::new(),
            nodes: BTreeMap::new(),
            seen: BTreeMap::new(),
            ignored: 0,
            misnamed: None,
        }
    }

    /// Where the other nodes reach the local server (`local.advertise`).
    #[must_use]
    pub fn advertised(mut self, address: Option<SocketAddr>) -> Self {
        self.advertise = address;
        self
    }

    /// Which servers have answered; only those stay for a while when they are no longer listed.
    #[must_use]
    pub fn reached(mut self, reached: Reached) -> Self {
        self.reached = reached;
        self
    }

    /// Any slice may be given; only the one that the control plane itself writes counts.
    pub fn slice_applied(&mut self, slice: &EndpointSlice) {
        if is_kubernetes(&slice.metadata) {
            self.listed = addresses(slice);
        }
    }

    /// As [`Self::slice_applied`], of a slice that is gone.
    pub fn slice_deleted(&mut self, slice: &EndpointSlice) {
        if is_kubernetes(&slice.metadata) {
            self.listed.clear();
        }
    }

    /// All slices there are.
    pub fn slices_listed(&mut self, slices: &[EndpointSlice]) {
        self.listed.clear();
        for slice in slices {
            self.slice_applied(slice);
        }
    }

    /// A Node names the addresses that it has as `InternalIP`.
    pub fn node_applied(&mut self, node: &Node) {
        self.nodes
            .insert(name(&node.metadata), internal_addresses(node));
    }

    /// A Node is gone: its addresses name no server any more.
    pub fn node_deleted(&mut self, node: &Node) {
        self.nodes.remove(&name(&node.metadata));
    }

    /// All Nodes there are.
    pub fn nodes_listed(&mut self, nodes: &[Node]) {
        self.nodes.clear();
        for node in nodes {
            self.node_applied(node);
        }
    }

    /// Returns whose process is another one now, if one is: the server, or `None` inside if its address is not known.
    pub fn lease_applied(&mut self, lease: &Lease) -> Option<Option<Endpoint>> {
        let identity = identity(lease)?;
        let name = name(&lease.metadata);
        let known = self.leases.insert(name, identity.clone());
        let same = known.is_some_and(|known| known.holder == identity.holder);
        (!same).then(|| self.endpoint_of(&identity))
    }

    /// As [`Self::lease_applied`], of a server that stops.
    pub fn lease_deleted(&mut self, lease: &Lease) -> Option<Option<Endpoint>> {
        let gone = self.leases.remove(&name(&lease.metadata))?;
        Some(self.endpoint_of(&gone))
    }

    /// All Leases there are.
    pub fn leases_listed(&mut self, leases: &[Lease]) -> Vec<Option<Endpoint>> {
        let before = std::mem::take(&mut self.leases);
        for lease in leases {
            if let Some(identity) = identity(lease) {
                self.leases.insert(name(&lease.metadata), identity);
            }
        }
        let holder = |leases: &BTreeMap<String, Identity>, name: &str| {
            leases.get(name).map(|identity| identity.holder.clone())
        };
        let changed = |name: &str| holder(&before, name) != holder(&self.leases, name);
        let gone = before
            .iter()
            .filter(|(name, _)| !self.leases.contains_key(*name));
        self.leases
            .iter()
            .chain(gone)
            .filter(|(name, _)| changed(name))
            .map(|(_, identity)| self.endpoint_of(identity))
            .collect()
    }

    /// The peers, the configured ones first, then those that are listed, then those that were until lately. `now` moves what
    /// lingers on.
    pub fn members(&mut self, now: Instant) -> Vec<Endpoint> {
        for address in &self.listed {
            let seen = self.seen.entry(*address).or_insert(Seen {
                listed: now,
                node: None,
                lease: None,
            });
            seen.listed = now;
        }
        let (listed, reached) = (&self.listed, &self.reached);
        self.seen.retain(|address, seen| {
            let lingers = || {
                now.saturating_duration_since(seen.listed) < LINGER
                    && reached.contains(&address.ip().to_string(), address.port())
            };
            listed.contains(address) || lingers()
        });
        self.learn_names();

        let mut members = self.fixed.clone();
        self.ignored = members.len().saturating_sub(MAX_MEMBERS);
        self.misnamed = None;
        let lingering = self.seen.keys().filter(|a| !self.listed.contains(*a));
        for address in self.listed.iter().chain(lingering) {
            let Some(seen) = self.seen.get(address) else {
                continue;
            };
            if self.is_local(*address) {
                let other = seen.node.as_ref().filter(|n| **n != self.local.name);
                self.misnamed = self.misnamed.take().or_else(|| other.cloned());
                continue;
            }
            // A name of the local server that comes with another address says nothing true of either.
            let name = seen.name().filter(|name| *name != self.local.name);
            let endpoint = endpoint(*address, name);
            if members.iter().any(|m| m.same_address(&endpoint)) {
                continue;
            }
            if members.len() >= MAX_MEMBERS {
                self.ignored += 1;
                continue;
            }
            members.push(unique(endpoint, &members, &self.local));
        }
        members
    }

    /// Servers left out of the last [`Self::members`], which more than [`MAX_MEMBERS`] servers were for.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// The name of the Node that has the local server's address, if it is not the name that this agent gives to the local
    /// server: other nodes then know the server by another name than this one.
    pub fn misnamed(&self) -> Option<&str> {
        self.misnamed.as_deref()
    }

    /// By the name of an identity Lease, the server that it leads to. Only addresses of servers that are listed, or were until lately.
    pub fn identities(&self) -> BTreeMap<&str, Endpoint> {
        let leases = self.leases.iter();
        leases
            .filter(|(_, identity)| {
                identity
                    .address
                    .is_none_or(|address| self.seen.contains_key(&address))
            })
            .filter_map(|(name, identity)| Some((name.as_str(), self.endpoint_of(identity)?)))
            .collect()
    }

    /// When [`Self::members`] becomes shorter if nothing else happens.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.seen.values().map(|seen| seen.listed + LINGER).min()
    }

    /// Two that claim one address name nobody: a wrong name is worse than none.
    fn learn_names(&mut self) {
        let mut nodes: BTreeMap<IpAddr, Option<&str>> = BTreeMap::new();
        for (name, addresses) in &self.nodes {
            for address in addresses {
                let known = nodes.insert(*address, Some(name));
                if known.is_some_and(|known| known != Some(name)) {
                    nodes.insert(*address, None);
                }
            }
        }
        let mut leases: BTreeMap<SocketAddr, Option<&str>> = BTreeMap::new();
        for identity in self.leases.values() {
            let (Some(address), Some(name)) = (identity.address, identity.hostname.as_deref())
            else {
                continue;
            };
            let known = leases.insert(address, Some(name));
            if known.is_some_and(|known| known != Some(name)) {
                leases.insert(address, None);
            }
        }
        for (address, seen) in &mut self.seen {
            if let Some(Some(name)) = nodes.get(&address.ip()) {
                seen.node = Some((*name).to_owned());
            }
            if let Some(Some(name)) = leases.get(address) {
                seen.lease = Some((*name).to_owned());
            }
        }
    }

    /// What `local.url` or `local.advertise` names, or an address of an interface of this node with the local server's port.
    /// Loopback addresses count only if they are configured: all of 127.0.0.0/8 is this machine's.
    fn is_local(&self, address: SocketAddr) -> bool {
        let interface = address.port() == self.local.port
            && !address.ip().is_loopback()
            && (self.own)(address.ip());
        let url = address.port() == self.local.port
            && self
                .local
                .host
                .parse::<IpAddr>()
                .is_ok_and(|host| host.to_canonical() == address.ip());
        let advertised = self.advertise.is_some_and(|advertised| {
            (advertised.ip().to_canonical(), advertised.port()) == (address.ip(), address.port())
        });
        interface || url || advertised
    }

    /// The server that a Lease is of, by its address or, of a release whose Leases have none, by its name.
    fn endpoint_of(&self, identity: &Identity) -> Option<Endpoint> {
        let hostname = identity.hostname.as_deref();
        if let Some(address) = identity.address {
            if self.is_local(address) {
                return Some(self.local.clone());
            }
            let known = self.seen.get(&address).and_then(Seen::name);
            return Some(endpoint(address, known.or(hostname)));
        }
        let hostname = hostname?;
        let mut named = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.name() == Some(hostname));
        let (address, _) = named.next()?;
        match named.next() {
            Some(_) => None,
            None if self.is_local(*address) => Some(self.local.clone()),
            None => Some(endpoint(*address, Some(hostname))),
        }
    }
}

/// The one slice that kube-apiservers write. Everybody who may write slices in some namespace can create others with the same label.
fn is_kubernetes(metadata: &ObjectMeta) -> bool {
    let (name, namespace) = (metadata.name.as_deref(), metadata.namespace.as_deref());
    name == Some(super::SLICE_NAME) && namespace == Some(super::SLICE_NAMESPACE)
}

/// Every address of a slice with every port named `https`, or with every port if none is so named.
fn addresses(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let https = |name: Option<&str>| name == Some("https");
    let any_https = ports.iter().any(|p| https(p.name.as_deref()));
    let ports: Vec<u16> = ports
        .iter()
        .filter(|p| !any_https || https(p.name.as_deref()))
        .filter_map(|p| u16::try_from(p.port?).ok())
        .filter(|port| *port != 0)
        .collect();
    let mut found = BTreeSet::new();
    for address in slice.endpoints.iter().flatten().flat_map(|e| &e.addresses) {
        // Names (`addressType: FQDN`) are never written by kube-apiserver.
        let Ok(ip) = address.parse::<IpAddr>() else {
            continue;
        };
        let ip = ip.to_canonical();
        // Nobody can be reached there, or everybody: a connection to 0.0.0.0 is one to this machine.
        if ip.is_unspecified() || ip.is_multicast() {
            continue;
        }
        found.extend(ports.iter().map(|port| SocketAddr::new(ip, *port)));
        if found.len() >= MAX_LISTED {
            break;
        }
    }
    found
}

/// The addresses by which a Node is reached within the cluster. None of a Node whose name would be none of a server.
fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    if !is_name(&name(&node.metadata)) {
        return Vec::new();
    }
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_deref());
    let internal = addresses.unwrap_or_default().iter();
    internal
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .collect()
}

/// `None`: a Lease without a holder, which says nothing.
fn identity(lease: &Lease) -> Option<Identity> {
    let label = |name: &str| lease.metadata.labels.as_ref()?.get(name).cloned();
    let annotation = |name: &str| lease.metadata.annotations.as_ref()?.get(name).cloned();
    let address = annotation("kubernetes.io/peer-advertise-address");
    let address: Option<SocketAddr> = address.and_then(|a| a.parse().ok());
    Some(Identity {
        hostname: label("kubernetes.io/hostname").filter(|name| is_name(name)),
        address: address.map(|a| SocketAddr::new(a.ip().to_canonical(), a.port())),
        holder: lease.spec.as_ref()?.holder_identity.clone()?,
    })
}

fn endpoint(address: SocketAddr, name: Option<&str>) -> Endpoint {
    let host = address.ip().to_string();
    Endpoint {
        name: name.map_or_else(|| host.clone(), str::to_owned),
        host,
        port: address.port(),
    }
}

/// Names distinguish servers in logs and metrics: the name of a second server with the same name gets its address added.
fn unique(mut endpoint: Endpoint, others: &[Endpoint], local: &Endpoint) -> Endpoint {
    if others
        .iter()
        .chain([local])
        .any(|other| other.name == endpoint.name)
    {
        let address = crate::discovery::authority(&endpoint);
        endpoint.name = if endpoint.name == endpoint.host {
            address
        } else {
            format!("{} ({address})", endpoint.name)
        };
    }
    endpoint
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
