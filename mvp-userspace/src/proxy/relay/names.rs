//! The server names that clients ask for, so that servers are probed for them before a client is to be relayed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A cluster has a handful: its own name, a load balancer's, `kubernetes.default.svc`.
const MAX_NAMES: usize = 16;
/// A name that no client has used for so long is not probed for any more.
const IN_USE: Duration = Duration::from_secs(600);

/// The names of clients whose requests were answered, the last used ones.
#[derive(Debug, Default)]
pub(super) struct PublishedServerNames(Mutex<Vec<(Box<str>, Instant)>>);

impl PublishedServerNames {
    /// `name`, in lower case, is in use. If there are too many, the one that was used longest ago is forgotten.
    pub(super) fn note(&self, name: &str, now: Instant) {
        let mut names = self.lock();
        if let Some((_, used)) = names.iter_mut().find(|(known, _)| **known == *name) {
            *used = now;
            return;
        }
        if names.len() >= MAX_NAMES
            && let Some(oldest) = (0..names.len()).min_by_key(|&i| names.get(i).map(|n| n.1))
        {
            names.swap_remove(oldest);
        }
        names.push((name.into(), now));
    }

    /// All names that were used lately.
    pub(super) fn in_use(&self, now: Instant) -> Vec<Box<str>> {
        let mut names = self.lock();
        names.retain(|(_, used)| now.saturating_duration_since(*used) <= IN_USE);
        names.iter().map(|(name, _)| name.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Box<str>, Instant)>> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_names_stay_and_unused_ones_go() {
        let names = PublishedServerNames::default();
        let start = Instant::now();
        for index in 0..MAX_NAMES as u64 {
            names.note(&format!("n{index}"), start + Duration::from_secs(index));
        }
        let later = start + Duration::from_secs(100);
        names.note("n0", later);
        names.note("new", later);
        let all = names.in_use(later);
        assert_eq!(all.len(), MAX_NAMES);
        assert!(all.contains(&"n0".into()) && all.contains(&"new".into()));
        assert!(!all.contains(&"n1".into()), "the oldest");
        let all = names.in_use(later + IN_USE);
        assert_eq!(all.len(), 2);
        assert!(names.in_use(later + IN_USE + IN_USE).is_empty());
    }
}
