//! How many bytes of header fields may be under way: of requests that have arrived and have no answer yet.
//!
//! With HPACK a byte can stand for a field of 4 KiB (RFC 7541 section 6.1, and the default table of section 4.2), and the fields of a
//! request are written out in full for the server that it goes to. What counts is therefore what the fields are, as
//! SETTINGS_MAX_HEADER_LIST_SIZE counts them (RFC 9113 section 6.5.2), not what the client sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A request of this size on a connection with no other is refused only when everything is full: what usual clients send, with a
/// token.
const SMALL: usize = 8 * 1024;
/// The share of the whole that only small requests use, as 1/N.
const FOR_SMALL: usize = 4;

/// The budget of all connections together.
#[derive(Debug)]
pub struct HeaderBudget {
    in_use: Arc<AtomicUsize>,
    total: usize,
    each: usize,
}

/// What one connection has under way.
#[derive(Debug, Default)]
pub struct ConnectionHeaders(Arc<AtomicUsize>);

/// Bytes under way; given back on drop.
#[derive(Debug)]
pub struct HeaderBytes {
    bytes: usize,
    connection: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl HeaderBudget {
    /// `each`: bytes of one connection; `total`: of all.
    pub fn new(each: usize, total: usize) -> Self {
        Self {
            in_use: Arc::default(),
            total,
            each,
        }
    }

    /// Takes `bytes` for a request of a connection.
    ///
    /// # Errors
    /// The label of the limit that they would exceed.
    pub fn take(
        &self,
        connection: &ConnectionHeaders,
        bytes: usize,
    ) -> Result<HeaderBytes, &'static str> {
        let of_connection = connection.0.fetch_add(bytes, Ordering::Relaxed);
        let of_all = self.in_use.fetch_add(bytes, Ordering::Relaxed);
        // From here on dropping it gives back.
        let taken = HeaderBytes {
            bytes,
            connection: Arc::clone(&connection.0),
            all: Arc::clone(&self.in_use),
        };
        if of_connection.saturating_add(bytes) > self.each {
            return Err("header_bytes_per_connection");
        }
        let limit = if of_connection == 0 && bytes <= SMALL {
            self.total
        } else {
            self.total - self.total / FOR_SMALL
        };
        if of_all.saturating_add(bytes) > limit {
            return Err("header_bytes_total");
        }
        Ok(taken)
    }
}

impl Drop for HeaderBytes {
    fn drop(&mut self) {
        self.connection.fetch_sub(self.bytes, Ordering::Relaxed);
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: &str = "header_bytes_per_connection";
    const TOTAL: &str = "header_bytes_total";

    #[test]
    fn a_connection_has_its_limit_and_gets_back_what_it_gives() {
        let budget = HeaderBudget::new(100, 1000);
        let (one, other) = (ConnectionHeaders::default(), ConnectionHeaders::default());
        let first = budget.take(&one, 60).unwrap();
        assert_eq!(budget.take(&one, 41).unwrap_err(), EACH);
        let second = budget.take(&one, 40).unwrap();
        let _others = budget.take(&other, 100).unwrap();
        drop(first);
        assert!(budget.take(&one, 60).is_ok());
        drop(second);
    }

    #[test]
    fn large_ones_leave_room_for_small_ones() {
        let budget = HeaderBudget::new(100_000, 100_000);
        let (greedy, good) = (ConnectionHeaders::default(), ConnectionHeaders::default());
        let _most = budget.take(&greedy, 70_000).unwrap();
        let large = ConnectionHeaders::default();
        assert_eq!(budget.take(&large, 9000).unwrap_err(), TOTAL);
        assert_eq!(
            budget.take(&greedy, 8000).unwrap_err(),
            TOTAL,
            "not its first"
        );
        let small = budget.take(&good, 8000).unwrap();
        let more: Vec<_> = (0..4)
            .map(|_| budget.take(&ConnectionHeaders::default(), 8000))
            .collect();
        assert_eq!(more.iter().filter(|taken| taken.is_ok()).count(), 2);
        drop((small, more));
        assert!(budget.take(&good, 8000).is_ok());
        assert_eq!(budget.in_use.load(Ordering::Relaxed), 70_000);
    }

    proptest::proptest! {
        #[test]
        fn what_is_in_use_is_what_was_taken(sizes in proptest::collection::vec((0usize..3, 0usize..60), 0..60)) {
            let budget = HeaderBudget::new(100, 200);
            let connections: [ConnectionHeaders; 3] = Default::default();
            let mut held: Vec<HeaderBytes> = Vec::new();
            for (which, bytes) in sizes {
                if bytes < 20 && !held.is_empty() {
                    held.swap_remove(bytes % held.len());
                }
                held.extend(budget.take(&connections[which], bytes).ok());
                let sum: usize = held.iter().map(|taken| taken.bytes).sum();
                proptest::prop_assert_eq!(budget.in_use.load(Ordering::Relaxed), sum);
                proptest::prop_assert!(sum <= 200);
                for connection in &connections {
                    proptest::prop_assert!(connection.0.load(Ordering::Relaxed) <= 100);
                }
            }
        }
    }
}
