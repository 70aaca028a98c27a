//! When a forwarded watch is to end because its server stops.
//!
//! kube-apiserver waits for its watches when it gets SIGTERM, until a deadline of its own that may be a minute away, and the kubelet
//! kills it before that. A watch may end at any event, and every client resumes it, by way of this agent on another server. So each
//! is ended within two seconds of the sign, and not all in the same moment.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::api::Key;
use crate::request::RequestInfo;
use crate::route::{Reason, RouteTable, Server};
use crate::tls::IdentityClass;

/// The ends of a stopping server's watches are spread over this time: their clients reconnect at once, each with a request.
const SPREAD: Duration = Duration::from_secs(1);
/// Until it is looked again whether another server can go on with the watch.
const AGAIN: Duration = Duration::from_secs(1);

/// Resolves when a forwarded watch is to end at its next event: this agent ends, or the server does and another can go on. `class`
/// is how the client is shown to servers.
pub(super) fn watch_end(
    shared: &Arc<Shared>,
    server: &Arc<Server>,
    class: Option<IdentityClass>,
    info: &RequestInfo<'_>,
    reason: Reason,
) -> impl Future<Output = ()> + Send + 'static {
    let shared = Arc::clone(shared);
    let watched = class.and_then(|class| Watched::new(server, class, info, reason));
    async move {
        let mut drain = shared.drain.clone();
        let let_go = async {
            match watched {
                Some(watched) => let_go(&shared, watched).await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = drain.draining() => {}
            () = let_go => {}
        }
    }
}

/// What is watched, and where.
struct Watched {
    server: Arc<Server>,
    class: IdentityClass,
    /// Group, version, resource and subresource.
    key: [String; 4],
}

impl Watched {
    /// `None`: the client has to stay with this server, whatever becomes of it, since a proxy has forwarded its request already or
    /// since nothing is forwarded to others.
    fn new(
        server: &Arc<Server>,
        class: IdentityClass,
        info: &RequestInfo<'_>,
        reason: Reason,
    ) -> Option<Self> {
        if matches!(reason, Reason::HopMarked | Reason::InteroperabilityOff) {
            return None;
        }
        let key = info.key();
        Some(Self {
            server: Arc::clone(server),
            class,
            key: [key.group, key.version, key.resource, key.subresource].map(str::to_owned),
        })
    }

    fn key(&self) -> Key<'_> {
        let [group, version, resource, subresource] = &self.key;
        Key {
            group,
            version,
            resource,
            subresource,
        }
    }

    /// Whether another server can go on with it now. Without one the client is better off where it is.
    fn goes_on_elsewhere(&self, table: &RouteTable) -> bool {
        let Some(entry) = table.lookup(self.key()) else {
            return false;
        };
        let others = entry.servers().difference(table.set_of(&self.server));
        let others = table.proved(others, self.class);
        !table.available(others).is_empty()
    }
}

/// Resolves when the server has begun to stop and another one can go on with the watch.
async fn let_go(shared: &Shared, watched: Watched) {
    let departure = &watched.server.departure;
    loop {
        departure.leaving().await;
        sleep(SPREAD.mul_f64(fastrand::f64())).await;
        if departure.is_leaving() && watched.goes_on_elsewhere(&shared.table.load()) {
            shared.metrics.let_go(&watched.server.name);
            return;
        }
        sleep(AGAIN).await;
    }
}
