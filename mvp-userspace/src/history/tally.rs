//! What the data threads count of requests that another server than the local one answered, until it is taken to its minute.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::Equivalent;

use super::minutes::{OTHER, Prevented, ROWS};
use crate::route::Reason;

/// Rows between two looks.
const MOST: usize = ROWS;

/// Filled by all data threads, emptied once per second. A forwarded request takes its lock once; no other request does.
#[derive(Debug, Default)]
pub struct Tally {
    rows: Mutex<hashbrown::HashMap<Owned, u64>>,
    while_down: AtomicU64,
}

/// What a peer answered.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// Why the request went to this server.
    pub reason: Reason,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Group, version, resource, subresource.
    pub key: [&'a str; 4],
    /// The User-Agent, as the client sent it.
    pub client: &'a [u8],
    /// Nothing could be sent to the local server, and not for a reason of the agent's own.
    pub local_is_down: bool,
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct Owned {
    reason: &'static str,
    key: [Box<str>; 4],
    client: Box<str>,
}

#[derive(Hash)]
struct Borrowed<'a> {
    reason: &'static str,
    key: [&'a str; 4],
    client: &'a str,
}

impl Tally {
    /// Counts an answer, if it says that the agent made a difference.
    pub fn count(&self, answer: &Forwarded<'_>) {
        if answer.reason == Reason::LocalDown {
            if answer.local_is_down && answer.status < 500 {
                self.while_down.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        if !prevents(answer.reason, answer.status) {
            return;
        }
        let row = Borrowed {
            reason: answer.reason.as_str(),
            key: answer.key,
            client: client(answer.client),
        };
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = rows.get_mut(&row) {
            *count += 1;
            return;
        }
        let owned = match rows.len() < MOST {
            true => Owned {
                reason: row.reason,
                key: row.key.map(Box::from),
                client: row.client.into(),
            },
            false => Owned {
                reason: row.reason,
                key: ["", "", OTHER, ""].map(Box::from),
                client: OTHER.into(),
            },
        };
        *rows.entry(owned).or_default() += 1;
    }

    /// What was counted since the last call: rows, and requests served while the local server was down.
    pub fn take(&self) -> (Vec<Prevented>, u64) {
        let rows = {
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *rows)
        };
        let mut clients: HashMap<Box<str>, Arc<str>> = HashMap::new();
        let rows = rows.into_iter().map(|(row, count)| Prevented {
            reason: row.reason.into(),
            resource: resource(&row.key),
            client: {
                let name = Arc::from(&*row.client);
                Arc::clone(clients.entry(row.client).or_insert(name))
            },
            count,
        });
        (rows.collect(), self.while_down.swap(0, Ordering::Relaxed))
    }
}

impl Equivalent<Owned> for Borrowed<'_> {
    fn equivalent(&self, owned: &Owned) -> bool {
        self.reason == owned.reason
            && self.client == &*owned.client
            && self.key.iter().zip(&owned.key).all(|(a, b)| **a == **b)
    }
}

/// Whether the local server would have answered with a false 404 (405 for a verb), which this answer is not. An answer that any server
/// would have given before it looks for the type (401, 403, 429), one that is itself a 404 or 405, and one that failed say nothing.
fn prevents(reason: Reason, status: u16) -> bool {
    let lacks = matches!(
        reason,
        Reason::PeerServes | Reason::SubresourceOnPeer | Reason::VerbOnPeer
    );
    lacks && status < 499 && !matches!(status, 401 | 403 | 404 | 405 | 429)
}

/// `kube-controller-manager/v1.36.3` of `kube-controller-manager/v1.36.3 (linux/amd64) kubernetes/…/shared-informers`.
fn client(user_agent: &[u8]) -> &str {
    let first = user_agent.split(|byte| *byte == b' ').next();
    let first = first.unwrap_or_default();
    let cut = first.get(..64).unwrap_or(first);
    let usual = cut.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(cut) {
        Ok(name) if usual && !name.is_empty() => name,
        Ok("") => "unnamed",
        _ => "unreadable",
    }
}

fn resource([group, version, resource, subresource]: &[Box<str>; 4]) -> Arc<str> {
    if **resource == *OTHER && version.is_empty() {
        return OTHER.into();
    }
    let mut name = match &**group {
        "" => format!("{version}/{resource}"),
        group => format!("{group}/{version}/{resource}"),
    };
    if !subresource.is_empty() {
        name += "/";
        name += subresource;
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;

    const ANSWER: Forwarded<'static> = Forwarded {
        reason: Reason::PeerServes,
        status: 200,
        key: ["batch", "v1", "jobs", ""],
        client: b"kubectl/v1.36.3 (linux/amd64) kubernetes/0",
        local_is_down: false,
    };

    #[test]
    fn only_answers_that_a_false_404_would_have_taken_the_place_of_are_counted() {
        let tally = Tally::default();
        for status in [200, 201, 304, 101, 400, 409, 410, 422] {
            tally.count(&Forwarded { status, ..ANSWER });
        }
        // What these would have been on the local server nobody knows, or it is the same.
        for status in [401, 403, 404, 405, 429, 499, 500, 503] {
            tally.count(&Forwarded { status, ..ANSWER });
        }
        for reason in Reason::ALL {
            let counts = matches!(
                reason,
                Reason::PeerServes | Reason::SubresourceOnPeer | Reason::VerbOnPeer
            );
            assert_eq!(prevents(*reason, 200), counts, "{reason:?}");
        }
        let (rows, while_down) = tally.take();
        assert_eq!(while_down, 0);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].count, 8);
        assert_eq!(&*rows[0].resource, "batch/v1/jobs");
        assert_eq!(&*rows[0].client, "kubectl/v1.36.3");
        assert_eq!(tally.take(), (Vec::new(), 0));
    }

    #[test]
    fn a_server_that_the_agent_alone_cannot_use_is_not_down() {
        let tally = Tally::default();
        let down = Forwarded {
            reason: Reason::LocalDown,
            local_is_down: true,
            ..ANSWER
        };
        tally.count(&down);
        // Even a 404 is an answer where there would have been none.
        tally.count(&Forwarded {
            status: 404,
            ..down
        });
        tally.count(&Forwarded {
            status: 503,
            ..down
        });
        tally.count(&Forwarded {
            local_is_down: false,
            ..down
        });
        assert_eq!(tally.take(), (Vec::new(), 2));
    }

    #[test]
    fn names_of_clients_are_short_and_plain() {
        assert_eq!(client(b""), "unnamed");
        assert_eq!(client(b" x"), "unnamed");
        assert_eq!(client(b"a\x1b[31mb"), "unreadable");
        assert_eq!(client("ü".as_bytes()), "unreadable");
        assert_eq!(client(&[b'a'; 5000]).len(), 64);
        assert_eq!(client(b"curl/8"), "curl/8");
        assert_eq!(
            client(b"<script>alert(1)</script>"),
            "<script>alert(1)</script>"
        );
    }

    #[test]
    fn ever_new_clients_take_a_bounded_place() {
        let tally = Tally::default();
        for n in 0..5000 {
            let name = format!("evil/{n}");
            tally.count(&Forwarded {
                client: name.as_bytes(),
                ..ANSWER
            });
        }
        let (rows, _) = tally.take();
        assert_eq!(rows.len(), MOST + 1);
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 5000);
        let other = rows.iter().find(|row| &*row.client == OTHER).unwrap();
        assert_eq!((&*other.resource, other.count), (OTHER, 5000 - MOST as u64));
    }

    /// Without equal hashes every look-up would miss, and each request would be a row.
    #[test]
    fn borrowed_and_owned_rows_hash_alike() {
        let state = std::hash::RandomState::new();
        let owned = Owned {
            reason: "peer_serves",
            key: ["a", "b", "c", "d"].map(Box::from),
            client: "e".into(),
        };
        let borrowed = Borrowed {
            reason: "peer_serves",
            key: ["a", "b", "c", "d"],
            client: "e",
        };
        assert!(borrowed.equivalent(&owned));
        assert_eq!(state.hash_one(&borrowed), state.hash_one(&owned));
    }
}
