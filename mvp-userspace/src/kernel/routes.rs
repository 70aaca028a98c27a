//! Writes the route table into the kernel, where the next agent and `mvp routes --pinned` find it.

use std::{collections::HashSet, net::IpAddr, path::Path};

use aya::maps::{Array, HashMap, MapData};
use mvp_common::{
    NAMES, ROUTES_MAP, ROUTES_MAX, RouteKey, RouteValue, SERVERS_MAP, SERVERS_MAX, ServerValue,
    TABLE_MAP, TEXT, TableHead, VERBS,
};
use sha2::{Digest, Sha256};

use super::{Error, maps, shared::Shared, steering::Owner};
use crate::api::{Key, Verb};
use crate::route::{Knowledge, Member, RouteTable};

/// Writes tables, one after another. One system call a route: some milliseconds for a cluster's thousand.
pub struct RouteWriter {
    head: Array<MapData, Shared<TableHead>>,
    routes: HashMap<MapData, Shared<RouteKey>, Shared<RouteValue>>,
    servers: Array<MapData, Shared<ServerValue>>,
    owner: Owner,
}

/// What was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Written {
    /// Routes in the table.
    pub routes: u32,
    /// Servers in the table.
    pub servers: u32,
    /// Routes left out, because the map has [`ROUTES_MAX`] or their names are too long. Readers see this number.
    pub omitted: u32,
}

impl RouteWriter {
    pub(super) fn open(path: &Path, owner: Owner) -> Result<Self, Error> {
        Ok(Self {
            head: maps::open(path, TABLE_MAP)?,
            routes: maps::open(path, ROUTES_MAP)?,
            servers: maps::open(path, SERVERS_MAP)?,
            owner,
        })
    }

    /// Replaces the pinned table. Blocks for the system calls. A reader sees the old table or the new one whole; if this
    /// fails or the process dies half way, the old one stays.
    ///
    /// # Errors
    /// [`Error::Replaced`]; [`Error::System`] if the kernel has no memory.
    pub fn write(&mut self, table: &RouteTable) -> Result<Written, Error> {
        self.owner.check()?;
        let old = self.head.get(&0, 0).map_err(|e| maps::read(&e))?.0;
        let half = u32::from(old.half == 0);
        // What a writer that died left there.
        self.remove_half(half)?;
        let mut written = Written {
            routes: 0,
            servers: 0,
            omitted: 0,
        };
        for (index, member) in
            (half * SERVERS_MAX..).zip(table.members().iter().take(SERVERS_MAX as usize))
        {
            let done = self.servers.set(index, Shared(server_value(member)), 0);
            done.map_err(|e| maps::write(&e))?;
            written.servers += 1;
        }
        let mut taken = HashSet::new();
        for entry in table.entries() {
            let names = entry.key();
            let value = (written.routes < ROUTES_MAX)
                .then(|| {
                    route_value(names, entry.servers().bits(), |verb| {
                        entry.serving(verb).bits()
                    })
                })
                .flatten();
            let Some(value) = value else {
                written.omitted += 1;
                continue;
            };
            let mut key = route_key(names, half);
            while !taken.insert(key) {
                key.probe += 1;
            }
            let done = self.routes.insert(Shared(key), Shared(value), 0);
            done.map_err(|e| maps::write(&e))?;
            written.routes += 1;
        }
        self.owner.check()?;
        let head = TableHead {
            generation: table.generation(),
            sequence: old.sequence.wrapping_add(1),
            half,
            routes: written.routes,
            servers: written.servers,
            omitted: written.omitted,
        };
        self.head
            .set(0, Shared(head), 0)
            .map_err(|e| maps::write(&e))?;
        self.remove_half(old.half)?;
        Ok(written)
    }

    fn remove_half(&mut self, half: u32) -> Result<(), Error> {
        let keys: Result<Vec<_>, _> = self.routes.keys().collect();
        for key in keys.map_err(|e| maps::read(&e))? {
            if key.0.half == half {
                self.routes.remove(&key).map_err(|e| maps::write(&e))?;
            }
        }
        Ok(())
    }
}

