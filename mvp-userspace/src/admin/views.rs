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
    /// The servers alone, for `/servers`.
    pub servers: Box<dyn Fn() -> Vec<ServerView> + Send + Sync>,
    /// Every key that any server serves, for `/routes`.
    pub routes: Box<dyn Fn() -> Vec<RouteView> + Send + Sync>,
    /// What the servers differ in, for `/skew`.
    pub skew: Box<dyn Fn() -> SkewView + Send + Sync>,
    /// What is known of so much time until now.
    pub history: Box<dyn Fn(Duration) -> HistoryView + Send + Sync>,
    /// The same as a document that needs no further explanation, for `/report`.
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
    pub probe: Box<dyn Fn(String, String) -> ServerResponseFuture + Send + Sync>,
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

/// What would become of a request: its method, and its target with the query. The error is the asker's fault.
pub type ExplainFn = dyn Fn(&str, &str) -> Result<ExplainView, String> + Send + Sync;
/// What would become of a connection: the client's address, and the server name of its ClientHello if it sends one.
pub type ExplainConnectionFn = dyn Fn(IpAddr, Option<&str>) -> ConnectionView + Send + Sync;
/// Sets the filter of the log, in the syntax of `RUST_LOG`. The error says what is wrong with it.
pub type SetLogLevelFn = dyn Fn(&str) -> Result<(), String> + Send + Sync;
/// Resolves when the Lease that all agents read has been written, to a line for the operator, or to why it could not be.
pub type ClusterFuture = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;
/// Resolves when every way has been tried or has timed out.
pub type CanaryFuture = Pin<Box<dyn Future<Output = CanaryView> + Send>>;
/// Resolves to what the server answered, or to why there is no answer.
pub type ServerResponseFuture =
    Pin<Box<dyn Future<Output = Result<ServerResponse, ServerResponseError>> + Send>>;

/// A server's own answer.
#[derive(Clone, Debug)]
pub struct ServerResponse {
    /// The HTTP status code that the server sent.
    pub status: u16,
    /// The server's `Content-Type`, passed on as it is.
    pub content_type: String,
    /// The whole body; it is bounded by what the agent reads of an answer to a probe.
    pub body: Bytes,
}

/// Why a server's own answer cannot be shown.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ServerResponseError {
    /// Answered with 404.
    #[error("no server has this name; mvp servers lists them")]
    UnknownServer,
    /// Answered with 502. The text says what failed: the connection, TLS, or a deadline.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
}

/// The answer of `/status`. A newer `mvp` reads it from an older agent: fields that came later have defaults.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// The name of the local server, `node` of the configuration.
    pub node: String,
    /// The agent's.
    pub version: String,
    /// Milliseconds since this process started.
    pub uptime_ms: u64,
    /// What `/readyz` says: nothing is awaited, no drain has begun, and the local server is proved.
    pub ready: bool,
    /// Tasks still awaited before the agent is ready.
    pub awaiting: Vec<String>,
    /// `running`, `draining` or `forced`.
    pub drain: String,
    /// What becomes of new connections, by the kernel's own maps.
    #[serde(default)]
    pub stance: StanceView,
    /// The state of the guard, and the reasons for it.
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
    /// The address and port of the agent's own listener; steered clients do not see it.
    pub listen: String,
    /// False: `--feature-gates=UnknownVersionInteroperabilityProxy=false`, everything is answered locally.
    pub interoperability_proxy: bool,
    /// [`crate::config::Config::digest`].
    pub config_digest: String,
    /// Open connections of clients, forwarded whole or terminated.
    pub connections: u64,
    /// Requests under way.
    pub streams: u64,
    /// Open upgraded connections: exec, attach, port-forward and the like.
    pub upgrades: u64,
    /// Connections that are forwarded whole to a peer.
    pub relay: RelayView,
    /// The data threads.
    pub threads: Vec<ThreadView>,
    /// Every configured file that holds certificates, or should.
    pub certificates: Vec<CertificateView>,
    /// All members of the control plane, the local server first.
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
    /// What an operator can look at.
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

