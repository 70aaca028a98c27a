//! The route table as it is kept in the kernel for a restarted agent and for `mvp routes --pinned`. No program reads it.
//!
//! A table is written beside the one in force: keys carry the `half` they belong to, and the head, written last, says
//! which half is valid. A reader sees the old table or the new one; a writer that dies leaves the old one in force. (A map
//! of maps would do the same with one more map and a descriptor for each half.)

/// Most servers of a table.
pub const SERVERS_MAX: u32 = 64;

/// Most routes of one table.
pub const ROUTES_MAX: u32 = 8192;

/// Verbs that discovery lists, in the agent's order: get, list, watch, create, update, patch, delete, deletecollection.
pub const VERBS: usize = 8;

/// Bytes for a route's four names. Enough for what Kubernetes validates: a custom resource's plural and group have 253
/// together, a version 63.
pub const NAMES: usize = 384;

/// Bytes for a server's name or host: DNS names have 253.
pub const TEXT: usize = 256;

/// Value of the one-entry table head array.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct TableHead {
    /// The table's generation, the agent's own counter.
    pub generation: u64,
    /// Counts tables written, over all agents: another count, another table.
    pub sequence: u64,
    /// 0 or 1: the half that is in force.
    pub half: u32,
    /// Routes in it.
    pub routes: u32,
    /// Servers in it.
    pub servers: u32,
    /// Routes that found no room.
    pub omitted: u32,
}

/// Key of the hash of routes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct RouteKey {
    /// The hash of the four names.
    pub hash: u64,
    /// The half of the table.
    pub half: u32,
    /// Tells apart routes whose hash is the same: 0, 1, ...
    pub probe: u32,
}

/// Value of the hash of routes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct RouteValue {
    /// Servers that serve it, a bit each.
    pub servers: u64,
    /// Servers that serve it, by verb.
    pub verbs: [u64; VERBS],
    /// Lengths in bytes of group, version, resource and subresource.
    pub lengths: [u16; 4],
    /// The four names one after another, the rest zero.
    pub names: [u8; NAMES],
}

/// Value of the array of servers, index `half * SERVERS_MAX + server`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct ServerValue {
    /// Address as IPv6, IPv4 mapped; zero if the host is a name.
    pub address: [u8; 16],
    /// Port in host byte order.
    pub port: u16,
    /// Bytes of the name.
    pub name_length: u16,
    /// Bytes of the host.
    pub host_length: u16,
    /// [`Self::LOCAL`] and others.
    pub flags: u16,
    /// The server's name.
    pub name: [u8; TEXT],
    /// The host as configured.
    pub host: [u8; TEXT],
}

impl ServerValue {
    /// The node's own server.
    pub const LOCAL: u16 = 1;
    /// Something is known of what it serves.
    pub const KNOWN: u16 = 2;
    /// That was confirmed when the table was made.
    pub const CONFIRMED: u16 = 4;
}

const _: () = assert!(size_of::<TableHead>() == 32 && align_of::<TableHead>() == 8);
const _: () = assert!(size_of::<RouteKey>() == 16 && align_of::<RouteKey>() == 8);
const _: () = assert!(size_of::<RouteValue>() == 80 + NAMES && align_of::<RouteValue>() == 8);
const _: () = assert!(size_of::<ServerValue>() == 24 + 2 * TEXT && align_of::<ServerValue>() == 2);
