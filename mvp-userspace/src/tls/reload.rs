//! The one task that notices changed files and has their owners load them.
//!
//! Directories are watched, not files: a projected Secret is replaced by renaming a symlink beside it, and most tools replace a
//! file by renaming another over it. Watching alone misses changes behind symlinks and on network file systems, so the contents
//! are compared every few seconds as well.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::error::TlsError;
use super::lifetime::{Lifetime, Validity};
use super::source::{FileStats, ReloadOutcome};
use crate::config::Config;

/// An owner of material from files.
pub trait Reload: Send + Sync {
    /// Looks at the files again and takes over what is new and good. Blocks on file I/O.
    fn refresh(&self) -> Vec<ReloadOutcome>;
    /// The files this owner reports about.
    fn files(&self) -> Vec<Arc<FileStats>>;
    /// The validity of every certificate in use, by configuration key.
    fn validities(&self) -> Vec<(String, Validity)>;
    /// Loads what another configuration names; nothing changes until the answer is called. So all owners of a changed
    /// configuration take it over, or none does.
    ///
    /// # Errors
    /// As when an agent is started with that configuration.
    fn prepare(&self, _config: &Config) -> Result<Adopt<'_>, TlsError> {
        Ok(Box::new(|| {}))
    }
}

/// Takes over what [`Reload::prepare`] loaded.
pub type Adopt<'a> = Box<dyn FnOnce() + 'a>;

/// Counters and expiry of every file, for the metrics. Which files there are may change with a followed manifest.
pub struct ReloadStats {
    owners: Vec<Arc<dyn Reload>>,
}

impl ReloadStats {
    /// The files that are in use now.
    pub fn files(&self) -> Vec<Arc<FileStats>> {
        self.owners.iter().flat_map(|owner| owner.files()).collect()
    }
}

/// Watches the files of all owners.
pub struct Reloader {
    owners: Vec<Arc<dyn Reload>>,
    stats: Arc<ReloadStats>,
    changed: Arc<Notify>,
    reported: HashMap<String, (Validity, Lifetime)>,
}

impl Reloader {
    /// How often contents are compared although no event was seen.
    pub const POLL: Duration = Duration::from_secs(10);
    /// A certificate and its key are two files; this long after the first event both are usually in place.
    const SETTLE: Duration = Duration::from_millis(50);

    /// For these owners of files, in the order in which they are reloaded. Nothing is read before [`Self::run`].
    pub fn new(owners: Vec<Arc<dyn Reload>>) -> Self {
        Self {
            stats: Arc::new(ReloadStats {
                owners: owners.clone(),
            }),
            owners,
            changed: Arc::default(),
            reported: HashMap::new(),
        }
    }

    /// For the metrics; shared, so that it outlives the reloader.
    pub fn stats(&self) -> Arc<ReloadStats> {
        self.stats.clone()
    }

    /// Notified to have every file looked at now, without waiting for an event or the next poll.
    pub fn now(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// Runs until dropped. `poll` is [`Self::POLL`] outside tests.
    pub async fn run(mut self, poll: Duration) {
        let changed = self.changed.clone();
        let mut watcher = watcher(changed.clone());
        loop {
            let files = self.stats.files().into_iter();
            let directories: BTreeSet<PathBuf> = files
                .filter_map(|file| Some(file.path.parent()?.to_owned()))
                .collect();
            // Again each time: a directory that was replaced has lost its watch. Watching one twice is harmless.
            if let Some(watcher) = &mut watcher {
                for directory in &directories {
                    if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                        tracing::debug!(directory = %directory.display(), %error, "not watched, only polled");
                    }
                }
            }
            // Before the first wait as well: something may have changed since the owners loaded.
            let owners = self.owners.clone();
            let outcomes = tokio::task::spawn_blocking(move || {
                owners.iter().flat_map(|o| o.refresh()).collect::<Vec<_>>()
            })
            .await;
            for outcome in outcomes.unwrap_or_default() {
                match outcome.result {
                    Ok(()) => tracing::info!(key = outcome.key, "reloaded"),
                    Err(error) => tracing::error!(%error, "not reloaded; the old one stays in use"),
                }
            }
            for (key, not_after, stage) in self.aged(unix_now()) {
                report(&key, not_after, stage);
            }
            if tokio::time::timeout(poll, changed.notified()).await.is_ok() {
                tokio::time::sleep(Self::SETTLE).await;
            }
        }
    }

    /// The certificates that have come to a later stage of their life since the last call, with the end of it (Unix seconds).
    fn aged(&mut self, now: i64) -> Vec<(String, i64, Lifetime)> {
        let mut aged = Vec::new();
        for (key, validity) in self.owners.iter().flat_map(|owner| owner.validities()) {
            let stage = Lifetime::at(validity, now);
            let before = match self.reported.insert(key.clone(), (validity, stage)) {
                Some((same, before)) if same == validity => before,
                _ => Lifetime::Fresh,
            };
            if stage > before {
                aged.push((key, validity.1, stage));
            }
        }
        aged
    }
}

fn report(key: &str, not_after: i64, stage: Lifetime) {
    match stage {
        Lifetime::Fresh => {}
        Lifetime::Aging => tracing::warn!(
            key,
            not_after,
            "certificate has less than 20 % of its life left"
        ),
        Lifetime::Ending => tracing::error!(
            key,
            not_after,
            "certificate has less than 5 % of its life left"
        ),
        Lifetime::Expired => tracing::error!(key, not_after, "certificate has expired"),
    }
}

/// `None` if the kernel gives no watcher (its limits are per user); polling remains.
fn watcher(changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let created = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too (open, close); only changes count.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            changed.notify_one();
        }
    });
    created
        .inspect_err(
            |error| tracing::warn!(%error, "cannot watch directories; files are only polled"),
        )
        .ok()
}

fn unix_now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Owner(Mutex<Vec<(String, Validity)>>);

    impl Reload for Owner {
        fn refresh(&self) -> Vec<ReloadOutcome> {
            vec![]
        }

        fn files(&self) -> Vec<Arc<FileStats>> {
            vec![]
        }

        fn validities(&self) -> Vec<(String, Validity)> {
            self.0.lock().unwrap().clone()
        }
    }

    #[test]
    fn every_stage_is_reported_once_and_a_new_certificate_begins_anew() {
        let certificates = |serving: Validity| {
            vec![
                ("serving".to_owned(), serving),
                ("ca".to_owned(), (0, 1_000_000)),
            ]
        };
        let owner = Arc::new(Owner(Mutex::new(certificates((0, 1000)))));
        let mut reloader = Reloader::new(vec![owner.clone()]);
        let report = |stage| vec![("serving".to_owned(), 1000, stage)];
        assert_eq!(reloader.aged(100), []);
        assert_eq!(reloader.aged(900), report(Lifetime::Aging));
        assert_eq!(reloader.aged(901), []);
        assert_eq!(reloader.aged(960), report(Lifetime::Ending));
        assert_eq!(reloader.aged(999), []);
        assert_eq!(reloader.aged(1001), report(Lifetime::Expired));
        assert_eq!(reloader.aged(2000), []);
        *owner.0.lock().unwrap() = certificates((0, 2100));
        assert_eq!(
            reloader.aged(2001),
            [("serving".to_owned(), 2100, Lifetime::Ending)]
        );
        *owner.0.lock().unwrap() = certificates((2000, 9000));
        assert_eq!(reloader.aged(2002), []);
    }
}
