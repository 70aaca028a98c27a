//! What a request's attempts cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::route::{Reason, Server};

/// What the attempts cost; also valid when they failed, and while one is under way.
#[derive(Debug, Default)]
pub struct Trace {
    pub attempts: u32,
    /// The server of the last attempt, and why it was chosen.
    pub asked: Option<(Arc<Server>, Reason)>,
    answered: Duration,
    sent: Option<Instant>,
}

impl Trace {
    /// Time the servers took to answer, without connecting; up to now if one still has not.
    pub fn server_time(&self) -> Duration {
        self.answered + self.sent.map_or(Duration::ZERO, |sent| sent.elapsed())
    }

    /// True while a server works at the request.
    pub fn is_under_way(&self) -> bool {
        self.sent.is_some()
    }

    pub(super) fn ask(&mut self, server: &Arc<Server>, reason: Reason) {
        self.attempts += 1;
        self.asked = Some((Arc::clone(server), reason));
    }

    pub(super) fn sent(&mut self) {
        self.sent = Some(Instant::now());
    }

    /// The attempt is over, whatever came of it.
    pub(super) fn ended(&mut self) {
        self.answered = self.server_time();
        self.sent = None;
    }
}
