//! Who is steered also while the guard is idle: networks in a longest-prefix trie, so that one address can be taken out of a
//! network, and the other way round.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use mvp_common::{ExemptKey, LOCAL_SOURCES_MAX, LocalKey, LocalValue};

use super::{Error, maps, shared::Shared};

/// Most networks that can be given: half of the map, since one set replaces another.
pub(super) const MAX: usize = LOCAL_SOURCES_MAX as usize / 2;

/// A network whose connections are steered, or never steered, while the guard is idle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalSource {
    /// Bits behind the prefix are ignored.
    pub address: IpAddr,
    /// Bits of the prefix, at most 32 for IPv4 and 128 for IPv6.
    pub prefix: u8,
    /// False takes the network out of a larger one that is steered.
    pub steered: bool,
}

/// The pinned map.
pub(super) type Trie = LpmTrie<MapData, Shared<LocalKey>, Shared<LocalValue>>;

/// A key of the map, and its value.
pub(super) type Entry = (Key<Shared<LocalKey>>, LocalValue);

/// What the map holds for `sources`. Of two equal networks the one that is not steered counts: who excludes one means it.
pub(super) fn entries(sources: &[LocalSource]) -> Vec<Entry> {
    let mut networks: Vec<_> = sources.iter().map(LocalSource::entry).collect();
    networks.sort_by_key(|(prefix, key, value)| (*prefix, *key, value.flags));
    networks.dedup_by_key(|(prefix, key, _)| (*prefix, *key));
    networks
        .into_iter()
        .map(|(prefix, key, value)| (Key::new(prefix, Shared(key)), value))
        .collect()
}

/// Adds or overwrites `entries`.
pub(super) fn insert(trie: &mut Trie, entries: &[Entry]) -> Result<(), Error> {
    for (key, value) in entries {
        let done = trie.insert(key, Shared(*value), 0);
        done.map_err(|e| maps::write(&e))?;
    }
    Ok(())
}

/// Removes what is not among `entries`.
pub(super) fn retain(trie: &mut Trie, entries: &[Entry]) -> Result<(), Error> {
    let keys: Result<Vec<_>, _> = trie.keys().collect();
    for key in keys.map_err(|e| maps::read(&e))? {
        let same = |other: &Key<Shared<LocalKey>>| {
            other.prefix_len() == key.prefix_len() && other.data().0 == key.data().0
        };
        if !entries.iter().any(|(wanted, _)| same(wanted)) {
            trie.remove(&key).map_err(|e| maps::write(&e))?;
        }
    }
    Ok(())
}

/// Whether a connection from `address` is steered while the guard is idle; as the program finds it in the map.
pub fn steers_while_idle(sources: &[LocalSource], address: IpAddr) -> bool {
    let (_, key, _) = LocalSource::address(address.to_canonical()).entry();
    let holds = |(prefix, network, _): &(u32, LocalKey, LocalValue)| {
        masked(bits(key), *prefix) == bits(*network)
    };
    let smallest = sources.iter().map(LocalSource::entry).filter(holds);
    // If two networks are equal, the one that is not steered counts.
    smallest
        .max_by_key(|(prefix, _, value)| (*prefix, std::cmp::Reverse(value.flags)))
        .is_some_and(|(_, _, value)| value.flags & LocalValue::STEERED != 0)
}

/// The address of a key as a number.
fn bits(key: LocalKey) -> u128 {
    match key.address() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first `prefix` bits, the others zero.
fn masked(bits: u128, prefix: u32) -> u128 {
    // A shift by all 128 bits leaves nothing.
    bits & u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

impl LocalSource {
    /// One address.
    pub fn address(address: IpAddr) -> Self {
        Self {
            address,
            prefix: if address.is_ipv4() { 32 } else { 128 },
            steered: true,
        }
    }

    /// Prefix length in bits, key and value in the map.
    fn entry(&self) -> (u32, LocalKey, LocalValue) {
        let (bits, widest) = match self.address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let prefix = 128 - widest + u32::from(self.prefix).min(widest);
        let network = Ipv6Addr::from_bits(masked(bits, prefix));
        let flags = if self.steered { LocalValue::STEERED } else { 0 };
        (prefix, ExemptKey::of_v6(network), LocalValue { flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str, prefix: u8, steered: bool) -> LocalSource {
        LocalSource {
            address: address.parse().unwrap(),
            prefix,
            steered,
        }
    }

    #[test]
    fn an_ipv4_network_is_one_of_mapped_addresses() {
        let (prefix, key, value) = source("10.1.2.3", 24, true).entry();
        assert_eq!((prefix, value.flags), (120, LocalValue::STEERED));
        assert_eq!(key, LocalKey::of("10.1.2.0".parse().unwrap()));
        let (prefix, key, _) = source("0.0.0.0", 0, true).entry();
        assert_eq!(
            (prefix, key),
            (96, LocalKey::of("0.0.0.0".parse().unwrap()))
        );
        let (prefix, key, _) = source("fd00::1", 0, true).entry();
        assert_eq!((prefix, key), (0, LocalKey::default()));
        let one = LocalSource::address("::1".parse().unwrap()).entry();
        assert_eq!(one.0, 128);
    }

    #[test]
    fn the_smallest_network_that_holds_an_address_decides() {
        let sources = [
            source("127.0.0.0", 8, true),
            source("10.0.0.0", 24, true),
            source("10.0.0.9", 32, false),
            source("fd00::", 8, true),
        ];
        let steered = |address: &str| steers_while_idle(&sources, address.parse().unwrap());
        for address in ["127.1.2.3", "10.0.0.8", "::ffff:10.0.0.8", "fd12::1"] {
            assert!(steered(address), "{address}");
        }
        for address in ["10.0.0.9", "10.0.1.8", "::1", "fe80::1", "126.0.0.1"] {
            assert!(!steered(address), "{address}");
        }
        assert!(!steers_while_idle(&[], "127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn of_two_equal_networks_the_excluded_one_counts() {
        let sources = [
            source("127.0.0.0", 8, true),
            source("10.0.0.9", 32, true),
            source("10.0.0.9", 32, false),
        ];
        let entries = entries(&sources);
        assert_eq!(entries.len(), 2);
        let excluded: Vec<_> = entries
            .iter()
            .filter(|(_, value)| value.flags == 0)
            .collect();
        assert_eq!(excluded.len(), 1);
        assert_eq!(excluded[0].0.prefix_len(), 128);
    }
}
