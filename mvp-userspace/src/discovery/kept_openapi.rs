//! A server's `/openapi/v3`, kept while servers differ.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::openapi::OpenApiIndex;
use crate::api::ApiSet;

/// How often an index is read again while servers differ, whatever happens.
const INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two reads of an index, however often it is requested.
const SPACING: Duration = Duration::from_secs(1);

/// See the module's description.
#[derive(Default)]
pub(super) struct KeptOpenApi {
    index: Option<Arc<OpenApiIndex>>,
    asked: Option<Asked>,
    /// Somebody found that the index is not right any more.
    wanted: bool,
}

struct Asked {
    at: Instant,
    /// What the server served then.
    set: Option<Arc<ApiSet>>,
    /// The server has answered, with an index or not.
    answered: bool,
}

impl KeptOpenApi {
    pub(super) fn index(&self) -> Option<Arc<OpenApiIndex>> {
        self.index.clone()
    }

    /// True while the server was not asked for an index yet, or has not answered.
    pub(super) fn is_pending(&self) -> bool {
        let answered = self.asked.as_ref().is_some_and(|asked| asked.answered);
        self.index.is_none() && !answered
    }

    /// True if the index is to be asked for now, of a server that serves `set`; it then counts as asked for. With `needed` false it
    /// is forgotten. Not to be called while the server is being asked.
    pub(super) fn due(&mut self, needed: bool, set: Option<Arc<ApiSet>>) -> bool {
        if !needed {
            *self = Self::default();
            return false;
        }
        let due = match &self.asked {
            None => true,
            // The connection ended before the server could answer.
            Some(asked) if !asked.answered => true,
            Some(asked) => {
                let changed = asked.set.as_ref().map(Arc::as_ptr) != set.as_ref().map(Arc::as_ptr);
                let age = asked.at.elapsed();
                let missing = self.index.is_none();
                age >= INTERVAL || ((changed || missing || self.wanted) && age >= SPACING)
            }
        };
        if due {
            self.wanted = false;
            let at = Instant::now();
            self.asked = Some(Asked {
                at,
                set,
                answered: false,
            });
        }
        due
    }

    /// The server's answer; `None`: it gave no index that could be read, and the last one stands.
    pub(super) fn answered(&mut self, index: Option<OpenApiIndex>) {
        // Not after it was forgotten.
        if let Some(asked) = &mut self.asked {
            asked.answered = true;
            self.index = index.map(Arc::new).or_else(|| self.index.take());
        }
    }

    /// Has the index read again soon. False if that was to happen anyway.
    pub(super) fn want(&mut self) -> bool {
        !std::mem::replace(&mut self.wanted, true)
    }
}
