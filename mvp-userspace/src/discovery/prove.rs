//! Asks servers whom they take this agent's users for, over connections of its own: they show what a new connection would meet.
//! What an answer proves is `identity::proof`'s.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::connection::{Dialer, DiscoveryConnection, DiscoveryResponse};
use super::entry::ServerEntry;
use super::fetch_error::FetchError;
use super::hub::Hub;
use crate::config::Endpoint;
use crate::identity::HeaderNames;
use crate::identity::proof::{
    AUTHENTICATION, BelievedNames, Challenge, ChallengeStage, Judgement, Learned, ProofFailure,
    PublishedNames, REVIEWS, ServerReply,
};
use crate::route::Failure;
use crate::tls::IdentityClass;

/// What proving takes beside a [`Dialer`], whose connections present the front-proxy certificate.
pub struct Prover {
    /// The configuration of connections without a certificate.
    pub bare: Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>,
    /// The header names by which users are asserted, as they are now.
    pub names: Box<dyn Fn() -> HeaderNames + Send + Sync>,
    /// A server that is proved is proved again so often, whatever happens: [`Self::EVERY`] outside tests.
    pub every: Duration,
    /// Is called whenever what servers publish may have changed, before any user is asserted to them.
    pub learn: Box<dyn Fn(Learned) + Send + Sync>,
    /// The likely cause of serving certificates that do not verify, if one can be named.
    pub tls_hint: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

impl Prover {
    /// A server of which everything is proved is asked again so often: its configuration may have changed since.
    pub const EVERY: Duration = Duration::from_secs(60);
}

/// A server that is not proved, or whose names cannot be read, is asked again so often.
const RETRY: Duration = Duration::from_secs(5);
/// No more often than this, however often it is asked for.
const SPACING: Duration = Duration::from_millis(500);
/// The ConfigMap holds two CA bundles.
const MAX_CONFIG_MAP: usize = 2 << 20;

/// When a server is to be proved.
#[derive(Debug, Default)]
pub(super) struct Due {
    attempted: Option<Instant>,
    wanted: bool,
}

impl Due {
    /// Soon, since something may have changed.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// When it is due; `None`: at once. `every`: for a server of which everything is proved and known, if it is one.
    pub(super) fn at(&self, every: Option<Duration>) -> Option<Instant> {
        let interval = match self.wanted {
            true => SPACING,
            false => every.unwrap_or(RETRY),
        };
        Some(self.attempted? + interval)
    }

    /// True if it may begin at once, and is not wanted already.
    pub(super) fn doubt(&self, now: Instant) -> bool {
        let spaced = |at: Instant| now.saturating_duration_since(at) >= SPACING;
        !self.wanted && self.attempted.is_none_or(spaced)
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.attempted = Some(now);
        self.wanted = false;
    }
}

/// Proves a server, publishes the result, and so allows or forbids requests to it. Waits for a proof that is under way, and then
/// proves it again.
pub(super) async fn prove(entry: &ServerEntry, hub: &Hub) {
    let Some(prover) = &hub.settings.prover else {
        return;
    };
    let _one_at_a_time = entry.proving.lock().await;
    entry.begin_proof();
    let challenge = Challenge::new(&(prover.names)());
    let dialer = &hub.settings.dialer;
    let without = Dialer {
        tls: Arc::clone(&prover.bare),
        ..dialer.clone()
    };
    let hint = &prover.tls_hint;
    let ((front_proxy, names), bare) = tokio::join!(
        over_front_proxy(entry, dialer, &challenge, hint),
        over_bare(entry, &without, &challenge, hint),
    );
    entry.judged(front_proxy, bare, names);
    // In this order: what a server believes is deleted from requests before anybody is asserted to it.
    hub.learn();
    entry.show_proofs();
    hub.judge();
}

/// Begins a proof beside whatever else goes on.
pub(super) fn start(entry: &Arc<ServerEntry>, hub: &Arc<Hub>) -> JoinHandle<()> {
    let (entry, hub) = (Arc::clone(entry), Arc::clone(hub));
    tokio::spawn(async move { prove(&entry, &hub).await })
}

/// Has a server proved whenever it is due, however seldom it is polled. Runs until dropped; `task` is the proof under way.
pub(super) async fn prove_in_time(
    task: &mut Option<JoinHandle<()>>,
    entry: &Arc<ServerEntry>,
    hub: &Arc<Hub>,
) {
    let mut judged = hub.judged.subscribe();
    loop {
        if let Some(under_way) = task {
            // An error: it was ended.
            let _ = under_way.await;
            *task = None;
        }
        let due = entry.proof_at(hub.proof_interval());
        tokio::select! {
            () = sleep_until(due.unwrap_or_else(Instant::now)) => {}
            // Somebody else may have proved it, or found it wanting.
            Ok(()) = judged.changed() => continue,
        }
        *task = Some(start(entry, hub));
    }
}

/// Has every server proved again when the published names may have changed. Runs until dropped.
pub(super) async fn renamed(hub: Arc<Hub>) {
    loop {
        hub.events.renamed.notified().await;
        hub.prove_all();
    }
}

impl Hub {
    /// Has every server proved at once, whatever its poller does.
    pub(super) fn prove_all(self: &Arc<Self>) {
        for entry in self.entries() {
            self.prove_soon(entry);
        }
    }

