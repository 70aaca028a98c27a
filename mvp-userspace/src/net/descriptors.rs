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

/// Descriptors that are kept in hand. Another thread may take the one that is lent, for good: a connection to a server, for
/// example. With a single one, every later connection in the queue would then wait until a descriptor becomes free.
const SPARES: usize = 8;

/// Descriptors of which one is given up when there is no other, to take a connection out of the accept queue and close it: its
/// client then tries again, and the kernel meanwhile passes new connections to kube-apiserver. Left in the queue it would wait.
#[derive(Debug, Default)]
pub(super) struct Spare(Vec<File>);

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
    let tried: io::Result<Vec<File>> = (0..ENOUGH).map(|_| open()).collect();
    tried.is_ok()
}

impl Spare {
    /// With descriptors in hand, as far as there are any.
    pub(super) fn new() -> Self {
        let mut spare = Self::default();
        spare.refill();
        spare
    }

    /// Gives one descriptor up for as long as `work` runs. False if there was none.
    pub(super) fn lend(&mut self, work: impl FnOnce()) -> bool {
        self.refill();
        if self.0.pop().is_none() {
            return false;
        }
        work();
        self.refill();
        true
    }

    /// Takes descriptors again, as far as there are any.
    fn refill(&mut self) {
        while self.0.len() < SPARES
            && let Ok(file) = open()
        {
            self.0.push(file);
        }
    }
}

fn open() -> io::Result<File> {
    File::open("/dev/null")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

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

    #[test]
    fn the_spare_one_is_back_afterwards() {
        let mut spare = Spare::new();
        let mut lent = false;
        assert!(spare.lend(|| lent = true) && lent);
        assert_eq!(spare.0.len(), SPARES);
    }

    #[test]
    fn one_at_a_time_is_lent() {
        let mut spare = Spare::new();
        let mut held: Vec<_> = spare.0.iter().map(AsRawFd::as_raw_fd).collect();
        let last = held.pop();
        // Another thread takes the one that is lent.
        let mut taken = None;
        assert!(spare.lend(|| taken = open().ok()));
        let now: Vec<_> = spare.0.iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(now[..SPARES - 1], held, "the others were never given up");
        assert!(last.is_some() && taken.is_some());
    }
}
