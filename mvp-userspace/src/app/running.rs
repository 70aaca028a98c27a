//! An agent that is up, until its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::history::Keeper;
use super::threads::DataThread;
use crate::net::{AcceptLoop, OnTick};
use crate::proxy::Shared;

/// Between a forced drain and the process's end, for the last log lines and RSTs to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What runs.
pub(super) struct Running {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub reload: Arc<Notify>,
    pub accept: AcceptLoop,
    pub on_tick: Option<OnTick>,
    /// The record of what happens here.
    pub keeper: Keeper,
    pub shared: Arc<Shared>,
    pub threads: Vec<DataThread>,
}

impl Running {
    /// Accepts connections until the agent drains, and returns when it has ended.
    pub(super) async fn run(self) {
        let Self {
            accept,
            shared,
            threads,
            on_tick,
            keeper,
            ..
        } = self;
        let (mut drain, metrics) = (shared.drain.clone(), Arc::clone(&shared.metrics));
        let mut forced = shared.drain.clone();
        let draining = async move {
            drain.draining().await;
        };
        accept
            .run(draining, |limit| metrics.refused(limit), on_tick)
            .await;
        tracing::info!("draining: the listener is closed");
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(DataThread::join));
        tokio::select! {
            _ = joined => {}
            () = async {
                forced.forced().await;
                tokio::time::sleep(LAST_WORDS).await;
            } => {}
        }
        // After the last request.
        let _ = tokio::task::spawn_blocking(move || keeper.close()).await;
        tracing::info!("drained");
    }
}
