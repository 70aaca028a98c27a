//! Follows the manifest that the configuration was made from: what can change while running is taken over, and for the rest the
//! process makes room for its successor or says that it needs one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::config::{Config, ConfigError, Effect, ManifestSource, changes};
use crate::drain::DrainTrigger;
use crate::preflight;
use crate::proxy::ResponseTimeout;
use crate::tls::{FileStats, Reload, ReloadOutcome, Validity};

/// A followed manifest. It is one of the files that [`crate::tls::Reloader`] watches, and comes before those that it names.
pub(super) struct ManifestFollower {
    source: ManifestSource,
    /// Who holds what can be changed while running.
    owners: Vec<Arc<dyn Reload>>,
    response_timeout: Arc<ResponseTimeout>,
    /// With steering: clients reach kube-apiserver itself until the successor is there, so that the process may end. Without it,
    /// this process is the only way for its clients.
    drain: Option<(DrainTrigger, Duration)>,
    stats: Arc<FileStats>,
    line: ManifestLine,
    state: Mutex<State>,
}

/// What the status says of the manifest. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct ManifestLine(Arc<Line>);

#[derive(Debug, Default)]
struct Line {
    text: Mutex<String>,
    restart: AtomicBool,
}

struct State {
    /// The digest of the content that was last looked at.
    digest: Option<[u8; 32]>,
    /// The last attempt failed: a file that it names may come later than the manifest.
    failed: Option<String>,
    /// With which the agent runs, but for what needs a restart.
    config: Config,
    taken_over: usize,
}

/// What became of a look at the manifest.
#[derive(Debug, Eq, PartialEq)]
enum Look {
    Unchanged,
    TakenOver(Vec<&'static str>),
    Failed,
}

impl ManifestFollower {
    /// `config` is what the agent was started with. `None`: it was not made from a manifest.
    pub(super) fn new(
        config: &Config,
        owners: Vec<Arc<dyn Reload>>,
        response_timeout: Arc<ResponseTimeout>,
        drain: Option<(DrainTrigger, Duration)>,
        line: ManifestLine,
    ) -> Option<Self> {
        let source = config.manifest.clone()?;
        line.say("followed".to_owned());
        Some(Self {
            stats: Arc::new(FileStats::new("--from-manifest", &source.path)),
            state: Mutex::new(State {
                // Read before this was made: the first look compares, and a change in between is not missed.
                digest: None,
                failed: None,
                config: config.clone(),
                taken_over: 0,
            }),
            source,
            owners,
            response_timeout,
            drain,
            line,
        })
    }

    fn look(&self) -> Look {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = std::fs::read(&self.source.path)
            .ok()
            .map(|content| <[u8; 32]>::from(Sha256::digest(content)));
        if digest.is_some() && state.digest == digest && state.failed.is_none() {
            return Look::Unchanged;
        }
        let loaded = preflight::again(&self.source);
        match loaded.and_then(|config| self.take_over(&mut state, config)) {
            Ok(keys) => {
                state.digest = digest;
                state.failed = None;
                self.stats.succeeded();
                match keys.is_empty() {
                    true => Look::Unchanged,
                    false => Look::TakenOver(keys),
                }
            }
            Err(error) => {
                self.fail(&mut state, &error);
                Look::Failed
            }
        }
    }

    /// Everything that can be taken over, or nothing of it.
    fn take_over(
        &self,
        state: &mut State,
        config: Config,
    ) -> Result<Vec<&'static str>, ConfigError> {
        let changes = changes(&state.config, &config);
        let live: Vec<_> = changes
            .iter()
            .filter(|c| c.effect == Effect::Live)
            .collect();
        if !live.is_empty() {
            let mut adopt = Vec::new();
            for owner in &self.owners {
                let prepared = owner.prepare(&config);
                adopt.push(prepared.map_err(|e| ConfigError::new(e.key(), e.to_string()))?);
            }
            for adopt in adopt {
                adopt();
            }
            self.response_timeout.set(config.limits.response_timeout);
            state.taken_over += 1;
        }
        let keys: Vec<_> = live.iter().map(|change| change.keys).collect();
        if !keys.is_empty() {
            tracing::info!(
                keys = keys.join(", "),
                "the manifest has changed, and the changes are in use"
            );
        }
        let late: Vec<_> = changes
            .iter()
            .filter(|change| change.effect == Effect::Restart)
            .map(|change| change.keys)
            .collect();
        // What needs a restart stays as it was, so that it is found again, and undone if the manifest is.
        let (local, listen, advertise) = (
            state.config.local.clone(),
            state.config.listen,
            state.config.advertise,
        );
        state.config = Config {
            local,
            listen,
            advertise,
            ..config
        };
        self.restart(state, &late);
        Ok(keys)
    }

    fn restart(&self, state: &State, late: &[&str]) {
        if late.is_empty() {
            self.line.0.restart.store(false, Ordering::Relaxed);
            self.line.say(match state.taken_over {
                0 => "followed".to_owned(),
                1 => "followed; one change was taken over".to_owned(),
                n => format!("followed; {n} changes were taken over"),
            });
            return;
        }
        let keys = late.join(", ");
        let news = !self.line.0.restart.swap(true, Ordering::Relaxed);
        self.line.say(format!(
            "a restart is needed: {keys} changed, which cannot while the agent runs"
        ));
        match &self.drain {
            Some((trigger, deadline)) if trigger.drain(*deadline) => tracing::warn!(
                keys,
                "the manifest has changed in keys that cannot change while the agent runs: it drains so that it is started again"
            ),
            None if news => tracing::error!(
                keys,
                "the manifest has changed in keys that cannot change while the agent runs: the agent must be restarted"
            ),
            Some(_) | None => {}
        }
    }

    fn fail(&self, state: &mut State, error: &ConfigError) {
        let error = error.to_string();
        // Once for each reason: it is tried again until it works.
        if state.failed.as_ref() == Some(&error) {
            return;
        }
        self.stats.failed(error.clone());
        tracing::error!(
            error,
            "the changed manifest cannot be used; the previous configuration stays in use"
        );
        self.line.say(format!(
            "cannot be used, and the configuration of before stays: {error}"
        ));
        state.failed = Some(error);
    }
}

impl Reload for ManifestFollower {
    fn refresh(&self) -> Vec<ReloadOutcome> {
        self.look();
        Vec::new()
    }

    fn files(&self) -> Vec<Arc<FileStats>> {
        vec![Arc::clone(&self.stats)]
    }

    fn validities(&self) -> Vec<(String, Validity)> {
        Vec::new()
    }
}

impl ManifestLine {
    /// The line in the status.
    pub(super) fn get(&self) -> String {
        match self.text().as_str() {
            "" => "none: the configuration is a file of its own".to_owned(),
            text => text.to_owned(),
        }
    }

    /// Something in the manifest takes effect only with the next start.
    pub(super) fn restart_needed(&self) -> bool {
        self.0.restart.load(Ordering::Relaxed)
    }

    fn say(&self, text: String) {
        *self.text() = text;
    }

    fn text(&self) -> MutexGuard<'_, String> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
