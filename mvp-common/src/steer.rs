//! What is steered, and who is exempt.

use core::net::{IpAddr, Ipv6Addr};

/// Key of the hash of steered ports.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct SteerKey {
    /// A local TCP port in host byte order, on every local address.
    pub port: u32,
}

/// Key of the hash of exempt sources: an IPv6 address in network byte order; an IPv4 address as the last word of
/// `::ffff:0:0/96` (RFC 4291, 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct ExemptKey {
    /// Four words, each as it stands in memory in network byte order.
    pub words: [u32; 4],
}

/// Value of the hash of exempt sources.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct ExemptValue {
    /// [`Self::OWN`], or 0 for a peer.
    pub flags: u32,
    /// First and last exempt source port in host byte order.
    pub first_port: u16,
    /// See `first_port`.
    pub last_port: u16,
}

impl ExemptKey {
    /// The second word from the end of an IPv4 address's key.
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// The key of an IPv4 address, given in network byte order as the context of a program has it.
    #[inline(always)]
    pub const fn v4(network_order: u32) -> Self {
        Self {
            words: [0, 0, Self::MAPPED, network_order],
        }
    }

    /// The key of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::of_v6(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    /// The key of an IPv6 address, or of an IPv4 address that is mapped into one.
    pub fn of_v6(address: Ipv6Addr) -> Self {
        let octets = address.octets();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            let mut four = [0; 4];
            four.copy_from_slice(bytes);
            *word = u32::from_ne_bytes(four);
        }
        Self { words }
    }

    /// The address, an IPv4 one as such.
    pub fn address(self) -> IpAddr {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(self.words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::from(octets).to_canonical()
    }
}

impl ExemptValue {
    /// The agent's own reserved loopback source, not a peer.
    pub const OWN: u32 = 1;

    /// Whether a connection from this source port (host byte order) is exempt.
    #[inline(always)]
    pub const fn covers(&self, port: u16) -> bool {
        self.first_port <= port && port <= self.last_port
    }
}

/// Key of the trie of local sources, behind the prefix length in bits that the kernel puts before it: an address written as
/// an [`ExemptKey`], so that the prefix of an IPv4 network is 96 bits longer than its own.
pub type LocalKey = ExemptKey;

/// Value of the trie of local sources.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct LocalValue {
    /// [`Self::STEERED`], or 0: never steered while the guard is idle.
    pub flags: u32,
}

impl LocalValue {
    /// Connections from here go to the agent also while the guard is idle.
    pub const STEERED: u32 = 1;
}

const _: () = assert!(size_of::<LocalValue>() == 4 && align_of::<LocalValue>() == 4);
const _: () = assert!(size_of::<SteerKey>() == 4 && align_of::<SteerKey>() == 4);
const _: () = assert!(size_of::<ExemptKey>() == 16 && align_of::<ExemptKey>() == 4);
const _: () = assert!(size_of::<ExemptValue>() == 8 && align_of::<ExemptValue>() == 4);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn addresses_survive_their_key() {
        for text in [
            "127.66.0.1",
            "10.0.0.3",
            "::1",
            "fd00::3:1",
            "2001:db8::ffff",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ExemptKey::of(address).address(), address);
        }
        let v4 = Ipv4Addr::new(10, 1, 2, 3);
        // As the kernel puts an address into a program's context.
        let network_order = u32::from_ne_bytes(v4.octets());
        assert_eq!(ExemptKey::of(v4.into()), ExemptKey::v4(network_order));
        let same_tail = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0x0a01, 0x0203);
        assert_ne!(ExemptKey::of(v4.into()), ExemptKey::of(same_tail.into()));
    }

    #[test]
    fn ranges_hold_their_ends() {
        let range = ExemptValue {
            flags: 0,
            first_port: 700,
            last_port: 799,
        };
        assert!(range.covers(700) && range.covers(799));
        assert!(!range.covers(699) && !range.covers(800));
    }
}
