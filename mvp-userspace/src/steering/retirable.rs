//! Whether connections that clients made with kube-apiserver before the guard armed can be ended here. If not, they stay with
//! kube-apiserver until their clients make new ones, and the status, the log and a metric say so.

use std::sync::{Arc, Mutex, PoisonError};

use crate::net::{Off, SockDiag};

/// What was found by the last try. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Retirable(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
enum State {
    /// Without steering nothing is retired.
    #[default]
    Untried,
    Works,
    Off {
        code: &'static str,
        why: String,
    },
}

impl Retirable {
    /// Ends a connection of the agent's own, in the network namespace of the calling thread, and keeps what came of it. Blocks for
    /// as long as the kernel takes to walk its sockets. True if it works. A difference to the last try is logged.
    pub fn probe(&self) -> bool {
        let tried = SockDiag::open()
            .map_err(Off::from)
            .and_then(|mut diag| diag.available());
        self.keep(tried)
    }

    fn keep(&self, tried: Result<(), Off>) -> bool {
        let works = tried.is_ok();
        let now = match tried {
            Ok(()) => State::Works,
            Err(off) => State::Off {
                code: off.code(),
                why: off.to_string(),
            },
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.code() != now.code() {
            match &now {
                State::Off { why, .. } => tracing::warn!(
                    why,
                    "connections made before the guard arms will stay with kube-apiserver"
                ),
                _ => tracing::info!("connections made before the guard arms can be retired"),
            }
        }
        *state = now;
        works
    }

    /// The line in `mvp status`.
    pub fn line(&self) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Untried => "off: nothing is steered".to_owned(),
            State::Works => "on: connections of before are ended in a silent moment".to_owned(),
            State::Off { why, .. } => {
                format!("off: connections of before stay with kube-apiserver: {why}")
            }
        }
    }

    /// For the metric: whether it works, and a word for why not (empty if it works). `None`: not tried.
    pub fn sample(&self) -> Option<(bool, &'static str)> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Untried => None,
            State::Works => Some((true, "")),
            State::Off { code, .. } => Some((false, code)),
        }
    }
}

impl State {
    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Untried => None,
            Self::Works => Some(""),
            Self::Off { code, .. } => Some(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_last_is_said() {
        let retirable = Retirable::default();
        assert_eq!(retirable.sample(), None);
        assert!(!retirable.keep(Err(Off::NotLoaded)));
        assert_eq!(retirable.sample(), Some((false, "not_loaded")));
        let line = retirable.line();
        assert!(
            line.starts_with("off: connections of before stay") && line.contains("modprobe"),
            "{line}"
        );
        // An operator has loaded them meanwhile.
        assert!(retirable.clone().keep(Ok(())));
        assert_eq!(retirable.sample(), Some((true, "")));
        assert!(retirable.line().starts_with("on: "));
    }
}
