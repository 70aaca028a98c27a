//! The states of the agents' guards, looked at while an upgrade goes on.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::nodes::{Agent, Cluster};

/// From this moment on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct State {
    /// Seconds since the load began.
    pub at: f64,
    pub node: String,
    /// `idle`, `armed`, or `unknown` when the agent did not say.
    pub state: String,
}

const LOOK: Duration = Duration::from_millis(100);

pub(super) struct Sampler {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Vec<State>>,
}

impl Sampler {
    pub(super) fn start(agents: &Arc<Vec<Agent>>, cluster: &Cluster, start: Instant) -> Self {
        let agents = Arc::clone(agents);
        let nodes: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut states = Vec::new();
            loop {
                for (agent, node) in agents.iter().zip(&nodes) {
                    note(&mut states, start.elapsed(), node, &state(agent));
                }
                match stopped.recv_timeout(LOOK) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return states,
                }
            }
        });
        Self { stop, thread }
    }

    pub(super) fn finish(self) -> Vec<State> {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn state(agent: &Agent) -> String {
    let answer = agent
        .admin("GET", "/status")
        .filter(|(status, _)| *status == 200);
    let status: Option<Value> = answer.and_then(|(_, body)| serde_json::from_str(&body).ok());
    let state = status.and_then(|status| status["guard"]["state"].as_str().map(str::to_owned));
    state.unwrap_or_else(|| String::from("unknown"))
}

/// Adds it if it is another than the node's last one.
fn note(states: &mut Vec<State>, at: Duration, node: &str, state: &str) {
    let last = states.iter().rev().find(|last| last.node == node);
    if last.is_none_or(|last| last.state != state) {
        states.push(State {
            at: at.as_secs_f64(),
            node: node.into(),
            state: state.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_kept() {
        let mut states = Vec::new();
        for (at, node, state) in [
            (0, "a", "idle"),
            (0, "b", "idle"),
            (1, "a", "idle"),
            (2, "b", "armed"),
            (3, "a", "armed"),
            (4, "b", "armed"),
        ] {
            note(&mut states, Duration::from_secs(at), node, state);
        }
        let seen: Vec<_> = states
            .iter()
            .map(|one| (one.at, one.node.as_str(), one.state.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (0.0, "a", "idle"),
                (0.0, "b", "idle"),
                (2.0, "b", "armed"),
                (3.0, "a", "armed")
            ]
        );
    }
}
