//! Discovery at the agent's start: how servers are asked, and what waits for their first answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Endpoint};
use crate::discovery::{Dialer, Discovery, DiscoveryHandle, HubSettings, Prover, SyncCounters};
use crate::identity::proof::OwnUser;
use crate::membership::Reader;
use crate::net::DialFrom;
use crate::readiness::Readiness;
use crate::readiness::{PassingBy, PassingReasons};
use crate::steering::{self, Cluster, GuardHandle};
use crate::tls::{Alpn, ClientTls, IdentityClass};

/// How servers are asked and proved.
pub(super) struct Asking<'a> {
    pub client_tls: &'a Arc<ClientTls>,
    pub prover: Prover,
    pub own: OwnUser,
}

pub(super) fn start_discovery(
    config: &Config,
    asking: Asking<'_>,
    counters: &Arc<SyncCounters>,
    from: DialFrom,
    (members, restarts): (
        watch::Receiver<Arc<Vec<Endpoint>>>,
        mpsc::Receiver<Option<Endpoint>>,
    ),
) -> anyhow::Result<DiscoveryHandle> {
    let mut settings = settings(config, asking.client_tls, asking.own, from)?;
    settings.prover = Some(Arc::new(asking.prover));
    let runtime = tokio::runtime::Handle::current();
    Ok(Discovery::start(
        settings,
        config.local.clone(),
        members,
        restarts,
        Arc::clone(counters),
        &runtime,
    ))
}

fn settings(
    config: &Config,
    client_tls: &Arc<ClientTls>,
    own: OwnUser,
    from: DialFrom,
) -> anyhow::Result<HubSettings> {
    let tls = Arc::clone(client_tls);
    HubSettings::new(
        &config.discovery,
        &config.upstream,
        from,
        Arc::new(move || tls.config(IdentityClass::FrontProxy, Alpn::H2OrHttp1)),
        own,
    )
    .context("upstream.serverName")
}

/// How the list of servers is read; `None` without a front-proxy pair.
pub(super) fn membership_dialer(
    config: &Config,
    client_tls: &Arc<ClientTls>,
    own: &OwnUser,
) -> anyhow::Result<Option<Dialer>> {
    if config.upstream.client.is_none() {
        return Ok(None);
    }
    let from = steering::way_to_servers(config);
    Ok(Some(
        settings(config, client_tls, own.clone(), from)?.dialer,
    ))
}

/// Passes on which servers were restarted, also to the guard.
pub(super) fn tell_guard(
    mut restarts: mpsc::Receiver<Option<Endpoint>>,
    guard: GuardHandle,
) -> mpsc::Receiver<Option<Endpoint>> {
    let (sender, receiver) = mpsc::channel(restarts.max_capacity());
    tokio::spawn(async move {
        while let Some(restarted) = restarts.recv().await {
            guard.lease_changed();
            if sender.send(restarted).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Signs are published to other agents, and read from them, through the reader of the list of servers.
pub(super) fn share_signs(config: &Config, reader: Reader, guard: GuardHandle) -> Cluster {
    let (cluster, speaking) = Cluster::new(&config.node);
    tokio::spawn(steering::follow(
        reader.client(),
        cluster.clone(),
        guard,
        speaking,
    ));
    cluster
}

/// The agent is ready once it has asked every server. Those it knows at its start are awaited by name. The answer becomes true
/// at the end of the first round.
pub(super) fn await_first_round(
    readiness: &Readiness,
    standing: &PassingReasons,
    discovery: &DiscoveryHandle,
) -> Arc<AtomicBool> {
    let known = Arc::new(AtomicBool::new(false));
    let when_known = Arc::clone(&known);
    let all = readiness.register("discovery: first round of all servers");
    let mut unasked = discovery.unasked();
    let mut each: Vec<_> = unasked
        .borrow()
        .iter()
        .map(|name| {
            let task = readiness.register(format!("discovery: first round of {name}"));
            (name.clone(), task)
        })
        .collect();
    tokio::spawn(async move {
        while !each.is_empty() && unasked.changed().await.is_ok() {
            let left = unasked.borrow_and_update();
            each.retain(|(name, _)| left.contains(name));
        }
    });
    let done = discovery.first_round_done();
    let standing = standing.clone();
    tokio::spawn(async move {
        done.await;
        standing.clear(PassingBy::Starting);
        when_known.store(true, Ordering::Relaxed);
        all.done();
    });
    known
}
