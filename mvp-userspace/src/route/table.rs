//! The route table: who serves what. Built whenever knowledge or membership changes, then never changed.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::hash_table::{Entry as Slot, HashTable};

use super::{Server, ServerSet};
use crate::api::{ApiEntry, ApiSet, Key, Verb, VerbSet};
use crate::tls::IdentityClass;

/// How many servers one table can hold; a control plane has three to seven.
pub const MAX_SERVERS: usize = 64;

/// What the discovery poller can say about one server now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Knowledge {
    /// There is no document of this server yet.
    Never,
    /// Not one document within `discovery.staleAfter` of becoming a member, and it is not the local server: nobody knows that
    /// there is a kube-apiserver at all, so that it is no reason to doubt a 404.
    Absent,
    /// Freshly confirmed.
    Confirmed,
    /// Nothing listens there (connection refused), so it serves nothing now; its last known good set stands.
    Down,
    /// The last confirmation failed for another reason (hang, timeout, TLS, 5xx) or is too old: it may serve things we do
    /// not know of.
    Unconfirmed,
}

/// One server of the table.
#[derive(Clone, Debug)]
pub struct Member {
    /// The server; the same value in every table, so that its health outlives this one.
    pub server: Arc<Server>,
    /// The last known good set; `None` only with [`Knowledge::Never`] and [`Knowledge::Absent`].
    pub apis: Option<Arc<ApiSet>>,
    /// How far `apis` may be relied on.
    pub knowledge: Knowledge,
    /// What it published about itself (StorageVersion), while its own word is missing or too old. Without verbs and subresources.
    pub published: Option<Arc<ApiSet>>,
}

/// One key and who serves it with which verb.
#[derive(Debug)]
pub struct Entry {
    group: Box<str>,
    version: Box<str>,
    resource: Box<str>,
    subresource: Box<str>,
    servers: ServerSet,
    by_verb: [ServerSet; Verb::ALL.len()],
}

/// An immutable snapshot. Servers are named by their index in [`Self::members`].
#[derive(Debug)]
pub struct RouteTable {
    generation: u64,
    members: Box<[Member]>,
    local: Option<usize>,
    ignored: usize,
    /// Seeded per table. Clients choose what is looked up but not what is stored, so they cannot fill a bucket.
    hasher: hashbrown::DefaultHashBuilder,
    entries: HashTable<Entry>,
    /// Who published that it serves a key and does not say so itself.
    published: HashTable<Entry>,
    group_versions: HashTable<GroupVersion>,
    differs: bool,
    known_differ: bool,
    supersets: ServerSet,
}

/// Who serves anything of a group's version; of any version if `version` is empty.
#[derive(Debug)]
struct GroupVersion {
    group: Box<str>,
    version: Box<str>,
    servers: ServerSet,
}

impl Member {
    /// True if nothing at all is known of what the server serves.
    pub fn is_unknown(&self) -> bool {
        self.apis.is_none() || matches!(self.knowledge, Knowledge::Never | Knowledge::Absent)
    }
}

impl Entry {
    /// What it is looked up by.
    pub fn key(&self) -> Key<'_> {
        Key {
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
        }
    }

    fn has(&self, key: Key<'_>) -> bool {
        // The most telling part first.
        equal(&self.resource, key.resource)
            && equal(&self.group, key.group)
            && equal(&self.version, key.version)
            && equal(&self.subresource, key.subresource)
    }

    /// Servers that serve the key at all.
    pub fn servers(&self) -> ServerSet {
        self.servers
    }

    /// Servers that serve the key with this verb. Discovery lists neither `proxy` nor methods that are no verbs: for them,
    /// all that serve the key.
    pub fn serving(&self, verb: Verb) -> ServerSet {
        match verb {
            Verb::Proxy | Verb::Other => self.servers,
            verb => self.with(verb),
        }
    }

    /// The verbs that one server lists for the key.
    pub fn verbs(&self, server: usize) -> VerbSet {
        let mut verbs = VerbSet::EMPTY;
        for verb in Verb::ALL {
            if self.with(verb).contains(server) {
                verbs.insert(verb);
            }
        }
        verbs
    }

    /// Servers that list this verb. There is a set for each verb, so that none is missing.
    fn with(&self, verb: Verb) -> ServerSet {
        let servers = self.by_verb.get(verb as usize);
        servers.copied().unwrap_or(ServerSet::EMPTY)
    }
}

