//! Reads what is pinned, when no agent runs.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use mvp_common::{ABI_VERSION, RouteKey, SERVERS_MAX, ServerValue, TableHead};

use super::{
    Counters, Error, PinnedGuard, guard,
    maps::{self, Maps},
    pins,
    routes::route_names,
};
use crate::api::{ApiEntry, ApiSet, Verb, VerbSet};
use crate::route::ServerSet;

/// How often a table is read again that was replaced meanwhile.
const ATTEMPTS: usize = 5;

/// Everything that is pinned.
#[derive(Clone, Debug)]
pub struct PinnedView {
    /// The guard.
    pub guard: PinnedGuard,
    /// The route table; `None` if none was ever written.
    pub table: Option<PinnedTable>,
    /// The program's counters.
    pub counters: Counters,
    /// Steered ports, ascending.
    pub ports: Vec<u16>,
    /// Whether the program is attached to a network namespace that exists.
    pub attached: bool,
}

/// A route table as an agent left it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedTable {
    /// The table's generation, in the count of the agent that wrote it.
    pub generation: u64,
    /// Servers; routes name them by their index.
    pub servers: Vec<PinnedServer>,
    /// Routes, sorted by group, version, resource, subresource.
    pub routes: Vec<PinnedRoute>,
    /// Routes that found no room. If there are any, a key that is not here may be served nevertheless.
    pub omitted: u32,
}

/// A server of a [`PinnedTable`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedServer {
    /// Its name.
    pub name: String,
    /// Host as configured: a DNS name or an address.
    pub host: String,
    /// The host's address, if it is one.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// The node's own.
    pub local: bool,
    /// Something is known of what it serves.
    pub known: bool,
    /// That was confirmed when the table was written.
    pub confirmed: bool,
}

/// A route of a [`PinnedTable`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedRoute {
    /// API group; the core group is "".
    pub group: String,
    /// Version.
    pub version: String,
    /// Resource.
    pub resource: String,
    /// Subresource, or "".
    pub subresource: String,
    /// Who serves it.
    pub servers: ServerSet,
    /// Who serves it with each verb, in the order of [`Verb::ALL`].
    pub by_verb: Vec<ServerSet>,
}

/// Reads the pins in `path`. Needs no agent, and disturbs none.
///
/// # Errors
/// [`Error::NotPinned`], [`Error::PinnedAbi`], [`Error::Permission`].
pub fn read_pinned(path: &Path) -> Result<PinnedView, Error> {
    check(path)?;
    let maps = Maps::open(path)?;
    let ports: Result<Vec<_>, _> = maps.ports.keys().collect();
    let ports = ports.map_err(|e| maps::read(&e))?;
    let mut ports: Vec<u16> = ports
        .iter()
        .filter_map(|key| key.0.port.try_into().ok())
        .collect();
    ports.sort_unstable();
    Ok(PinnedView {
        guard: guard::view(&maps)?,
        table: read_table(&maps)?,
        counters: maps.counters()?,
        ports,
        attached: pins::link(path).is_some_and(|(_, info)| info.netns != 0),
    })
}

/// Reads only the route table.
pub(super) fn read_table_at(path: &Path) -> Result<Option<PinnedTable>, Error> {
    check(path)?;
    read_table(&Maps::open(path)?)
}

impl PinnedTable {
    /// What one server serves, by its index; empty for an index that is no server's.
    pub fn apis(&self, server: usize) -> ApiSet {
        let served = self
            .routes
            .iter()
            .filter(|route| route.servers.contains(server));
        let entry = |route: &PinnedRoute| ApiEntry {
            group: route.group.as_str().into(),
            version: route.version.as_str().into(),
            resource: route.resource.as_str().into(),
            subresource: route.subresource.as_str().into(),
            verbs: route.verbs(server),
        };
        ApiSet::new(served.map(entry).collect())
    }
}

