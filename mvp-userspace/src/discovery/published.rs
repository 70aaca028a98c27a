//! What servers published about themselves, between membership, which reads it, and the builder of the table, which uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::api::{ApiSet, Key};
use crate::config::Endpoint;
use crate::route::RouteTable;

/// The type whose objects say what servers serve (`k8s.io/api/apiserverinternal/v1alpha1`). Only servers with the feature gate
/// `StorageVersionAPI` write them, and only where this alpha version is enabled is there such a type.
const STORAGE_VERSIONS: Key<'static> = Key {
    group: "internal.apiserver.k8s.io",
    version: "v1alpha1",
    resource: "storageversions",
    subresource: "",
};

/// By host and port of a server, the types that its StorageVersions name. Verbs and subresources are in none of them.
pub type ByServer = BTreeMap<(String, u16), Arc<ApiSet>>;

/// What the StorageVersion objects say. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PublishedTypes(Arc<Channels>);

#[derive(Debug)]
struct Channels {
    offered: watch::Sender<bool>,
    by_server: watch::Sender<Arc<ByServer>>,
}

impl Default for PublishedTypes {
    fn default() -> Self {
        Self(Arc::new(Channels {
            offered: watch::Sender::new(false),
            by_server: watch::Sender::default(),
        }))
    }
}

impl PublishedTypes {
    /// Whether a server says that it has the type: only then is anybody asked for the objects.
    pub fn offered(&self) -> watch::Receiver<bool> {
        self.0.offered.subscribe()
    }

    /// Replaces all that is known.
    pub fn set(&self, now: ByServer) {
        self.0.by_server.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            changed
        });
    }

    pub(super) fn look_for_the_type(&self, table: &RouteTable) {
        let now = table.lookup(STORAGE_VERSIONS).is_some();
        self.0.offered.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    pub(super) fn of(&self, endpoint: &Endpoint) -> Option<Arc<ApiSet>> {
        let all = self.0.by_server.borrow();
        all.get(&(endpoint.host.clone(), endpoint.port)).cloned()
    }

    pub(super) fn changes(&self) -> watch::Receiver<Arc<ByServer>> {
        self.0.by_server.subscribe()
    }
}
