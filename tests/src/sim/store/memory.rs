//! The store itself: one lock, one map and one event ring a resource.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Batch, Change, Event, Key, Object, Op, Reply, Scope, StoreError, revision};
use crate::sim::clock;

/// Events kept a resource. Older ones are compacted, as etcd does by time.
const HISTORY: usize = 4096;

#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Debug)]
pub struct LocalWatch {
    memory: Arc<Memory>,
    scope: Scope,
    seen: u64,
    changed: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    resources: HashMap<(String, String), Resource>,
}

#[derive(Debug)]
struct Resource {
    objects: BTreeMap<(String, String), Object>,
    history: VecDeque<Arc<Event>>,
    /// Watches must start at this revision or later.
    compacted: u64,
    latest: watch::Sender<u64>,
}

impl Memory {
    pub(super) fn apply(&self, op: Op) -> Result<Reply, StoreError> {
        let mut state = self.lock();
        match op {
            Op::Get(key) => Ok(Reply::Object(state.get(&key))),
            Op::List(scope) => Ok(Reply::List(state.list(&scope), state.revision)),
            Op::Create(key, object) => {
                if state.get(&key).is_some() {
                    return Err(StoreError::Exists);
                }
                Ok(Reply::Object(Some(state.put(&key, object, None))))
            }
            Op::Update(key, object, expected) => {
                let previous = state.get(&key).ok_or(StoreError::NotFound)?;
                if revision(&previous) != expected {
                    return Err(StoreError::Conflict);
                }
                Ok(Reply::Object(Some(state.put(&key, object, Some(previous)))))
            }
            Op::Delete(key, expected) => {
                let previous = state.get(&key).ok_or(StoreError::NotFound)?;
                if expected.is_some_and(|expected| expected != revision(&previous)) {
                    return Err(StoreError::Conflict);
                }
                Ok(Reply::Object(Some(state.remove(&key, previous))))
            }
            Op::Reap(namespace) => {
                state.reap(&namespace);
                Ok(Reply::Done)
            }
            Op::Compact => {
                let now = state.revision;
                for resource in state.resources.values_mut() {
                    resource.history.clear();
                    resource.compacted = now;
                }
                Ok(Reply::Done)
            }
            // Watches do not pass here: they are answered by a stream.
            Op::Watch(..) => Ok(Reply::Done),
        }
    }

    pub(super) fn watch(self: &Arc<Self>, scope: Scope, from: u64) -> LocalWatch {
        let changed = self
            .lock()
            .resource(&scope.group, &scope.resource)
            .latest
            .subscribe();
        LocalWatch {
            memory: self.clone(),
            scope,
            seen: from,
            changed,
        }
    }

    fn since(&self, scope: &Scope, from: u64) -> Result<Batch, StoreError> {
        let mut state = self.lock();
        let revision = state.revision;
        let resource = state.resource(&scope.group, &scope.resource);
        if from < resource.compacted {
            return Err(StoreError::Compacted(resource.compacted));
        }
        let start = resource
            .history
            .partition_point(|event| event.revision <= from);
        let wanted = |event: &&Arc<Event>| {
            scope.namespace.is_empty() || event.object["metadata"]["namespace"] == *scope.namespace
        };
        let events = resource
            .history
            .range(start..)
            .filter(wanted)
            .cloned()
            .collect();
        Ok(Batch {
            events,
            revision: revision.max(from),
        })
    }

    /// A panic while the lock is held leaves whole objects behind: every change is one insert.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalWatch {
    pub(super) async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            self.changed.borrow_and_update();
            let batch = self.now()?;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
            if self.changed.changed().await.is_err() {
                return Err(StoreError::Unreachable("the store is gone".into()));
            }
        }
    }

    pub(super) fn now(&mut self) -> Result<Batch, StoreError> {
        let batch = self.memory.since(&self.scope, self.seen)?;
        self.seen = batch.revision;
        Ok(batch)
    }
}

impl State {
    fn resource(&mut self, group: &str, resource: &str) -> &mut Resource {
        self.resources
            .entry((group.into(), resource.into()))
            .or_insert_with(|| Resource {
                objects: BTreeMap::new(),
                history: VecDeque::new(),
                compacted: 0,
                latest: watch::Sender::new(0),
            })
    }

    fn get(&mut self, key: &Key) -> Option<Object> {
        self.resource(&key.group, &key.resource)
            .objects
            .get(&(key.namespace.clone(), key.name.clone()))
            .cloned()
    }

