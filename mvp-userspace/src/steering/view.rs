//! What the admin port and `mvp status` show of the guard.

use serde::{Deserialize, Serialize};

/// Whether new connections are inspected. The words are those of `docs/relay.md`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardView {
    /// `idle` or `armed`.
    pub state: String,
    /// The kernel does as the state says. False: nothing is steered, and the state is only what the signs ask for.
    #[serde(default)]
    pub steers: bool,
    /// Why.
    pub reasons: Vec<String>,
    /// The signs that stand, whatever an operator says.
    pub standing: Vec<String>,
    /// For how long it has been in this state, in milliseconds.
    pub since_ms: u64,
    /// When it goes idle if no sign comes; none while one stands.
    pub idle_in_ms: Option<u64>,
}

impl GuardView {
    /// In one line.
    pub fn line(&self) -> String {
        let mut line = match self.steers {
            true => format!("{}: {}", self.state, self.reasons.join(", ")),
            // Never "armed" where nothing is.
            false => format!("nothing is steered; signs: {}", self.reasons.join(", ")),
        };
        if let Some(ms) = self.idle_in_ms {
            line += &format!(" (idle in {}s if no sign comes)", ms.div_ceil(1000));
        }
        if !self.standing.is_empty() && self.standing != self.reasons {
            line += &format!(" (signs: {})", self.standing.join(", "));
        }
        line
    }
}
