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
    pub group: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

/// All objects of one resource, in one namespace or (empty) in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    pub group: String,
    pub resource: String,
    pub namespace: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One change. `previous` is what the object was before it; watches with selectors need both.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    pub change: Change,
    pub revision: u64,
    pub object: Object,
    pub previous: Option<Object>,
}

/// Events in order, and the revision up to which the watcher has now seen everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    pub events: Vec<Arc<Event>>,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreError {
    NotFound,
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
    Local(Arc<Memory>),
    Remote(Arc<Remote>),
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub enum Watch {
    Local(memory::LocalWatch),
    Remote(RemoteWatch),
}

impl Store {
    pub fn in_memory() -> Self {
        Self::Local(Arc::new(Memory::default()))
    }

    /// The store that [`Host::serve`] offers at this Unix socket.
    pub async fn connect(socket: &Path) -> Result<Self, StoreError> {
        Ok(Self::Remote(Arc::new(Remote::connect(socket).await?)))
    }

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
