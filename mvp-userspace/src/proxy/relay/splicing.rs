//! How the bytes of forwarded connections are moved: chosen once the machine has been measured, copied until then.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::kernel::Splice;
use crate::splice::{Mode, Plan, Splicer};

/// The one splicer of the agent, and the technique that it uses.
pub struct Splicing {
    splicer: Splicer,
    technique: ArcSwap<Technique>,
}

/// What was chosen, and why.
#[derive(Clone, Debug)]
pub struct Technique {
    pub plan: Plan,
    /// What was measured, or why nothing was, as text for people.
    pub why: String,
}

impl Default for Splicing {
    fn default() -> Self {
        Self {
            splicer: Splicer::new(None, usize::MAX),
            technique: ArcSwap::from_pointee(Technique {
                plan: Mode::Copy.into(),
                why: "nothing else was tried".to_owned(),
            }),
        }
    }
}

impl Splicing {
    /// Sets the technique for connections from now on.
    pub fn choose(&self, technique: Technique, kernel: Option<Splice>) {
        if let Some(kernel) = kernel {
            self.splicer.enable(kernel);
        }
        self.technique.store(Arc::new(technique));
    }

    pub fn technique(&self) -> Arc<Technique> {
        self.technique.load_full()
    }

    pub fn splicer(&self) -> &Splicer {
        &self.splicer
    }
}