    /// Has one server proved, but not more often than it may be.
    pub(super) fn prove_soon(self: &Arc<Self>, entry: Arc<ServerEntry>) {
        entry.want_proof();
        let hub = Arc::clone(self);
        self.runtime().spawn(async move {
            if !hub.proof_due(&entry) {
                tokio::time::sleep(SPACING).await;
            }
            // Else somebody else has done it meanwhile.
            if hub.proof_due(&entry) {
                prove(&entry, &hub).await;
            }
        });
    }

    /// Whether a proof of this server may begin now.
    pub(super) fn proof_due(&self, entry: &ServerEntry) -> bool {
        let at = entry.proof_at(self.proof_interval());
        at.is_none_or(|at| Instant::now() >= at)
    }

    fn proof_interval(&self) -> Duration {
        let prover = self.settings.prover.as_ref();
        prover.map_or(Prover::EVERY, |prover| prover.every)
    }

    fn learn(&self) {
        let Some(prover) = &self.settings.prover else {
            return;
        };
        let names: Vec<BelievedNames> = self
            .entries()
            .iter()
            .map(|entry| entry.proofs().names)
            .collect();
        let servers = names.iter().filter_map(|names| match names {
            BelievedNames::Known(names) => Some(Some(names)),
            BelievedNames::Unreadable(_) => Some(None),
            // Nobody is asserted there.
            BelievedNames::Unknown => None,
        });
        (prover.learn)(Learned::union(servers));
    }
}

/// Whom the server at `endpoint` takes the challenge's user for, over a new connection.
pub async fn review(dialer: &Dialer, endpoint: &Endpoint, challenge: &Challenge) -> Judgement {
    match DiscoveryConnection::open(dialer, endpoint).await {
        Ok(connection) => judged(&connection, challenge, &|| None).await,
        Err(error) => failed(&error, &|| None),
    }
}

type Hint = dyn Fn() -> Option<String> + Send + Sync;

async fn over_front_proxy(
    entry: &ServerEntry,
    dialer: &Dialer,
    challenge: &Challenge,
    hint: &Hint,
) -> (Judgement, Option<BelievedNames>) {
    let connection = match DiscoveryConnection::open(dialer, &entry.endpoint).await {
        Ok(connection) => connection,
        Err(error) => return (failed(&error, hint), None),
    };
    tokio::join!(judged(&connection, challenge, hint), published(&connection))
}

async fn judged(connection: &DiscoveryConnection, challenge: &Challenge, hint: &Hint) -> Judgement {
    for stage in [ChallengeStage::Review, ChallengeStage::Path] {
        let judgement = match &ask(connection, challenge, stage).await {
            Ok(answer) => challenge.judge(stage, reply(answer)),
            Err(error) => failed(error, hint),
        };
        if judgement != Judgement::AskByPath {
            return judgement;
        }
    }
    Judgement::AskByPath
}

/// A connection for each question: a server ends one over which it answered somebody unauthenticated.
async fn over_bare(
    entry: &ServerEntry,
    dialer: &Dialer,
    challenge: &Challenge,
    hint: &Hint,
) -> Judgement {
    for stage in [ChallengeStage::Review, ChallengeStage::Path] {
        let answer = async {
            let connection = DiscoveryConnection::open(dialer, &entry.endpoint).await?;
            ask(&connection, challenge, stage).await
        };
        let judgement = match answer.await {
            Ok(answer) => challenge.judge_bare(stage, reply(&answer)),
            Err(error) => failed(&error, hint),
        };
        if judgement != Judgement::AskByPath {
            return judgement;
        }
    }
    Judgement::AskByPath
}

async fn ask(
    connection: &DiscoveryConnection,
    challenge: &Challenge,
    stage: ChallengeStage,
) -> Result<DiscoveryResponse, FetchError> {
    match stage {
        ChallengeStage::Review => {
            let (headers, body) = (challenge.headers(), Challenge::review());
            connection.ask(REVIEWS, &headers, Some(body)).await
        }
        ChallengeStage::Path => {
            let (path, headers) = (challenge.path(), challenge.path_headers());
            connection.ask(&path, &headers, None).await
        }
    }
}

/// What the server publishes; `None`: it could not say now.
async fn published(connection: &DiscoveryConnection) -> Option<BelievedNames> {
    let asked = connection.get(AUTHENTICATION, "application/json", None, MAX_CONFIG_MAP);
    let answer = match asked.await {
        Ok(answer) => answer,
        Err(FetchError::TooLarge { limit, .. }) => {
            return Some(BelievedNames::Unreadable(format!(
                "it holds more than {limit} bytes"
            )));
        }
        Err(_) => return None,
    };
    match answer.status {
        StatusCode::OK => Some(match PublishedNames::read(&answer.body) {
            Ok(names) => BelievedNames::Known(names),
            Err(reason) => BelievedNames::Unreadable(reason),
        }),
        // An agent that is not accepted learns nothing here; the proof itself reports that.
        StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => None,
        status if status.is_server_error() => None,
        StatusCode::NOT_FOUND => Some(BelievedNames::Unreadable(
            "there is no ConfigMap kube-system/extension-apiserver-authentication".to_owned(),
        )),
        status => Some(BelievedNames::Unreadable(format!(
            "ConfigMap kube-system/extension-apiserver-authentication: {} (may User system:mvp read it? see deploy/rbac.yaml)",
            status.as_u16()
        ))),
    }
}

fn reply(answer: &DiscoveryResponse) -> ServerReply<'_> {
    ServerReply {
        status: answer.status,
        body: &answer.body,
    }
}

