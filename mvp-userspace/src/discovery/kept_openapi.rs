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
}

impl KeptOpenApi {
    pub fn index(&self) -> Option<Arc<OpenApiIndex>> {
        self.index.clone()
    }

    /// True if the index is to be asked for now, of a server that serves `set`; it then counts as asked for. With `needed` false it
    /// is forgotten.
    pub fn due(&mut self, needed: bool, set: Option<Arc<ApiSet>>) -> bool {
        if !needed {
            *self = Self::default();
            return false;
        }
        let due = match &self.asked {
            None => true,
            Some(asked) => {
                let changed = asked.set.as_ref().map(Arc::as_ptr) != set.as_ref().map(Arc::as_ptr);
                let age = asked.at.elapsed();
                age >= INTERVAL || ((changed || self.wanted) && age >= SPACING)
            }
        };
        if due {
            self.wanted = false;
            let at = Instant::now();
            self.asked = Some(Asked { at, set });
        }
        due
    }

    pub fn set(&mut self, index: OpenApiIndex) {
        // Not after it was forgotten.
        if self.asked.is_some() {
            self.index = Some(Arc::new(index));
        }
    }

    /// Has the index read again soon. False if that was to happen anyway.
    pub fn want(&mut self) -> bool {
        !std::mem::replace(&mut self.wanted, true)
    }
}