/// A data thread: it serves its connections to their end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadView {
    /// As in the process's list of threads.
    pub name: String,
    /// Open connections of clients on this thread.
    pub connections: u64,
    /// Time since the thread last showed that it makes progress.
    pub silent_ms: u64,
}

/// A file with certificates.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    /// Its path, as the agent opens it.
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

/// A member of the control plane.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerView {
    /// As in routes, metrics and logs.
    pub name: String,
    /// Where the agent connects to it.
    pub url: String,
    /// It is the kube-apiserver of this node.
    pub local: bool,
    /// `v1.36.3`; none: never reached.
    pub version: Option<String>,
    /// Its `/readyz` last said ok. False too if it said nothing yet.
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
    /// Requests of this agent that it has not answered yet.
    pub outstanding: u64,
    /// Whether it was shown to accept this agent and the users that it asserts.
    #[serde(default)]
    pub proof: ProofView,
    /// Why the last poll failed, or why the server is not proved; `None`: neither is so.
    pub last_error: Option<String>,
}

/// What was proved of a server.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProofView {
    /// It takes a user that the agent asserts with the front-proxy certificate for exactly that user.
    pub asserted_users: ClassProofView,
    /// It does not believe identity headers on a connection without that certificate, over which tokens are forwarded.
    pub tokens: ClassProofView,
    /// `known`, `unknown`, or `unreadable: REASON`.
    pub header_names: String,
}

/// For one identity class.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassProofView {
    /// Requests of this class may be sent to the server.
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

/// One key of the route table.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// Empty for the core group.
    pub group: String,
    /// The version of the group.
    pub version: String,
    /// The plural name in request paths.
    pub resource: String,
    /// Empty for the resource itself.
    pub subresource: String,
    /// By server.
    pub verbs: BTreeMap<String, Vec<String>>,
    /// By server, how it is known that it serves this: `v2`, `v2beta1` or `legacy`, its own discovery document in that form; `pinned`, the
    /// word of an earlier agent; `storageversion`, what it published about itself, which has no verbs.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
}

/// The answer of `/explain` for a request. What RequestInfo does not have is empty.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    /// The method, as it was asked about.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The path names a resource; otherwise it is discovery, a probe or the like.
    pub is_resource: bool,
    /// The verb as RBAC names it: `get`, `list`, `watch` and so on; for other paths the method in lower case.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The version of the group.
    pub version: String,
    /// The plural name of the resource.
    pub resource: String,
    /// The subresource, such as `status` or `log`.
    pub subresource: String,
    /// The namespace that the path names; empty for cluster-wide requests.
    pub namespace: String,
    /// The name of the object; empty for collections.
    pub name: String,
    /// The reason as in `mvp_requests_total` and the access log.
    pub decision: String,
    /// The decision in a sentence.
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
    /// The client's address.
    pub address: String,
    /// The name that the client asks for in its ClientHello; `None`: it names none.
    pub server_name: Option<String>,
    /// `relayed`, or why it would be inspected, as in `mvp_relay_decisions_total`.
    pub decision: String,
    /// The decision in a sentence.
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
    /// Whether the way worked.
    pub outcome: CanaryOutcome,
    /// Milliseconds, the connection included.
    pub took_ms: u64,
    /// What was found.
    pub detail: String,
}

/// What became of one way of the canary.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryOutcome {
    /// The answer was the right one.
    Ok,
    /// There was no answer in time, or a wrong one; the detail says which.
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
    /// What moves the bytes of new ones while messages flow: `sockmap`, `splice` or `copy`.
    pub mode: String,
    /// What moves them while bulk flows.
    #[serde(default)]
    pub bulk: String,
    /// What was measured, or why nothing was.
    pub why: String,
}