/// The first bytes of SHA-256 over the names, each with its length: clients of the API choose names, and cannot make a hash
/// collide often.
pub(super) fn route_key(names: Key<'_>, half: u32) -> RouteKey {
    let mut hash = Sha256::new();
    for name in [
        names.group,
        names.version,
        names.resource,
        names.subresource,
    ] {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    let mut first = [0; 8];
    first
        .iter_mut()
        .zip(hash.finalize())
        .for_each(|(to, from)| *to = from);
    RouteKey {
        hash: u64::from_le_bytes(first),
        half,
        probe: 0,
    }
}

/// `None` if the names do not fit.
pub(super) fn route_value(
    names: Key<'_>,
    servers: u64,
    serving: impl Fn(Verb) -> u64,
) -> Option<RouteValue> {
    let mut value = RouteValue {
        servers,
        verbs: [0; VERBS],
        lengths: [0; 4],
        names: [0; NAMES],
    };
    for (set, verb) in value.verbs.iter_mut().zip(Verb::ALL) {
        *set = serving(verb);
    }
    let mut at = 0;
    let parts = [
        names.group,
        names.version,
        names.resource,
        names.subresource,
    ];
    for (length, name) in value.lengths.iter_mut().zip(parts) {
        value
            .names
            .get_mut(at..at + name.len())?
            .copy_from_slice(name.as_bytes());
        *length = u16::try_from(name.len()).ok()?;
        at += name.len();
    }
    Some(value)
}

/// The names of a value; `None` if it is not one that [`route_value`] makes.
pub(super) fn route_names(value: &RouteValue) -> Option<Key<'_>> {
    let mut rest = value.names.as_slice();
    let mut next = |length: u16| {
        let (name, after) = rest.split_at_checked(length.into())?;
        rest = after;
        std::str::from_utf8(name).ok()
    };
    let [group, version, resource, subresource] = value.lengths;
    Some(Key {
        group: next(group)?,
        version: next(version)?,
        resource: next(resource)?,
        subresource: next(subresource)?,
    })
}

fn server_value(member: &Member) -> ServerValue {
    let endpoint = &member.server.endpoint;
    let mut flags = 0;
    if member.server.local {
        flags |= ServerValue::LOCAL;
    }
    if !member.is_unknown() {
        flags |= ServerValue::KNOWN;
    }
    if member.knowledge == Knowledge::Confirmed {
        flags |= ServerValue::CONFIRMED;
    }
    let (name, name_length) = text(&member.server.name);
    let (host, host_length) = text(&endpoint.host);
    ServerValue {
        address: endpoint
            .host
            .parse()
            .map_or([0; 16], |address| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            }),
        port: endpoint.port,
        name_length,
        host_length,
        flags,
        name,
        host,
    }
}

/// Cut at a character's end if it is too long, which no DNS name is.
fn text(text: &str) -> ([u8; TEXT], u16) {
    let end = text.floor_char_boundary(TEXT);
    let mut bytes = [0; TEXT];
    bytes
        .iter_mut()
        .zip(text.bytes().take(end))
        .for_each(|(to, from)| *to = from);
    (bytes, end.min(text.len()) as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key<'a>([group, version, resource, subresource]: [&'a str; 4]) -> Key<'a> {
        Key {
            group,
            version,
            resource,
            subresource,
        }
    }

    #[test]
    fn names_too_long_are_left_out_not_cut() {
        let long = "x".repeat(NAMES);
        assert!(route_value(key([&long, "", "", ""]), 1, |_| 0).is_some());
        assert!(route_value(key([&long, "v1", "", ""]), 1, |_| 0).is_none());
        assert_ne!(
            route_key(key(["ab", "", "", ""]), 0),
            route_key(key(["a", "b", "", ""]), 0)
        );
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(text("cp-a").1, 4);
        let (bytes, length) = text(&"é".repeat(TEXT));
        assert_eq!(length as usize, TEXT);
        assert!(std::str::from_utf8(&bytes).is_ok());
        let odd = format!("x{}", "é".repeat(TEXT));
        assert_eq!(text(&odd).1 as usize, TEXT - 1);
    }

    proptest! {
        #[test]
        fn routes_survive_the_map(names in proptest::array::uniform4("[a-zé.]{0,40}"), servers: u64, verbs: [u64; 8]) {
            let names = key([&names[0], &names[1], &names[2], &names[3]]);
            let value = route_value(names, servers, |verb| verbs[verb as usize]).unwrap();
            prop_assert_eq!(route_names(&value), Some(names));
            prop_assert_eq!(value.servers, servers);
            prop_assert_eq!(value.verbs, verbs);
        }

        #[test]
        fn mangled_values_are_refused_not_trusted(lengths: [u16; 4], names in proptest::collection::vec(any::<u8>(), NAMES)) {
            let mut value = route_value(key([""; 4]), 0, |_| 0).unwrap();
            value.lengths = lengths;
            value.names.copy_from_slice(&names);
            if let Some(key) = route_names(&value) {
                prop_assert_eq!(key.group.len(), lengths[0] as usize);
            }
        }
    }
}
