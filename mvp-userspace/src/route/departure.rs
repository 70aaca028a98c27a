//! Which servers are about to stop. Everything that is open on one is let go of, so that the server need not wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::config::Endpoint;

/// Whether one server is stopping. Cheap to clone; all clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Departure(Arc<watch::Sender<State>>);

/// The departures of all servers, by address, for callers that know only a server's address. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Departures(Arc<Mutex<BTreeMap<(String, u16), Departure>>>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    leaving: bool,
    /// How often it began to leave.
    count: u64,
}

impl Departure {
    /// The server says that it shuts down, or takes no connection any more. True if that was not known.
    pub fn begin(&self) -> bool {
        self.0.send_if_modified(|state| {
            let news = !state.leaving;
            if news {
                *state = State {
                    leaving: true,
                    count: state.count + 1,
                };
            }
            news
        })
    }

    /// A server answers there that is ready.
    pub fn end(&self) {
        self.0
            .send_if_modified(|state| std::mem::replace(&mut state.leaving, false));
    }

    /// Whether the server is stopping now.
    pub fn is_leaving(&self) -> bool {
        self.0.borrow().leaving
    }

    /// Resolves while the server is stopping.
    pub async fn leaving(&self) {
        self.until(|state| state.leaving).await;
    }

    /// Resolves when the server begins to stop after this call. What is begun on a server that is stopping already, for want of
    /// another, is not told of it again.
    pub fn next(&self) -> impl Future<Output = ()> + Send + 'static {
        let (departure, count) = (self.clone(), self.0.borrow().count);
        async move { departure.until(|state| state.count > count).await }
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        if self
            .0
            .subscribe()
            .wait_for(|state| condition(state))
            .await
            .is_err()
        {
            // Cannot be: the sender is our own.
            pending::<()>().await;
        }
    }
}

impl Departures {
    /// That of the server at this address.
    pub fn of(&self, server: &Endpoint) -> Departure {
        self.lock().entry(server.address()).or_default().clone()
    }

    /// Forgets all servers but these. One that is forgotten is a member no more, which it says itself when it stops.
    pub fn retain<'a>(&self, servers: impl IntoIterator<Item = &'a Endpoint>) {
        let kept: BTreeSet<_> = servers.into_iter().map(Endpoint::address).collect();
        self.lock().retain(|server, departure| {
            let stays = kept.contains(server);
            if !stays {
                departure.begin();
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, u16), Departure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::route::testing::server;

    #[test]
    fn it_is_told_to_those_who_were_there_before() {
        let departure = Departure::default();
        let before = departure.next();
        assert!(departure.begin());
        assert!(!departure.begin(), "known already");
        let since = departure.next();
        assert!(departure.leaving().now_or_never().is_some());
        assert!(before.now_or_never().is_some());
        departure.end();
        assert!(!departure.is_leaving() && departure.leaving().now_or_never().is_none());
        // It has another turn for those who came while it was leaving.
        assert!(departure.begin());
        assert!(since.now_or_never().is_some());
    }

    #[test]
    fn who_is_no_member_any_more_leaves() {
        let a = server("cp-a", true).endpoint.clone();
        let b = Endpoint {
            port: a.port + 1,
            ..a.clone()
        };
        let all = Departures::default();
        let [of_a, of_b] = [&a, &b].map(|server| all.of(server));
        all.retain([&a]);
        assert!(!of_a.is_leaving() && of_b.is_leaving());
        assert!(!all.of(&b).is_leaving(), "it comes anew");
        of_a.begin();
        assert!(all.of(&a).is_leaving(), "the same one");
    }
}
