//! Who serves what, as each server's aggregated discovery says, requested once per second.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Result, ensure};
use http::{Request, header};
use http_body_util::{BodyExt as _, Either, Empty};

use super::link::Link;
use super::request::{Forwarder, PEER_PROXIED};
use crate::bench::target::SERVER_NAME;
use crate::upgrade::caller::types;

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const INTERVAL: Duration = Duration::from_secs(1);

/// `GROUP/VERSION/RESOURCE` of each server: the own one first, then the others in the order in which they were given.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<RwLock<Vec<BTreeSet<String>>>>);

impl Known {
    /// The places of the servers that serve it; `None`: nothing is known yet.
    pub(super) fn who(&self, kind: &str) -> Option<Vec<usize>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return None;
        }
        let serving = all.iter().enumerate().filter(|(_, of)| of.contains(kind));
        Some(serving.map(|(place, _)| place).collect())
    }

    /// Asks all servers again and again. What a server said last stays while it does not answer: the native proxy's own memory does too.
    pub(super) async fn follow(self, this: Arc<Forwarder>) {
        let mut tick = tokio::time::interval(INTERVAL);
        loop {
            tick.tick().await;
            let mut all = self
                .0
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            all.resize(1 + this.peers.len(), BTreeSet::new());
            for (place, link) in std::iter::once(&this.own).chain(&this.peers).enumerate() {
                if let Ok(types) = ask(link).await {
                    all[place] = types;
                }
            }
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
        }
    }
}

async fn ask(link: &Link) -> Result<BTreeSet<String>> {
    let request = Request::get(format!("https://{SERVER_NAME}/apis"))
        .header(header::ACCEPT, DISCOVERY)
        .header("x-remote-user", "system:mvp-native")
        .header("x-remote-group", "system:masters")
        .header(PEER_PROXIED, "true")
        .body(Either::Right(Empty::new()))?;
    let response = link.send(request).await?;
    ensure!(response.status() == 200, "{}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    Ok(types(&serde_json::from_slice(&body)?))
}
