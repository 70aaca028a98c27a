//! The one access line of a connection that is forwarded whole, written at its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::registry::{EndReason, ForwardedKind, WholeConnection};
use crate::metrics::Metrics;
use crate::splice::{End, Mode, PairOutcome};

/// Written when dropped, so that a connection that is cut by the agent's own end is logged as well.
pub(super) struct Record {
    carried: Arc<WholeConnection>,
    metrics: Arc<Metrics>,
    server_address: Option<SocketAddr>,
    mode: Mode,
    started: Instant,
    outcome: Option<PairOutcome>,
}

impl Record {
    pub(super) fn start(
        carried: &Arc<WholeConnection>,
        metrics: &Arc<Metrics>,
        server_address: Option<SocketAddr>,
        mode: Mode,
    ) -> Self {
        Self {
            carried: Arc::clone(carried),
            metrics: Arc::clone(metrics),
            server_address,
            mode,
            started: Instant::now(),
            outcome: None,
        }
    }

    pub(super) fn end(&mut self, outcome: PairOutcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let carried = &self.carried;
        let ending = carried.ending();
        let stopped = self
            .outcome
            .is_none_or(|outcome| outcome.ends.contains(&End::Stopped));
        let ended = match (stopped, ending, &self.outcome) {
            (true, Some(ending), _) => {
                match ending {
                    EndReason::Retired(reason) => self.metrics.relay_retired(reason.as_str()),
                    EndReason::Inspected => self.metrics.relay_retired(ending.as_str()),
                }
                ending.as_str()
            }
            (true, None, _) => "cut",
            (false, _, Some(outcome)) if outcome.ends == [End::Broken, End::Reset] => {
                "client_broke"
            }
            (false, _, Some(outcome)) if outcome.ends == [End::Reset, End::Broken] => {
                "server_broke"
            }
            (false, ..) => "complete",
        };
        let [received, sent] = match &self.outcome {
            Some(outcome) => outcome.bytes,
            None => carried.look(Instant::now()).0,
        };
        tracing::info!(
            target: "access",
            client = %carried.client,
            decision = match carried.kind {
                ForwardedKind::Relay { .. } => "relayed",
                ForwardedKind::PassThrough => "passed_through",
            },
            server = %carried.server.name,
            server_address = self.server_address.map(tracing::field::display),
            server_name = carried.server_name.as_deref(),
            mode = self.outcome.map_or(self.mode, |outcome| outcome.mode).name(),
            received,
            sent,
            total_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            ended,
        );
    }
}