fn failed(error: &FetchError, hint: &Hint) -> Judgement {
    if error.failure() != Some(Failure::Tls) {
        return Judgement::Unanswered(error.to_string());
    }
    let mut why = error.to_string();
    let unknown = ["UnknownIssuer", "BadSignature"]
        .iter()
        .any(|kind| why.contains(kind));
    if unknown && let Some(hint) = hint() {
        why = format!("{why}; {hint}");
    }
    Judgement::Refused(ProofFailure::Tls(why))
}

/// The classes, each with whether a server with these proofs may be sent requests of it.
pub(super) fn classes(proofs: &crate::identity::proof::Proofs) -> [(IdentityClass, bool); 2] {
    [
        (IdentityClass::FrontProxy, proofs.asserts()),
        (IdentityClass::Bare, proofs.passes_tokens()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Due {
        fn now(&self, every: Option<Duration>, now: Instant) -> bool {
            self.at(every).is_none_or(|at| now >= at)
        }
    }

    #[test]
    fn due_at_once_then_in_its_time_and_when_wanted() {
        let start = Instant::now();
        let (sound, unsound) = (Some(Prover::EVERY), None);
        let mut due = Due::default();
        assert!(due.now(sound, start));
        due.begin(start);
        let after = |due: &Due, every, seconds: f64| {
            due.now(every, start + Duration::from_secs_f64(seconds))
        };
        assert!(!after(&due, sound, 59.0) && after(&due, sound, 60.0));
        assert!(!after(&due, unsound, 4.9) && after(&due, unsound, 5.0));
        let doubt = |due: &Due, seconds| due.doubt(start + Duration::from_secs_f64(seconds));
        assert!(!doubt(&due, 0.4) && doubt(&due, 0.5));
        due.want();
        assert!(!doubt(&due, 0.5), "it is wanted already");
        assert!(!after(&due, sound, 0.4) && after(&due, sound, 0.5));
        due.begin(start);
        assert!(!after(&due, sound, 1.0), "it is wanted no more");
    }
}
