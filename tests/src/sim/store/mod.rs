//! The store that all servers of a control plane share, in the place of etcd: objects, one revision counter, a bounded history.

mod host;
mod memory;
mod remote;

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use host::Host;
use memory::Memory;
use remote::{Remote, RemoteWatch};

/// A stored object. Its `metadata.resourceVersion` is the revision of its last change.
pub type Object = Arc<Value>;

/// Where an object lives. All versions of a group share one storage; the namespace of cluster-scoped objects is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Empty for the core group.
    pub group: String,
    /// The plural name.
    pub resource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// All objects of one resource, in one namespace or (empty) in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// Empty for the core group.
    pub group: String,
    /// The plural name.
    pub resource: String,
    /// Empty: all namespaces, or a cluster-scoped resource.
    pub namespace: String,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It did not exist before, for this watch.
    Added,
    /// It existed before.
    Modified,
    /// It is gone; the event has its last state.
    Deleted,
}

/// One change. `previous` is what the object was before it; watches with selectors need both.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// `resourceVersion` after the change.
    pub revision: u64,
    /// The object after the change; of a deleted one the last state.
    pub object: Object,
    /// The object before the change; `None`: it is new.
    pub previous: Option<Object>,
}

/// Events in order, and the revision up to which the watcher has now seen everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// In the order of their revisions.
    pub events: Vec<Arc<Event>>,
    /// Nothing up to here is missing.
    pub revision: u64,
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreError {
    /// There is no object with the key.
    NotFound,
    /// There is one with the key already.
    Exists,
    /// The object is no longer at the expected revision.
    Conflict,
    /// The history no longer reaches back to the requested revision; the oldest one that works is given.
    Compacted(u64),
    /// The process that hosts the store cannot be reached.
    Unreachable(String),
}

/// What can be asked of the store; also the wire format between processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Op {
    Get(Key),
    List(Scope),
    Create(Key, Value),
    Update(Key, Value, u64),
    Delete(Key, Option<u64>),
    Reap(String),
    Compact,
    Watch(Scope, u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Object(Option<Object>),
    List(Vec<Object>, u64),
    Done,
}

/// A handle to the store, cheap to clone.
#[derive(Clone, Debug)]
pub enum Store {
    /// In this process.
    Local(Arc<Memory>),
    /// In another process, over a Unix socket.
    Remote(Arc<Remote>),
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub enum Watch {
    /// The watch of a store in this process.
    Local(memory::LocalWatch),
    /// The watch of a store in another process.
    Remote(RemoteWatch),
}

impl Store {
    /// A new store, empty, in this process.
    pub fn in_memory() -> Self {
        Self::Local(Arc::new(Memory::default()))
    }

    /// The store that [`Host::serve`] offers at this Unix socket.
    pub async fn connect(socket: &Path) -> Result<Self, StoreError> {
        Ok(Self::Remote(Arc::new(Remote::connect(socket).await?)))
    }

    /// One object.
    ///
    /// # Errors
    /// There is none, or the store cannot be reached.
    pub async fn get(&self, key: &Key) -> Result<Object, StoreError> {
        match self.call(Op::Get(key.clone())).await? {
            Reply::Object(Some(object)) => Ok(object),
            _ => Err(StoreError::NotFound),
        }
    }

    /// The objects in order of namespace and name, and the revision of the store.
    pub async fn list(&self, scope: &Scope) -> Result<(Vec<Object>, u64), StoreError> {
        match self.call(Op::List(scope.clone())).await? {
            Reply::List(objects, revision) => Ok((objects, revision)),
            _ => Ok((Vec::new(), 0)),
        }
    }

    /// Stores a new object and gives it a uid and a revision.
    ///
    /// # Errors
    /// It exists, or the store cannot be reached.
    pub async fn create(&self, key: &Key, object: Value) -> Result<Object, StoreError> {
        self.object(Op::Create(key.clone(), object)).await
    }

    /// Replaces the object if it still is at revision `expected`.
    pub async fn update(
        &self,
        key: &Key,
        object: Value,
        expected: u64,
    ) -> Result<Object, StoreError> {
        self.object(Op::Update(key.clone(), object, expected)).await
    }

    /// Removes the object and gives its last state.
    pub async fn delete(&self, key: &Key, expected: Option<u64>) -> Result<Object, StoreError> {
        self.object(Op::Delete(key.clone(), expected)).await
    }

    /// If the namespace is being deleted: removes what it holds, then the namespace, as far as finalizers allow.
    pub async fn reap(&self, namespace: &str) -> Result<(), StoreError> {
        self.call(Op::Reap(namespace.into())).await.map(drop)
    }

    /// Forgets all history, so that a watch from any older revision is refused.
    pub async fn compact(&self) -> Result<(), StoreError> {
        self.call(Op::Compact).await.map(drop)
    }

    /// Changes after revision `from`.
    pub async fn watch(&self, scope: Scope, from: u64) -> Result<Watch, StoreError> {
        match self {
            Self::Local(memory) => Ok(Watch::Local(memory.watch(scope, from))),
            Self::Remote(remote) => Ok(Watch::Remote(remote.watch(scope, from).await?)),
        }
    }

    async fn object(&self, op: Op) -> Result<Object, StoreError> {
        match self.call(op).await? {
            Reply::Object(Some(object)) => Ok(object),
            _ => Err(StoreError::NotFound),
        }
    }

    async fn call(&self, op: Op) -> Result<Reply, StoreError> {
        match self {
            Self::Local(memory) => memory.apply(op),
            Self::Remote(remote) => remote.call(op).await,
        }
    }
}

impl Watch {
    /// Waits for the next changes. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Batch, StoreError> {
        match self {
            Self::Local(watch) => watch.next().await,
            Self::Remote(watch) => watch.next().await,
        }
    }

    /// What is there now, without waiting; for bookmarks.
    pub fn now(&mut self) -> Result<Batch, StoreError> {
        match self {
            Self::Local(watch) => watch.now(),
            Self::Remote(watch) => Ok(watch.now()),
        }
    }
}

impl Key {
    /// For the core group and for cluster-scoped objects the parts are empty.
    pub fn new(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl Scope {
    /// For the core group and for all namespaces the parts are empty.
    pub fn new(group: &str, resource: &str, namespace: &str) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
        }
    }
}

/// The revision in `metadata.resourceVersion`; 0 if there is none.
pub fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
