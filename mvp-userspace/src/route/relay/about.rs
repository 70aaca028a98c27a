//! Client addresses that ask about this very server: load balancers, monitoring, people. What they are told must be this
//! server's own answer, and the requests of a relayed connection cannot be seen, so that such clients are never relayed.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

/// How long a question is remembered: longer than load balancers and monitoring wait between two.
pub(super) const LATELY: Duration = Duration::from_secs(600);
/// Addresses remembered. Above it nobody is relayed for a while: forgetting one would send its probes to another server.
const MAX_ADDRESSES: usize = 4096;

/// Who asked lately. Shared by all data threads; written only for requests that are about this server.
#[derive(Debug, Default)]
pub struct AboutThisServer(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    addresses: HashMap<IpAddr, Instant>,
    /// Until then more addresses have asked than are remembered.
    overflown_until: Option<Instant>,
}

impl AboutThisServer {
    /// A request for a probe, `/version` or another page about this server came from `address`.
    pub fn asked(&self, address: IpAddr, now: Instant) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = now + LATELY;
        let address = address.to_canonical();
        if asked.addresses.len() >= MAX_ADDRESSES && !asked.addresses.contains_key(&address) {
            asked.addresses.retain(|_, until| *until > now);
            if asked.addresses.len() >= MAX_ADDRESSES {
                asked.overflown_until = Some(until);
                return;
            }
        }
        asked.addresses.insert(address, until);
    }

    /// Whether `address` asked within `LATELY`, or may have.
    pub fn lately(&self, address: IpAddr, now: Instant) -> bool {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = asked.addresses.get(&address.to_canonical()).copied();
        remembered
            .max(asked.overflown_until)
            .is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_for_a_while_whatever_the_family() {
        let (asked, now) = (AboutThisServer::default(), Instant::now());
        let client: IpAddr = [10, 0, 0, 9].into();
        let mapped: IpAddr = "::ffff:10.0.0.9".parse().unwrap();
        assert!(!asked.lately(client, now));
        asked.asked(mapped, now);
        assert!(asked.lately(client, now + LATELY - Duration::from_secs(1)));
        assert!(!asked.lately(client, now + LATELY));
        assert!(!asked.lately([10, 0, 0, 8].into(), now));
    }

    #[test]
    fn too_many_to_remember_are_all_taken_for_askers() {
        let (asked, now) = (AboutThisServer::default(), Instant::now());
        for i in 0..=MAX_ADDRESSES as u32 {
            asked.asked(std::net::Ipv4Addr::from(i).into(), now);
        }
        assert!(
            asked.lately([10, 0, 0, 9].into(), now),
            "may be one of those forgotten"
        );
        assert!(!asked.lately([10, 0, 0, 9].into(), now + LATELY));
        asked.asked([10, 0, 0, 9].into(), now + LATELY);
        assert!(
            asked.lately([10, 0, 0, 9].into(), now + LATELY),
            "room was made"
        );
    }
}
