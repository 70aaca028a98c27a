//! The Lease that all agents share: watched, and written when there is something to say.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Cluster, Order, lock};
use crate::membership::events;
use crate::steering::GuardHandle;

/// Where it is.
pub(super) const NAMESPACE: &str = "kube-system";
/// Its name.
pub(super) const NAME: &str = "mvp";
/// Longest wait before a failed watch is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// How often a write that fails is tried: a server may be restarting at this moment, but a sign that arrives late helps nobody.
const TRIES: u32 = 4;
/// Before the second try, then twice as long each time.
const PAUSE: Duration = Duration::from_millis(200);

/// What the agent wants to say.
pub struct Speaking(pub(super) mpsc::Receiver<Order>);

/// Changes nothing, and finds out whether the agent may.
///
/// # Errors
/// Why not, and what to look at.
pub(crate) async fn try_out(client: Client) -> Result<(), String> {
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let api = Api::<Lease>::namespaced(client, NAMESPACE);
    write(&api, &params, &json!({"metadata": {}})).await
}

/// Follows the Lease and writes what is to be said, for as long as the agent runs.
pub(crate) async fn follow(
    client: Client,
    cluster: Cluster,
    guard: GuardHandle,
    speaking: Speaking,
) {
    let api = Api::<Lease>::namespaced(client, NAMESPACE);
    tokio::join!(
        listen(api.clone(), &cluster, &guard),
        speak(api, &cluster, speaking)
    );
}

async fn listen(api: Api<Lease>, cluster: &Cluster, guard: &GuardHandle) {
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut events = pin!(events(api, config, RETRY));
    let mut listed = None;
    while let Some(event) = events.next().await {
        let lease = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(lease)) => {
                listed = Some(lease);
                continue;
            }
            Ok(Event::InitDone) => listed.take(),
            Ok(Event::Apply(lease)) => Some(lease),
            Ok(Event::Delete(_)) => None,
            Err(error) => {
                lock(&cluster.0.trouble).reading = Some(error.to_string());
                continue;
            }
        };
        lock(&cluster.0.trouble).reading = match &lease {
            Some(_) => None,
            None => Some(MISSING.to_owned()),
        };
        let annotations = lease.and_then(|lease| lease.metadata.annotations);
        cluster.heard(&annotations.unwrap_or_default());
        guard.look_again();
    }
}

async fn speak(api: Api<Lease>, cluster: &Cluster, mut speaking: Speaking) {
    while let Some(order) = speaking.0.recv().await {
        let (key, announcement) = cluster.announcement_for(&order);
        let patch = json!({"metadata": {"annotations": {key: announcement.map(|announcement| json!(announcement).to_string())}}});
        let done = write(&api, &PatchParams::default(), &patch).await;
        let count = match &done {
            Ok(()) => &cluster.0.counts.told,
            Err(why) => {
                tracing::warn!(
                    why,
                    "the Lease through which agents inform each other cannot be written"
                );
                &cluster.0.counts.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        lock(&cluster.0.trouble).writing = done.clone().err();
        if let Order::Operator(_, answer) = order {
            // It may not want to know any more.
            let _ = answer.send(done);
        }
    }
}

async fn write(api: &Api<Lease>, params: &PatchParams, patch: &Value) -> Result<(), String> {
    let patch = Patch::Merge(patch);
    let (mut tried, mut pause) = (0, PAUSE);
    loop {
        let error = match api.patch(NAME, params, &patch).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(MISSING.to_owned()),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                return Err(format!("{} (deploy/rbac.yaml grants it)", status.message));
            }
            Err(error) => error,
        };
        tried += 1;
        if tried == TRIES {
            return Err(error.to_string());
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

const MISSING: &str = "it is not there (deploy/rbac.yaml makes it)";