impl PinnedRoute {
    /// The verbs with which one server serves it.
    pub fn verbs(&self, server: usize) -> VerbSet {
        let mut verbs = VerbSet::EMPTY;
        for (set, verb) in self.by_verb.iter().zip(Verb::ALL) {
            if set.contains(server) {
                verbs.insert(verb);
            }
        }
        verbs
    }
}

fn check(path: &Path) -> Result<(), Error> {
    if !path.join(maps::ABI_PIN).try_exists().unwrap_or(true) {
        return Err(Error::NotPinned {
            path: path.to_owned(),
        });
    }
    match maps::open_abi(path)? {
        ABI_VERSION => Ok(()),
        found => Err(Error::PinnedAbi {
            path: path.to_owned(),
            found,
            expected: ABI_VERSION,
        }),
    }
}

/// Reads until the head was the same before and after, and everything that it promises was there.
fn read_table(maps: &Maps) -> Result<Option<PinnedTable>, Error> {
    let head = || Ok(maps.table.get(&0, 0).map_err(|e| maps::read(&e))?.0);
    let mut before: TableHead = head()?;
    for _ in 0..ATTEMPTS {
        if before.sequence == 0 {
            return Ok(None);
        }
        let table = read_half(maps, &before)?;
        let after = head()?;
        if after == before
            && let Some(table) = table
        {
            return Ok(Some(table));
        }
        before = after;
    }
    Err(Error::Torn)
}

/// `None` if a part is missing or makes no sense.
fn read_half(maps: &Maps, head: &TableHead) -> Result<Option<PinnedTable>, Error> {
    let mut servers = Vec::new();
    for index in 0..head.servers.min(SERVERS_MAX) {
        let value = maps.servers.get(&(head.half * SERVERS_MAX + index), 0);
        let Some(server) = server(&value.map_err(|e| maps::read(&e))?.0) else {
            return Ok(None);
        };
        servers.push(server);
    }
    // A key that is removed under the iterator sends it back to the first one: each is kept once, and the walk is bounded.
    let mut routes: HashMap<RouteKey, PinnedRoute> = HashMap::new();
    for item in maps.routes.iter().take(4 * mvp_common::ROUTES_MAX as usize) {
        let Ok((key, value)) = item else { break };
        if key.0.half != head.half {
            continue;
        }
        let Some(names) = route_names(&value.0) else {
            return Ok(None);
        };
        let route = PinnedRoute {
            group: names.group.to_owned(),
            version: names.version.to_owned(),
            resource: names.resource.to_owned(),
            subresource: names.subresource.to_owned(),
            servers: ServerSet::from_bits(value.0.servers),
            by_verb: value
                .0
                .verbs
                .iter()
                .map(|bits| ServerSet::from_bits(*bits))
                .collect(),
        };
        routes.insert(key.0, route);
    }
    if routes.len() != head.routes as usize {
        return Ok(None);
    }
    let mut routes: Vec<_> = routes.into_values().collect();
    routes.sort_by(|a, b| a.names().cmp(&b.names()));
    Ok(Some(PinnedTable {
        generation: head.generation,
        servers,
        routes,
        omitted: head.omitted,
    }))
}

impl PinnedRoute {
    fn names(&self) -> [&str; 4] {
        [
            &self.group,
            &self.version,
            &self.resource,
            &self.subresource,
        ]
        .map(String::as_str)
    }
}

fn server(value: &ServerValue) -> Option<PinnedServer> {
    let text = |bytes: &[u8], length: u16| {
        let bytes = bytes.get(..length.into())?;
        Some(std::str::from_utf8(bytes).ok()?.to_owned())
    };
    let address = Ipv6Addr::from(value.address);
    Some(PinnedServer {
        name: text(&value.name, value.name_length)?,
        host: text(&value.host, value.host_length)?,
        address: (!address.is_unspecified()).then(|| address.to_canonical()),
        port: value.port,
        local: value.flags & ServerValue::LOCAL != 0,
        known: value.flags & ServerValue::KNOWN != 0,
        confirmed: value.flags & ServerValue::CONFIRMED != 0,
    })
}