impl RouteTable {
    /// Builds a table. `generation` is the caller's counter, for logs and for telling tables apart. Of more than
    /// [`MAX_SERVERS`] members the first are kept, and the local one always; see [`Self::ignored`].
    pub fn build(generation: u64, mut members: Vec<Member>) -> RouteTable {
        let ignored = members.len().saturating_sub(MAX_SERVERS);
        if ignored > 0 {
            members.sort_by_key(|member| !member.server.local);
            members.truncate(MAX_SERVERS);
        }
        let mut table = RouteTable {
            generation,
            local: members.iter().position(|member| member.server.local),
            members: members.into_boxed_slice(),
            ignored,
            hasher: hashbrown::DefaultHashBuilder::default(),
            entries: HashTable::new(),
            published: HashTable::new(),
            group_versions: HashTable::new(),
            differs: false,
            known_differ: false,
            supersets: ServerSet::EMPTY,
        };
        let sets: Vec<_> = table.members.iter().map(|m| m.apis.clone()).collect();
        for (index, apis) in sets.iter().enumerate() {
            for entry in apis.iter().flat_map(|apis| apis.entries()) {
                table.insert(index, entry);
            }
        }
        let sets: Vec<_> = table.members.iter().map(|m| m.published.clone()).collect();
        for (index, apis) in sets.iter().enumerate() {
            for entry in apis.iter().flat_map(|apis| apis.entries()) {
                table.insert_published(index, entry);
            }
        }
        let hasher = &table.hasher;
        table
            .entries
            .shrink_to_fit(|entry| hasher.hash_one(entry.key()));
        table.compare();
        table
    }

    /// Grows with each table of this process, so that what was computed for one is not used with another.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// In the order of the membership; [`ServerSet`] has indexes into it.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this index; `None` if it is from another table and too large for this one.
    pub fn member(&self, index: usize) -> Option<&Member> {
        self.members.get(index)
    }

    /// Members that did not fit; worth a warning, never silence.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// The kube-apiserver of this node; `None` before it is known, or without one.
    pub fn local(&self) -> Option<&Member> {
        self.member(self.local?)
    }

    /// The set of this server; empty if it is no longer a member.
    pub fn set_of(&self, server: &Arc<Server>) -> ServerSet {
        self.position(server)
            .map_or(ServerSet::EMPTY, ServerSet::one)
    }

    /// The set of the local server: one member, or none.
    pub fn local_set(&self) -> ServerSet {
        self.local.map_or(ServerSet::EMPTY, ServerSet::one)
    }

    /// The index of a server, by identity; `None` if it left the membership.
    pub fn position(&self, server: &Arc<Server>) -> Option<usize> {
        self.members
            .iter()
            .position(|member| Arc::ptr_eq(&member.server, server))
    }

    /// Every member, whatever is known of it.
    pub fn all(&self) -> ServerSet {
        ServerSet::first(self.members.len())
    }

    /// Those of `set` that are proved for the class: no other may be sent a request of it, whatever else speaks for it.
    pub fn proved(&self, set: ServerSet, class: IdentityClass) -> ServerSet {
        set.iter()
            .filter(|index| self.member(*index).is_some_and(|m| m.server.proved(class)))
            .collect()
    }

    /// Those of `set` that may be chosen now: one atomic load each.
    pub fn available(&self, set: ServerSet) -> ServerSet {
        set.iter()
            .filter(|index| self.member(*index).is_some_and(|m| m.server.available()))
            .collect()
    }

    /// Who serves a key; `None` if nobody lists it. No allocation.
    pub fn lookup(&self, key: Key<'_>) -> Option<&Entry> {
        self.entries
            .find(self.hasher.hash_one(key), |entry| entry.has(key))
    }

    /// Who published that it serves a key, and is not known to serve it by its own word. No allocation.
    pub fn published(&self, key: Key<'_>) -> ServerSet {
        if self.published.is_empty() {
            return ServerSet::EMPTY;
        }
        self.published
            .find(self.hasher.hash_one(key), |entry| entry.has(key))
            .map_or(ServerSet::EMPTY, Entry::servers)
    }

    /// Every key that any server published and does not list, in no order.
    pub fn all_published(&self) -> impl Iterator<Item = &Entry> {
        self.published.iter()
    }

