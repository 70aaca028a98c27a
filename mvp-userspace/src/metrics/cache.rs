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
pub type Instance = u64;

thread_local! {
    static REQUESTS: RefCell<HashMap<OwnedRequest, Counter>> = RefCell::default();
    static SERVERS: RefCell<HashMap<(Instance, Arc<str>), Histogram>> = RefCell::default();
    static REROUTED: RefCell<HashMap<OwnedReroute, Counter>> = RefCell::default();
}

#[derive(Hash)]
pub struct Request<'a> {
    pub instance: Instance,
    pub decision: &'static str,
    pub server: &'a str,
    pub code: u16,
}

#[derive(Hash)]
pub struct Reroute<'a> {
    pub instance: Instance,
    pub code: u16,
    pub gvr: [&'a str; 3],
}

pub fn request(key: &Request<'_>, make: impl FnOnce() -> Counter, use_it: impl FnOnce(&Counter)) {
    let owned = || OwnedRequest {
        instance: key.instance,
        decision: key.decision,
        server: key.server.into(),
        code: key.code,
    };
    with(&REQUESTS, key, owned, make, use_it);
}

pub fn reroute(key: &Reroute<'_>, make: impl FnOnce() -> Counter, use_it: impl FnOnce(&Counter)) {
    let owned = || OwnedReroute {
        instance: key.instance,
        code: key.code,
        gvr: key.gvr.map(Box::from),
    };
    with(&REROUTED, key, owned, make, use_it);
}

pub fn server(
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