    fn list(&mut self, scope: &Scope) -> Vec<Object> {
        let objects = &self.resource(&scope.group, &scope.resource).objects;
        if scope.namespace.is_empty() {
            return objects.values().cloned().collect();
        }
        let first = (scope.namespace.clone(), String::new());
        objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(|((namespace, _), _)| *namespace == scope.namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn put(&mut self, key: &Key, object: Value, previous: Option<Object>) -> Object {
        let change = if previous.is_some() {
            Change::Modified
        } else {
            Change::Added
        };
        let object = self.stamp(object);
        self.resource(&key.group, &key.resource)
            .objects
            .insert((key.namespace.clone(), key.name.clone()), object.clone());
        self.publish(
            key,
            Event {
                change,
                revision: self.revision,
                object: object.clone(),
                previous,
            },
        );
        object
    }

    fn remove(&mut self, key: &Key, previous: Object) -> Object {
        let object = self.stamp((*previous).clone());
        self.resource(&key.group, &key.resource)
            .objects
            .remove(&(key.namespace.clone(), key.name.clone()));
        let event = Event {
            change: Change::Deleted,
            revision: self.revision,
            object: object.clone(),
            previous: Some(previous),
        };
        self.publish(key, event);
        object
    }

    fn stamp(&mut self, mut object: Value) -> Object {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.revision.to_string());
        Arc::new(object)
    }

    fn publish(&mut self, key: &Key, event: Event) {
        let resource = self.resource(&key.group, &key.resource);
        let revision = event.revision;
        resource.history.push_back(Arc::new(event));
        if resource.history.len() > HISTORY
            && let Some(oldest) = resource.history.pop_front()
        {
            resource.compacted = oldest.revision;
        }
        resource.latest.send_replace(revision);
    }

    fn reap(&mut self, namespace: &str) {
        let own = Key::new("", "namespaces", "", namespace);
        let Some(object) = self.get(&own) else { return };
        if object["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let mut held = false;
        for (group, resource) in self.resources.keys().cloned().collect::<Vec<_>>() {
            for object in self.list(&Scope::new(&group, &resource, namespace)) {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let key = Key::new(&group, &resource, namespace, name);
                if object["metadata"]["finalizers"]
                    .as_array()
                    .is_none_or(Vec::is_empty)
                {
                    self.remove(&key, object);
                    continue;
                }
                held = true;
                if object["metadata"]["deletionTimestamp"].is_null() {
                    let mut marked = (*object).clone();
                    marked["metadata"]["deletionTimestamp"] = json!(clock::now());
                    self.put(&key, marked, Some(object));
                }
            }
        }
        if !held {
            self.remove(&own, object);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::store::Store;

    fn key(name: &str) -> Key {
        Key::new("", "configmaps", "default", name)
    }

    fn object(name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "default"}})
    }

    #[tokio::test]
    async fn update_needs_the_current_revision() {
        let store = Store::in_memory();
        let first = store.create(&key("a"), object("a")).await.unwrap();
        let second = store
            .update(&key("a"), object("a"), revision(&first))
            .await
            .unwrap();
        assert!(revision(&second) > revision(&first));
        let stale = store.update(&key("a"), object("a"), revision(&first)).await;
        assert_eq!(stale.unwrap_err(), StoreError::Conflict);
        assert_eq!(
            store.create(&key("a"), object("a")).await.unwrap_err(),
            StoreError::Exists
        );
    }

    #[tokio::test]
    async fn watch_resumes_and_refuses_compacted_revisions() {
        let store = Store::in_memory();
        let first = store.create(&key("a"), object("a")).await.unwrap();
        store.create(&key("b"), object("b")).await.unwrap();
        store.delete(&key("a"), None).await.unwrap();
        let scope = Scope::new("", "configmaps", "default");
        let mut watch = store.watch(scope.clone(), revision(&first)).await.unwrap();
        let changes: Vec<_> = watch
            .next()
            .await
            .unwrap()
            .events
            .iter()
            .map(|e| e.change)
            .collect();
        assert_eq!(changes, [Change::Added, Change::Deleted]);
        store.compact().await.unwrap();
        let mut late = store.watch(scope, revision(&first)).await.unwrap();
        assert_eq!(late.next().await.unwrap_err(), StoreError::Compacted(3));
    }
}
