//! Requests of the agent's own that an operator asks for: a server's own answer to a probe, and the canary, which goes the ways that
//! clients' requests go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::views::{Sources, millis};
use crate::admin::{CanaryOutcome, CanaryView, LegView, ServerResponse, ServerResponseError};
use crate::config::Endpoint;
use crate::discovery::{Dialer, review};
use crate::identity::proof::{Challenge, Judgement};
use crate::proxy::probe;

/// A server that takes longer to say its version is no server to upgrade beside.
const ANSWER: Duration = Duration::from_secs(5);
/// What every server tells everybody whom it knows.
const VERSION: &str = "/version";

/// How the agent comes to its own listener.
pub(super) struct Canary {
    /// `None`: there is no front-proxy pair.
    pub dialer: Option<Dialer>,
    pub listen: SocketAddr,
}

/// A server's own answer.
pub(super) async fn probe_view(
    sources: &Sources,
    name: &str,
    path: &str,
) -> Result<ServerResponse, ServerResponseError> {
    let table = sources.discovery.table();
    let member = table
        .members()
        .iter()
        .find(|member| *member.server.name == *name)
        .ok_or(ServerResponseError::UnknownServer)?;
    let response = probe(&sources.pool, &member.server, path, &sources.own)
        .await
        .map_err(|error| ServerResponseError::Unreachable(error.to_string()))?;
    let content_type = response.headers().get(http::header::CONTENT_TYPE);
    Ok(ServerResponse {
        status: response.status().as_u16(),
        content_type: content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or("text/plain")
            .to_owned(),
        body: response.into_body(),
    })
}

/// Every way at once: as a client through this agent's listener, and from the agent to each server.
pub(super) async fn canary(sources: Arc<Sources>) -> CanaryView {
    let mut legs = JoinSet::new();
    for server in sources.discovery.status() {
        let sources = Arc::clone(&sources);
        legs.spawn(async move {
            let leg = to_server(&sources, &server.name).await;
            (server.name, leg)
        });
    }
    let listener = through_listener(&sources).await;
    let servers = legs.join_all().await;
    CanaryView {
        listener,
        servers: servers.into_iter().collect(),
    }
}

/// A request that the agent answers with what a server said: whom that server takes the asker for. It shows that the listener accepts,
/// shows a certificate, knows who is asking, and forwards.
async fn through_listener(sources: &Sources) -> LegView {
    let not_asked = |why: &str| LegView {
        outcome: CanaryOutcome::NotAsked,
        took_ms: 0,
        detail: why.to_owned(),
    };
    let Canary { dialer, listen } = &sources.canary;
    let Some(dialer) = dialer else {
        return not_asked("there is no front-proxy pair to ask with (upstream.clientCertFile)");
    };
    if sources.config.request_header.is_none() {
        return not_asked("the agent believes no front proxy (requestHeader.clientCAFile)");
    }
    let host = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let endpoint = Endpoint {
        name: sources.config.node.clone(),
        host: host.to_string(),
        port: listen.port(),
    };
    let names = sources.shared.trust.named().borrow().clone();
    let began = Instant::now();
    let judgement = review(dialer, &endpoint, &Challenge::new(&names)).await;
    let (outcome, detail) = match judgement {
        Judgement::Proved(_) => (
            CanaryOutcome::Ok,
            "a server answered, and knew the user who asked".to_owned(),
        ),
        Judgement::Refused(finding) => (CanaryOutcome::Failed, finding.to_string()),
        Judgement::Unanswered(why) => (CanaryOutcome::Failed, why),
        Judgement::AskByPath => (
            CanaryOutcome::Failed,
            "the answer does not say who asked".to_owned(),
        ),
    };
    LegView {
        outcome,
        took_ms: millis(began.elapsed()),
        detail,
    }
}

async fn to_server(sources: &Sources, name: &str) -> LegView {
    let began = Instant::now();
    let asked = tokio::time::timeout(ANSWER, probe_view(sources, name, VERSION)).await;
    let (outcome, detail) = match asked {
        Ok(Ok(answer)) if answer.status == 200 => {
            (CanaryOutcome::Ok, "it told its version".to_owned())
        }
        Ok(Ok(answer)) => (
            CanaryOutcome::Failed,
            format!("it answered {} for {VERSION}", answer.status),
        ),
        Ok(Err(error)) => (CanaryOutcome::Failed, error.to_string()),
        Err(_) => (
            CanaryOutcome::Failed,
            format!("no answer within {ANSWER:?}"),
        ),
    };
    LegView {
        outcome,
        took_ms: millis(began.elapsed()),
        detail,
    }
}
