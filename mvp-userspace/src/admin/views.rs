//! What the admin port shows, as types: the agent fills them, `mvp status|servers|routes|explain` reads them.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::SkewView;
use crate::history::{HistoryView, Report, TrafficView};
use crate::steering::{ClusterOrder, GuardView, Operator, RetireView, Stance};

/// How the admin port sees the agent. Closures are called on the control runtime and must not block.
pub struct Views {
    /// `ready`, `awaiting`, `drain` are filled in by the admin port.
    pub status: Box<dyn Fn() -> StatusView + Send + Sync>,
    pub servers: Box<dyn Fn() -> Vec<ServerView> + Send + Sync>,
    pub routes: Box<dyn Fn() -> Vec<RouteView> + Send + Sync>,
    pub skew: Box<dyn Fn() -> SkewView + Send + Sync>,
    /// What is known of so much time until now.
    pub history: Box<dyn Fn(Duration) -> HistoryView + Send + Sync>,
    pub report: Box<dyn Fn(Duration) -> Report + Send + Sync>,
    /// Method and request target (path with query). The error is the asker's and says what is wrong.
    pub explain: Box<ExplainFn>,
    /// A client's address and the name it asks for in TLS.
    pub explain_connection: Box<ExplainConnectionFn>,
    /// The scrape, with its media type.
    pub metrics: Box<dyn Fn() -> (&'static str, String) + Send + Sync>,
    /// Names of the loops that make no progress; empty: alive.
    pub stalled: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Server name, and path with query, `/readyz?verbose`.
    pub probe: Box<dyn Fn(String, String) -> ProbeFuture + Send + Sync>,
    /// A request of the agent's own by every way that clients' requests go.
    pub canary: Box<dyn Fn() -> CanaryFuture + Send + Sync>,
    /// A level (`debug`) or a filter (`mvp=debug,access=off`).
    pub set_log_level: Box<SetLogLevelFn>,
    /// Takes an operator's command and returns the state that the guard then has.
    pub guard: Box<dyn Fn(Operator) -> GuardView + Send + Sync>,
    /// Says an operator's word to all agents. The line says what then holds.
    pub cluster: Box<dyn Fn(ClusterOrder) -> ClusterFuture + Send + Sync>,
    /// Has connections of before ended now; `None` if no retirement is under way.
    pub retire: Box<dyn Fn() -> Option<RetireView> + Send + Sync>,
}

pub type ExplainFn = dyn Fn(&str, &str) -> Result<ExplainView, String> + Send + Sync;
pub type ExplainConnectionFn = dyn Fn(IpAddr, Option<&str>) -> ConnectionView + Send + Sync;
pub type SetLogLevelFn = dyn Fn(&str) -> Result<(), String> + Send + Sync;
pub type ClusterFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;
pub type CanaryFuture = Pin<Box<dyn Future<Output = CanaryView> + Send>>;
pub type ProbeFuture = Pin<Box<dyn Future<Output = Result<Probe, ProbeError>> + Send>>;

/// A server's own answer.
#[derive(Clone, Debug)]
pub struct Probe {
    pub status: u16,
    pub content_type: String,
    pub body: Bytes,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProbeError {
    #[error("no server has this name; mvp servers lists them")]
    UnknownServer,
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    pub node: String,
    /// The agent's.
    pub version: String,
    pub uptime_ms: u64,
    pub ready: bool,
    /// Tasks still awaited before the agent is ready.
    pub awaiting: Vec<String>,
    /// `running`, `draining` or `forced`.
    pub drain: String,
    /// What becomes of new connections, by the kernel's own maps.
    #[serde(default)]
    pub stance: StanceView,
    pub guard: GuardView,
    /// How agents inform each other of signs, and the last annotation.
    #[serde(default)]
    pub cluster: String,
    /// How changes of definitions and APIServices come to be known: `watching`, `polling only: <reason>`, `starting`.
    pub events: String,
    /// The identity by which the list of servers is read.
    #[serde(default)]
    pub members: String,
    /// Where the list of servers comes from, and what is wrong with it.
    #[serde(default)]
    pub membership: String,
    /// Whether kube-apiserver's manifest is followed, and what came of it.
    #[serde(default)]
    pub manifest: String,
    /// Something in it takes effect only when the agent is started again.
    #[serde(default)]
    pub restart_needed: bool,
    /// What the agent does at this moment.
    #[serde(default)]
    pub traffic: TrafficView,
    /// What of the kernel part is loaded, or why not.
    pub kernel: String,
    /// Whether connections made before the guard armed can be ended, and why not.
    #[serde(default)]
    pub retiring: String,
    /// What has become of them.
    #[serde(default)]
    pub retirement: RetireView,
    /// Whether clients' connections to the agent are handed to the local server whole, and why.
    pub pass_through: String,
    /// Whether the agent's connections to the local server take the short-cut, and why.
    pub shortcut: String,
    pub listen: String,
    /// False: `--feature-gates=UnknownVersionInteroperabilityProxy=false`, everything is answered locally.
    pub interoperability_proxy: bool,
    /// [`crate::config::Config::digest`].
    pub config_digest: String,
    pub connections: u64,
    /// Requests under way.
    pub streams: u64,
    pub upgrades: u64,
    pub relay: RelayView,
    pub threads: Vec<ThreadView>,
    pub certificates: Vec<CertificateView>,
    pub servers: Vec<ServerView>,
}

/// What becomes of new connections: the one answer that an operator can trust.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StanceView {
    /// `inspecting`, `standing by` or `passing by`.
    pub word: String,
    /// Why they pass by, the reason to look at first being first; empty unless they do.
    pub reasons: Vec<ReasonView>,
    /// All of it in one line.
    pub line: String,
}

/// A reason for which connections pass to kube-apiserver itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReasonView {
    /// The reason as in `mvp_passing_by`.
    pub reason: String,
    pub detail: String,
}

