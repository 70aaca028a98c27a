//! The proof of the servers in a running agent: what proves, what follows a replaced certificate, and what becomes of the agent while
//! its local server is not proved.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::config::Config;
use crate::discovery::{DiscoveryHandle, PollTrouble, Prover, ServerStatus};
use crate::identity::proof::{LocalFacts, OwnPair, OwnUser, local_unproved};
use crate::identity::{HeaderNames, TrustCell};
use crate::readiness::{PassingBy, PassingReasons};
use crate::tls::{Alpn, ClientTls, IdentityClass};

/// The outcome may change without an event: a certificate expires.
const LOOK: Duration = Duration::from_secs(5);

/// How often an agent that is to take over looks whether it may, and how long it waits for that.
const TAKE_OVER_LOOK: Duration = Duration::from_millis(20);
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(15);

/// What proves servers, and whom the agent asks as.
pub(super) fn prover(
    config: &Config,
    client_tls: &Arc<ClientTls>,
    trust: &Arc<TrustCell>,
) -> anyhow::Result<(Prover, OwnUser)> {
    let names = HeaderNames::new(config.request_header.as_ref())?;
    let own = OwnUser::new(&names).context("requestHeader")?;
    let named = trust.named();
    let (bare, learning) = (Arc::clone(client_tls), Arc::clone(trust));
    let (hinting, trusted) = (Arc::clone(client_tls), Arc::clone(trust));
    let prover = Prover {
        bare: Arc::new(move || bare.config(IdentityClass::Bare, Alpn::H2OrHttp1)),
        names: Box::new(move || named.borrow().clone()),
        every: Prover::EVERY,
        learn: Box::new(move |learned| learning.learn(learned)),
        tls_hint: Box::new(move || client_only_ca(&hinting, &trusted)),
    };
    // A pair that is a user's, or nobody's, is not taken into use either when it comes by a reload.
    let trusting = Arc::clone(trust);
    client_tls.check_pairs(Box::new(move |chain| {
        let fits = trusting.load().fits_front_proxy(chain);
        fits.map_err(|unfit| unfit.to_string())
    }));
    Ok((prover, own))
}

/// What is proved is proved anew whenever a file brings something new into use, or a manifest other names of headers, by which the
/// agent then speaks of itself too. Runs until dropped.
pub(super) async fn after_reloads(
    discovery: DiscoveryHandle,
    client_tls: Arc<ClientTls>,
    trust: Arc<TrustCell>,
    own: OwnUser,
) {
    let (mut replaced, mut named) = (client_tls.replaced(), trust.named());
    loop {
        let changed = tokio::select! {
            changed = replaced.changed() => changed,
            changed = named.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        if let Err(error) = own.rename(&named.borrow()) {
            tracing::error!(%error, "requestHeader: the agent keeps using the previous names for its own requests");
        }
        discovery.prove_all();
    }
}

/// Says in `standing` whether this agent may take connections as far as its local server is concerned, and in `leave` whether
/// those that are here are to go. Runs until dropped. `steered`: who leaves comes to kube-apiserver itself.
pub(super) async fn keep(
    discovery: DiscoveryHandle,
    client_tls: Arc<ClientTls>,
    standing: PassingReasons,
    leave: watch::Sender<bool>,
    steered: bool,
) {
    let mut judged = discovery.judged();
    loop {
        judged.borrow_and_update();
        let detail = unproved(&discovery.status(), own_pair(&client_tls));
        let leaves = steered && detail.is_some();
        standing.put(PassingBy::LocalUnproved, detail);
        let told = leave.send_if_modified(|before| {
            let changed = *before != leaves;
            *before = leaves;
            changed
        });
        if told && leaves {
            tracing::warn!("clients are asked to leave: they come to kube-apiserver itself");
        }
        // An error: discovery has ended, and the agent with it.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK, judged.changed()).await {
            return;
        }
    }
}

/// Waits until this agent serves as well as the one that it replaces: nothing speaks against taking connections, and of each server it
/// is known whether it accepts this agent. Without the second, the first requests for what only another server has would fail. Returns
/// after [`TAKE_OVER_WITHIN`] in any case, since an agent that its servers do not accept gets no better by waiting.
pub(super) async fn awaited(
    discovery: &DiscoveryHandle,
    client_tls: &ClientTls,
    standing: &PassingReasons,
) {
    let fit = async {
        while standing.first().is_some() || !judged(&discovery.status(), own_pair(client_tls)) {
            tokio::time::sleep(TAKE_OVER_LOOK).await;
        }
    };
    if tokio::time::timeout(TAKE_OVER_WITHIN, fit).await.is_err() {
        tracing::warn!(
            within = ?TAKE_OVER_WITHIN,
            "this agent replaces the one before it, although its servers are not all proved"
        );
    }
}

/// Whether everything was found out about each server that can be had for now. A server in trouble is not waited for.
fn judged(servers: &[ServerStatus], pair: OwnPair) -> bool {
    servers.iter().all(|server| {
        let proofs = &server.proofs;
        let asserted = pair != OwnPair::Valid || proofs.refuses() || proofs.asserts();
        server.trouble != PollTrouble::None || (proofs.bare.is_known() && asserted)
    })
}

fn unproved(servers: &[ServerStatus], pair: OwnPair) -> Option<String> {
    let local = servers.iter().find(|server| server.local)?;
    let mut peers = servers.iter().filter(|server| !server.local);
    local_unproved(&LocalFacts {
        name: &local.name,
        proofs: &local.proofs,
        discovery_refused: match &local.trouble {
            PollTrouble::Refused(why) => Some(why),
            _ => None,
        },
        unreachable: local.trouble == PollTrouble::Unreachable,
        peer_proved: peers.any(|peer| peer.proofs.asserts() && peer.proofs.passes_tokens()),
        pair,
    })
}

fn own_pair(client_tls: &ClientTls) -> OwnPair {
    let Some((_, not_after)) = client_tls.client_validity() else {
        return OwnPair::Absent;
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let end = Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
    match now.checked_sub(end) {
        Some(ago) if !ago.is_zero() => OwnPair::Expired(ago),
        _ => OwnPair::Valid,
    }
}

/// k3s and RKE2 sign client certificates and serving certificates with CAs of their own, and `--client-ca-file` names the first.
fn client_only_ca(client_tls: &ClientTls, trust: &TrustCell) -> Option<String> {
    let clients = trust.client_ca();
    let roots = client_tls.roots();
    roots.iter().all(|root| clients.contains(root)).then(|| {
        "upstream.caFile holds nothing but the CA of clientCAFile, which with k3s and RKE2 signs client certificates only: name the \
         CA of the serving certificates there (server-ca.crt), or by --peer-ca-file"
            .to_owned()
    })
}
