//! A thread's own view of counters whose labels repeat: finding one costs a hash and no lock, and nothing is allocated.

use std::cell::RefCell;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

/// Beyond this many entries a thread starts afresh.
const MOST: usize = 4096;

/// A process may hold several [`super::Metrics`] (tests do), so every key starts with the number of its own.
pub(super) type Instance = u64;

thread_local! {
    static REQUESTS: RefCell<HashMap<OwnedRequest, Counter>> = RefCell::default();
    static SERVERS: RefCell<HashMap<(Instance, Arc<str>), Histogram>> = RefCell::default();
    static REROUTED: RefCell<HashMap<OwnedReroute, Counter>> = RefCell::default();
}

#[derive(Hash)]
pub(super) struct Request<'a> {
    pub instance: Instance,
    pub decision: &'static str,
    pub server: &'a str,
    pub code: u16,
}

#[derive(Hash)]
pub(super) struct Reroute<'a> {
    pub instance: Instance,
    pub code: u16,
    pub gvr: [&'a str; 3],
}

pub(super) fn request(
    key: &Request<'_>,
    make: impl FnOnce() -> Counter,
    use_it: impl FnOnce(&Counter),
) {
    let owned = || OwnedRequest {
        instance: key.instance,
        decision: key.decision,
        server: key.server.into(),
        code: key.code,
    };
    with(&REQUESTS, key, owned, make, use_it);
}

pub(super) fn reroute(
    key: &Reroute<'_>,
    make: impl FnOnce() -> Counter,
    use_it: impl FnOnce(&Counter),
) {
    let owned = || OwnedReroute {
        instance: key.instance,
        code: key.code,
        gvr: key.gvr.map(Box::from),
    };
    with(&REROUTED, key, owned, make, use_it);
}

pub(super) fn server(
    instance: Instance,
    server: &str,
    make: impl FnOnce() -> Histogram,
    use_it: impl FnOnce(&Histogram),
) {
    let owned = || (instance, Arc::from(server));
    with(&SERVERS, &Server(instance, server), owned, make, use_it);
}

fn with<Q, K, M>(
    map: &'static std::thread::LocalKey<RefCell<HashMap<K, M>>>,
    key: &Q,
    owned: impl FnOnce() -> K,
    make: impl FnOnce() -> M,
    use_it: impl FnOnce(&M),
) where
    Q: Equivalent<K> + Hash,
    K: Eq + Hash,
{
    let mut rest = Some((owned, make, use_it));
    let done = map.try_with(|map| {
        let Ok(mut map) = map.try_borrow_mut() else {
            return;
        };
        let Some((owned, make, use_it)) = rest.take() else {
            return;
        };
        if let Some(metric) = map.get(key) {
            use_it(metric);
            return;
        }
        if map.len() >= MOST {
            map.clear();
        }
        use_it(map.entry(owned()).or_insert(make()));
    });
    // The thread is ending and its map is gone.
    if let (Err(_), Some((_, make, use_it))) = (done, rest) {
        use_it(&make());
    }
}

#[derive(Eq, Hash, PartialEq)]
struct OwnedRequest {
    instance: Instance,
    decision: &'static str,
    server: Arc<str>,
    code: u16,
}

#[derive(Eq, Hash, PartialEq)]
struct OwnedReroute {
    instance: Instance,
    code: u16,
    gvr: [Box<str>; 3],
}

#[derive(Hash)]
struct Server<'a>(Instance, &'a str);

impl Equivalent<OwnedRequest> for Request<'_> {
    fn equivalent(&self, key: &OwnedRequest) -> bool {
        self.instance == key.instance
            && self.code == key.code
            && self.decision == key.decision
            && *self.server == *key.server
    }
}

impl Equivalent<OwnedReroute> for Reroute<'_> {
    fn equivalent(&self, key: &OwnedReroute) -> bool {
        self.instance == key.instance
            && self.code == key.code
            && self.gvr.iter().zip(&key.gvr).all(|(a, b)| **a == **b)
    }
}

impl Equivalent<(Instance, Arc<str>)> for Server<'_> {
    fn equivalent(&self, key: &(Instance, Arc<str>)) -> bool {
        self.0 == key.0 && *self.1 == *key.1
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    const REQUEST: Request<'static> = Request {
        instance: 1,
        decision: "local",
        server: "cp-a",
        code: 200,
    };
    const REROUTE: Reroute<'static> = Reroute {
        instance: 1,
        code: 200,
        gvr: ["g", "v", "r"],
    };

    /// Without equal hashes every look-up would miss, and the map would grow.
    #[test]
    fn borrowed_and_owned_keys_hash_alike() {
        let state = RandomState::new();
        let owned = OwnedRequest {
            instance: 1,
            decision: "local",
            server: "cp-a".into(),
            code: 200,
        };
        assert!(REQUEST.equivalent(&owned));
        assert_eq!(state.hash_one(REQUEST), state.hash_one(&owned));
        let owned = OwnedReroute {
            instance: 1,
            code: 200,
            gvr: ["g", "v", "r"].map(Box::from),
        };
        assert!(REROUTE.equivalent(&owned));
        assert_eq!(state.hash_one(REROUTE), state.hash_one(&owned));
        let owned: (Instance, Arc<str>) = (1, "cp-a".into());
        assert!(Server(1, "cp-a").equivalent(&owned));
        assert_eq!(state.hash_one(Server(1, "cp-a")), state.hash_one(&owned));
    }

    #[test]
    fn keys_that_differ_anywhere_are_not_equivalent() {
        let owned = OwnedRequest {
            instance: 1,
            decision: "local",
            server: "cp-a".into(),
            code: 200,
        };
        for key in [
            Request {
                instance: 2,
                ..REQUEST
            },
            Request {
                decision: "peer",
                ..REQUEST
            },
            Request {
                server: "cp-b",
                ..REQUEST
            },
            Request {
                code: 404,
                ..REQUEST
            },
        ] {
            assert!(!key.equivalent(&owned));
        }
        let owned = OwnedReroute {
            instance: 1,
            code: 200,
            gvr: ["g", "v", "r"].map(Box::from),
        };
        for key in [
            Reroute {
                instance: 2,
                ..REROUTE
            },
            Reroute {
                code: 404,
                ..REROUTE
            },
            Reroute {
                gvr: ["x", "v", "r"],
                ..REROUTE
            },
            Reroute {
                gvr: ["g", "v", "x"],
                ..REROUTE
            },
        ] {
            assert!(!key.equivalent(&owned));
        }
        let owned: (Instance, Arc<str>) = (1, "cp-a".into());
        assert!(!Server(2, "cp-a").equivalent(&owned));
        assert!(!Server(1, "cp-b").equivalent(&owned));
    }

    /// The map is refilled, not enlarged, and the caller notices nothing.
    #[test]
    fn a_thread_remembers_a_bounded_number() {
        let counter = Counter::default();
        for code in 0..u16::try_from(MOST + 10).unwrap() {
            let key = Request {
                instance: u64::MAX,
                code,
                ..REQUEST
            };
            request(
                &key,
                || counter.clone(),
                |c| {
                    c.inc();
                },
            );
        }
        assert_eq!(counter.get(), MOST as u64 + 10);
        assert_eq!(REQUESTS.with_borrow(|map| map.len()), 10);
    }
}