impl From<&Stance> for StanceView {
    fn from(stance: &Stance) -> Self {
        let reasons = stance.reasons().iter();
        Self {
            word: stance.word().to_owned(),
            reasons: reasons
                .map(|(reason, detail)| ReasonView {
                    reason: reason.as_str().to_owned(),
                    detail: detail.clone(),
                })
                .collect(),
            line: stance.line(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadView {
    pub name: String,
    pub connections: u64,
    /// Time since the thread last showed that it makes progress.
    pub silent_ms: u64,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    pub file: String,
    /// The configuration key that names the file.
    pub key: String,
    /// Until the first certificate of a chain, or the last of a CA bundle, expires; negative after that. None: a file without
    /// certificates, listed because of its error.
    pub expires_in_seconds: Option<i64>,
    /// Why the newest content is not in use.
    pub last_error: Option<String>,
    /// How often new content was taken into use.
    #[serde(default)]
    pub reloads: u64,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerView {
    pub name: String,
    pub url: String,
    pub local: bool,
    /// `v1.36.3`; none: never reached.
    pub version: Option<String>,
    pub ready: bool,
    /// It says that it shuts down, or takes no connection any more: watches on it end and go on at others.
    #[serde(default)]
    pub stopping: bool,
    /// Requests may be sent to it.
    pub available: bool,
    /// `fresh`, `stale` or `none`.
    pub knowledge: String,
    /// Since it last confirmed what it serves.
    pub age_ms: Option<u64>,
    /// Where the knowledge is from, as [`RouteView::sources`] has it: the server's own word, or `storageversion` if there is none, or both.
    pub source: String,
    /// Number of (group, version, resource, subresource) it serves.
    pub keys: u64,
    pub outstanding: u64,
    /// Whether it was shown to accept this agent and the users that it asserts.
    #[serde(default)]
    pub proof: ProofView,
    pub last_error: Option<String>,
}

/// What was proved of a server.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProofView {
    pub asserted_users: ClassProofView,
    pub tokens: ClassProofView,
    /// `known`, `unknown`, or `unreadable: REASON`.
    pub header_names: String,
}

/// For one identity class.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassProofView {
    pub proved: bool,
    /// Since the outcome was found.
    pub age_ms: Option<u64>,
    /// Why it is not proved.
    pub why: Option<String>,
}

impl ProofView {
    /// `yes`, `for tokens only` or `no`.
    pub fn word(&self) -> &'static str {
        match (self.asserted_users.proved, self.tokens.proved) {
            (true, true) => "yes",
            (false, true) => "for tokens only",
            (_, false) => "no",
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    /// By server.
    pub verbs: BTreeMap<String, Vec<String>>,
    /// By server, how it is known that it serves this: `v2`, `v2beta1` or `legacy`, its own discovery document in that form; `pinned`, the
    /// word of an earlier agent; `storageversion`, what it published about itself, which has no verbs.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    pub method: String,
    pub path: String,
    pub is_resource: bool,
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// The reason as in `mvp_requests_total` and the access log.
    pub decision: String,
    pub reason: String,
    /// Where the request would go now; none: the agent answers.
    pub server: Option<String>,
    /// Every server that serves the key.
    pub candidates: Vec<String>,
    /// All of it in one line.
    pub line: String,
}

/// What would become of a new connection.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    pub address: String,
    pub server_name: Option<String>,
    /// `relayed`, or why it would be inspected, as in `mvp_relay_decisions_total`.
    pub decision: String,
    pub reason: String,
    /// To which server it would be relayed; none: it would be inspected.
    pub server: Option<String>,
    /// All of it in one line, with what every other server lacks.
    pub line: String,
}

/// What became of requests of the agent's own.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryView {
    /// As a client, through the agent's own listener, to a server.
    pub listener: LegView,
    /// From the agent to each server, by name.
    pub servers: BTreeMap<String, LegView>,
}

/// One way of the canary.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LegView {
    pub outcome: CanaryOutcome,
    pub took_ms: u64,
    /// What was found.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryOutcome {
    Ok,
    Failed,
    /// It cannot be asked with this configuration.
    #[default]
    NotAsked,
}

impl CanaryOutcome {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::NotAsked => "not asked",
        }
    }
}

/// Connections forwarded whole.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayView {
    /// By server.
    pub open: BTreeMap<String, u64>,
    /// Clients remembered because their requests were forwarded.
    pub clients: u64,
    /// What moves the bytes of new ones: `sockmap`, `splice` or `copy`.
    pub mode: String,
    /// What was measured, or why nothing was.
    pub why: String,
}
