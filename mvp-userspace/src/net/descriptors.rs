//! Open descriptors: as many as the system lets this process have, and what is left when there are none.

use std::fs::File;
use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Connections that `limits.connections: auto` allows at most: a control plane with 5,000 nodes has fewer clients a server.
const MOST: usize = 20_000;
/// Descriptors of one client: its connection, and a server's that it may have to itself (a tunnel, a connection carried whole).
const EACH: u64 = 2;
/// Kept for everything else: maps, connections to servers, files that are read again, the admin port.
const LEAST_RESERVE: u64 = 128;
const MOST_RESERVE: u64 = 4096;
/// Free descriptors that are enough to accept again.
const ENOUGH: usize = 8;

/// Raises the soft limit of open descriptors to the hard one, which needs no right (setrlimit(2)). Returns the limit that holds
/// now; `u64::MAX` is none.
pub fn raise_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let before = limit.current;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the soft limit of open files cannot be raised to the hard one");
            limit.current = before;
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

/// The most descriptors that this process may ever have; `u64::MAX` is no limit.
pub fn hard_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Client connections that so many descriptors are enough for, at least 1: `wanted` if they are, else fewer.
pub fn connections_for(descriptors: u64, wanted: Option<usize>) -> usize {
    let reserve = (descriptors / 4).clamp(LEAST_RESERVE, MOST_RESERVE);
    let possible = descriptors.saturating_sub(reserve) / EACH;
    let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(1);
    wanted.unwrap_or(MOST).min(possible)
}

/// Whether there are descriptors to accept connections with.
pub(super) fn enough() -> bool {
    let tried: io::Result<Vec<File>> = (0..ENOUGH).map(|_| File::open("/dev/null")).collect();
    tried.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_from_descriptors() {
        for (descriptors, wanted, expected) in [
            (u64::MAX, None, 20_000),
            (1 << 20, None, 20_000),
            (1 << 20, Some(100_000), 100_000),
            (65_536, None, 20_000),
            (1024, None, 384),
            (1024, Some(20_000), 384),
            (1024, Some(100), 100),
            (256, None, 64),
            (128, None, 1),
            (0, Some(5), 1),
        ] {
            let found = connections_for(descriptors, wanted);
            assert_eq!(found, expected, "{descriptors} {wanted:?}");
        }
    }

    #[test]
    fn the_soft_limit_is_the_hard_one() {
        let limit = raise_limit();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(limit, now.current.unwrap_or(u64::MAX));
        assert!(enough());
    }
}
