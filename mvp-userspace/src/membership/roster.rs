//! From EndpointSlices and identity Leases to a list of servers. No I/O.
//!
//! kube-apiserver reconciles its own address into the EndpointSlice `default/kubernetes` on every release, but without a name;
//! its identity Lease (1.26 and later) has the host name, and the address only where the native feature is on
//! (`pkg/controlplane/apiserver/server.go`, annotation `kubernetes.io/peer-advertise-address`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::time::Instant;

use crate::config::Endpoint;

/// How long a server that is no longer listed stays a member. A server that is being upgraded takes itself off the list; what
/// only it serves must be a 503 until it is back, not a 404. It also means that an empty list removes nobody at once.
pub const LINGER: Duration = Duration::from_secs(600);
/// More addresses than this are ignored; a control plane has three to seven servers.
pub const MAX_MEMBERS: usize = 64;

/// What is listed now, and what was until lately.
pub struct Roster {
    local: Endpoint,
    fixed: Vec<Endpoint>,
    /// True for an address of this machine.
    own: fn(IpAddr) -> bool,
    slices: BTreeMap<String, Vec<SocketAddr>>,
    leases: BTreeMap<String, Identity>,
    seen: BTreeMap<SocketAddr, Seen>,
}

/// What a Lease says of one kube-apiserver process.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Identity {
    hostname: Option<String>,
    address: Option<SocketAddr>,
    /// Contains a UUID that is new with every process.
    holder: String,
}

struct Seen {
    listed: Instant,
    /// Kept when the Lease goes: a server's name must not change because it stops.
    name: Option<String>,
}

impl Roster {
    pub fn new(local: Endpoint, fixed: Vec<Endpoint>, own: fn(IpAddr) -> bool) -> Self {
        Self {
            local,
            fixed,
            own,
            slices: BTreeMap::new(),
            leases: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    pub fn slice_applied(&mut self, slice: &EndpointSlice) {
        self.slices.insert(name(&slice.metadata), addresses(slice));
    }

    pub fn slice_deleted(&mut self, slice: &EndpointSlice) {
        self.slices.remove(&name(&slice.metadata));
    }

    /// All slices there are.
    pub fn slices_listed(&mut self, slices: &[EndpointSlice]) {
        self.slices = slices
            .iter()
            .map(|slice| (name(&slice.metadata), addresses(slice)))
            .collect();
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

    /// The peers, the configured ones first. `now` moves what lingers on.
    pub fn members(&mut self, now: Instant) -> Vec<Endpoint> {
        for address in self.slices.values().flatten() {
            if self.seen.len() >= MAX_MEMBERS && !self.seen.contains_key(address) {
                continue;
            }
            let seen = self.seen.entry(*address).or_insert(Seen {
                listed: now,
                name: None,
            });
            seen.listed = now;
        }
        self.seen
            .retain(|_, seen| now.saturating_duration_since(seen.listed) < LINGER);
        for identity in self.leases.values() {
            if let Some(seen) = identity
                .address
                .and_then(|address| self.seen.get_mut(&address))
                && identity.hostname.is_some()
            {
                seen.name.clone_from(&identity.hostname);
            }
        }
        let mut members = self.fixed.clone();
        for (address, seen) in &self.seen {
            let endpoint = endpoint(*address, seen.name.as_deref());
            if self.is_local(*address) || members.iter().any(|m| same_address(m, &endpoint)) {
                continue;
            }
            members.push(unique(endpoint, &members, &self.local));
        }
        members
    }

    /// When [`Self::members`] becomes shorter if nothing else happens.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.seen.values().map(|seen| seen.listed + LINGER).min()
    }

    /// The configured address, the one that the local server's own Lease names, or one of this machine with the same port.
    /// Loopback addresses count only in the first two ways: all of 127.0.0.0/8 is this machine's.
    fn is_local(&self, address: SocketAddr) -> bool {
        let own_lease = self.leases.values().any(|identity| {
            identity.hostname.as_deref() == Some(&self.local.name)
                && identity.address == Some(address)
        });
        let own_address = address.port() == self.local.port
            && !address.ip().is_loopback()
            && (self.own)(address.ip());
        own_lease || own_address || same_address(&self.local, &endpoint(address, None))
    }

    fn endpoint_of(&self, identity: &Identity) -> Option<Endpoint> {
        let address = identity.address?;
        if self.is_local(address) {
            return Some(self.local.clone());
        }
        Some(endpoint(address, identity.hostname.as_deref()))
    }
}

/// True if `address` is one of this machine's: only those can be bound.
pub fn is_own_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Every address of a slice with every port named `https`, or with every port if none is so named.
fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let https = |name: Option<&str>| name == Some("https");
    let any_https = ports.iter().any(|p| https(p.name.as_deref()));
    let ports: Vec<u16> = ports
        .iter()
        .filter(|p| !any_https || https(p.name.as_deref()))
        .filter_map(|p| u16::try_from(p.port?).ok())
        .filter(|port| *port != 0)
        .collect();
    let mut found = Vec::new();
    for address in slice.endpoints.iter().flatten().flat_map(|e| &e.addresses) {
        // Names (`addressType: FQDN`) are never written by kube-apiserver.
        let Ok(ip) = address.parse::<IpAddr>() else {
            continue;
        };
        found.extend(ports.iter().map(|port| SocketAddr::new(ip, *port)));
        if found.len() >= MAX_MEMBERS {
            break;
        }
    }
    found
}

/// `None`: a Lease without a holder, which says nothing.
fn identity(lease: &Lease) -> Option<Identity> {
    let label = |name: &str| lease.metadata.labels.as_ref()?.get(name).cloned();
    let annotation = |name: &str| lease.metadata.annotations.as_ref()?.get(name).cloned();
    Some(Identity {
        hostname: label("kubernetes.io/hostname").filter(|name| !name.is_empty()),
        address: annotation("kubernetes.io/peer-advertise-address").and_then(|a| a.parse().ok()),
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

/// Names tell servers apart in logs and metrics: a second server of the same name gets its address added.
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

fn same_address(a: &Endpoint, b: &Endpoint) -> bool {
    a.port == b.port && a.host == b.host
}

fn name(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
