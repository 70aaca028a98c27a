//! What the `sock_ops` and `sk_msg` programs and the agent agree on for the short-cut between two sockets of one machine.

/// Name of the `sk_msg` program, which hands what one end sends to the other end.
pub const SHORTCUT_PROGRAM: &str = "shortcut";

/// Name of the `sock_ops` program, which notes both ends of a connection as it is established.
pub const SHORTCUT_NOTE_PROGRAM: &str = "shortcut_note";

/// Name of the socket hash, [`ShortcutKey`] of a socket -> the socket.
pub const SHORTCUT_SOCKS_MAP: &str = "SHORTCUT_SOCKS";

/// Name of the array of one [`ShortcutScope`].
pub const SHORTCUT_SCOPE_MAP: &str = "SHORTCUT_SCOPE";

/// Name of the hash, [`ShortcutKey`] of a socket -> 1 for sockets whose other end was not noted yet when they first sent. They
/// keep to TCP's way: what takes the short-cut can overtake what does not.
pub const SHORTCUT_SLOW_MAP: &str = "SHORTCUT_SLOW";

/// Sockets noted at once: two for each connection between the agent and its server.
pub const SHORTCUT_SOCKETS: u32 = 4096;

/// One end of an IPv4 connection. The network namespace is part of it: equal addresses in two namespaces never meet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct ShortcutKey {
    /// `SO_NETNS_COOKIE`.
    pub netns: u64,
    /// Addresses in network byte order, ports in host byte order.
    pub local_ip: u32,
    /// The same of the other end.
    pub remote_ip: u32,
    /// The port of this end.
    pub local_port: u32,
    /// The port of the other end.
    pub remote_port: u32,
}

/// Which connections are noted at all: in one network namespace, from one address (the agent's own) to one port.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct ShortcutScope {
    /// `SO_NETNS_COOKIE`; 0: none.
    pub netns: u64,
    /// The server's port, in host byte order.
    pub port: u32,
    /// The address that the agent connects from, in network byte order.
    pub client_ip: u32,
}

const _: () = assert!(size_of::<ShortcutKey>() == 24 && size_of::<ShortcutScope>() == 16);
const _: () = assert!(
    SHORTCUT_SOCKS_MAP.len() <= 15
        && SHORTCUT_SCOPE_MAP.len() <= 15
        && SHORTCUT_SLOW_MAP.len() <= 15
);