    /// Every key any server lists, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Who serves anything of this group and version; with an empty version, of any version of the group.
    pub fn serves_group_version(&self, group: &str, version: &str) -> ServerSet {
        self.group_versions
            .find(self.hasher.hash_one((group, version)), |gv| {
                equal(&gv.group, group) && equal(&gv.version, version)
            })
            .map_or(ServerSet::EMPTY, |gv| gv.servers)
    }

    /// True if any two servers' sets differ, verbs and subresources included. A server nothing is known of differs from
    /// every other.
    pub fn differs(&self) -> bool {
        self.differs
    }

    /// The same among those of which something is known.
    pub fn known_differ(&self) -> bool {
        self.known_differ
    }

    /// True if this server serves all that any other does, verbs and subresources included, as far as sets are known: false
    /// while some server's is not. Says nothing about health or age.
    pub fn is_superset(&self, server: usize) -> bool {
        self.supersets.contains(server)
    }

    fn insert_published(&mut self, server: usize, api: &ApiEntry) {
        let key = key_of(api);
        let lists = |entry: &Entry| entry.servers.contains(server);
        if self.lookup(key).is_some_and(lists) {
            return;
        }
        slot(&mut self.published, &self.hasher, key)
            .servers
            .insert(server);
    }

    fn insert(&mut self, server: usize, api: &ApiEntry) {
        let (group, version, ..) = api.key();
        let hasher = &self.hasher;
        let entry = slot(&mut self.entries, hasher, key_of(api));
        entry.servers.insert(server);
        for verb in api.verbs.iter() {
            if let Some(servers) = entry.by_verb.get_mut(verb as usize) {
                servers.insert(server);
            }
        }
        for version in [version, ""] {
            let slot = self.group_versions.entry(
                hasher.hash_one((group, version)),
                |gv| equal(&gv.group, group) && equal(&gv.version, version),
                |gv| hasher.hash_one((&*gv.group, &*gv.version)),
            );
            let gv = match slot {
                Slot::Occupied(slot) => slot.into_mut(),
                Slot::Vacant(slot) => slot
                    .insert(GroupVersion {
                        group: group.into(),
                        version: version.into(),
                        servers: ServerSet::EMPTY,
                    })
                    .into_mut(),
            };
            gv.servers.insert(server);
        }
    }

    fn compare(&mut self) {
        let all = self.all();
        let mut supersets = all;
        let known: ServerSet = (0..self.members.len())
            .filter(|index| self.member(*index).is_some_and(|m| !m.is_unknown()))
            .collect();
        let (mut differs, mut known_differ) = (false, false);
        for entry in &self.entries {
            for servers in std::iter::once(entry.servers).chain(entry.by_verb) {
                if !servers.is_empty() {
                    supersets = supersets.intersection(servers);
                    differs |= servers != all;
                    known_differ |= servers.intersection(known) != known;
                }
            }
        }
        if self.members.len() > 1 && self.members.iter().any(Member::is_unknown) {
            differs = true;
            supersets = ServerSet::EMPTY;
        }
        self.differs = differs;
        self.known_differ = known_differ;
        self.supersets = supersets;
    }
}

fn key_of(api: &ApiEntry) -> Key<'_> {
    let (group, version, resource, subresource) = api.key();
    Key {
        group,
        version,
        resource,
        subresource,
    }
}

/// The entry of a key, which is made if there is none.
fn slot<'a>(
    entries: &'a mut HashTable<Entry>,
    hasher: &hashbrown::DefaultHashBuilder,
    key: Key<'_>,
) -> &'a mut Entry {
    let slot = entries.entry(
        hasher.hash_one(key),
        |entry| entry.has(key),
        |entry| hasher.hash_one(entry.key()),
    );
    match slot {
        Slot::Occupied(slot) => slot.into_mut(),
        Slot::Vacant(slot) => slot
            .insert(Entry {
                group: key.group.into(),
                version: key.version.into(),
                resource: key.resource.into(),
                subresource: key.subresource.into(),
                servers: ServerSet::EMPTY,
                by_verb: [ServerSet::EMPTY; Verb::ALL.len()],
            })
            .into_mut(),
    }
}

/// Equality that never compares empty strings in memory. An empty `str` may point nowhere (address 1), and glibc's AVX-512
/// `memcmp` reads there under an empty mask: no fault, but a microcode assist that costs 90 ns, several times the whole lookup.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

#[cfg(test)]
mod tests;
