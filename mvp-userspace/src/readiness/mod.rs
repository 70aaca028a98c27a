//! Whether the agent is ready and takes connections: what it still waits for, by name, and why it passes them by (`standing`).

mod standing;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use standing::{PassingBy, PassingReasons};

/// The set of tasks that must be done before the agent is ready. Cheap to clone; any thread may register and ask.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Tasks>>);

/// A task that is awaited until it is dropped or [`Task::done`] is called.
#[derive(Debug)]
#[must_use = "dropping the task says that it is done"]
pub struct Task {
    readiness: Readiness,
    id: u64,
}

#[derive(Debug, Default)]
struct Tasks {
    next: u64,
    awaited: BTreeMap<u64, String>,
    done: Vec<String>,
}

impl Readiness {
    /// Nothing is registered, which counts as ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Register everything before the admin port opens: a set that is empty for a moment says "ready".
    pub fn register(&self, name: impl Into<String>) -> Task {
        let mut tasks = self.lock();
        let id = tasks.next;
        tasks.next += 1;
        tasks.awaited.insert(id, name.into());
        Task {
            readiness: self.clone(),
            id,
        }
    }

    /// Whether nothing that was registered is still awaited.
    pub fn is_ready(&self) -> bool {
        self.lock().awaited.is_empty()
    }

    /// Names still awaited, oldest first.
    pub fn awaited(&self) -> Vec<String> {
        self.lock().awaited.values().cloned().collect()
    }

    /// Names of tasks that are done, in the order in which they were.
    pub fn done(&self) -> Vec<String> {
        self.lock().done.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    /// It is done; the same as dropping it.
    pub fn done(self) {}
}

impl Drop for Task {
    fn drop(&mut self) {
        let left = {
            let mut tasks = self.readiness.lock();
            let name = tasks.awaited.remove(&self.id);
            tasks.done.extend(name.clone());
            name.map(|name| (name, tasks.awaited.len()))
        };
        match left {
            Some((name, 0)) => tracing::info!(task = name, "done; the agent is ready"),
            Some((name, left)) => tracing::info!(task = name, awaited = left, "done"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_nothing_is_awaited() {
        let readiness = Readiness::new();
        let a = readiness.register("discovery of the local server");
        let b = readiness.register("listener");
        // Two tasks may have one name: each is awaited.
        let c = readiness.register("listener");
        assert_eq!(
            readiness.awaited(),
            ["discovery of the local server", "listener", "listener"]
        );
        a.done();
        drop(b);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.awaited(), ["listener"]);
        assert_eq!(
            readiness.done(),
            ["discovery of the local server", "listener"]
        );
        std::thread::spawn(move || drop(c)).join().unwrap();
        assert!(readiness.is_ready());
    }
}
