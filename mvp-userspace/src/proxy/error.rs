//! What can go wrong between a client's request and a server's answer: whose fault, and whether another try is safe.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::blame::Ending;
use crate::h2wire::Refusal;
use crate::identity::Unauthorized;
use crate::request::RequestError;
use crate::route::Reason;

/// Why a client gets an answer made by the agent. `status` turns it into a Kubernetes Status.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The client's fault: it presented a credential that does not hold.
    #[error("Unauthorized")]
    Unauthorized(#[from] Unauthorized),
    /// The client's fault: the request target is malformed.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The client's fault: a request no kube-apiserver would take.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The client's fault: a longer target than the HTTP library takes.
    #[error(
        "the request's target is longer than the 65534 bytes that the mixed version proxy passes on"
    )]
    TargetTooLong,
    /// The client's fault: a transfer coding that no kube-apiserver takes.
    #[error("unsupported transfer encoding: only chunked is supported")]
    TransferEncoding,
    /// The client's fault: it expects what no kube-apiserver does.
    #[error("the request's Expect has something else than 100-continue in it")]
    Expectation,
    /// The client's fault: more header than the agent's limit.
    #[error("the request's header is larger than the limit of the mixed version proxy")]
    HeaderTooLarge,
    /// The client's fault: it cancels requests faster than `limits.cancellations` allows.
    #[error(
        "too many requests of this client were cancelled; wait before sending more (limits.cancellations)"
    )]
    TooManyCancelled,
    /// The client's fault: it has as many upgraded connections as `limits.tunnelsPerClient` allows.
    #[error("this client has too many upgraded connections open (limits.tunnelsPerClient)")]
    TooManyTunnels,
    /// The control plane's fault: a server that could answer is known but cannot be reached.
    #[error("no kube-apiserver that can serve {key} is reachable right now")]
    NoCapableServer { key: String },
    /// The control plane's fault: nobody is known to serve the type, but `server` may and cannot be asked.
    #[error(
        "{key} is not known, and what kube-apiserver {server} serves cannot be confirmed right now"
    )]
    Unconfirmed { key: String, server: String },
    /// The control plane's fault: nobody is known to serve the type, but not everybody could be asked in time.
    #[error("{key} is not known, and not every kube-apiserver said in time what it serves")]
    Unanswered { key: String },
    /// The named server's fault: it could not be reached or broke off before its answer.
    #[error("kube-apiserver {server} did not answer: {attempt}")]
    Upstream {
        server: String,
        local: bool,
        attempt: AttemptError,
        /// The client may send it again: no server acted on it, or it is a read.
        repeatable: bool,
    },
    /// The local server's fault: it did not answer what it alone can, a probe or its own version.
    #[error("kube-apiserver {server} did not answer: {attempt}")]
    LocalOnly {
        server: String,
        attempt: AttemptError,
    },
    /// The client's fault: the named server reset the request's stream as malformed.
    #[error("kube-apiserver {server} did not take the request: {attempt}")]
    Rejected {
        server: String,
        attempt: AttemptError,
    },
    /// The agent's own fault: it ran out of something, or its own limits ended the attempt.
    #[error("the mixed version proxy cannot ask kube-apiserver {server} right now: {attempt}")]
    Agent {
        server: String,
        local: bool,
        attempt: AttemptError,
        /// As of `Upstream`.
        repeatable: bool,
    },
    /// The named server's fault: no answer in time.
    #[error("Timeout: request did not complete within the allotted timeout")]
    Timeout { server: String, local: bool },
}

/// Why one attempt at one server failed: how it ended, and the details.
#[derive(Clone, Debug)]
pub struct AttemptError {
    pub ending: Ending,
    /// Empty if the ending says it all.
    text: String,
}

impl ProxyError {
    /// The status of the answer.
    ///
    /// A request that a server may have acted on, and that is no read, is answered with 502: kube-rs sends again whatever is answered with
    /// 429, 503 or 504, with any method and without Retry-After (kube-client 5, `client/retry.rs`), and would write twice.
    pub fn code(&self) -> StatusCode {
        match self {
            Self::Upstream {
                repeatable: false, ..
            }
            | Self::Agent {
                repeatable: false, ..
            } => StatusCode::BAD_GATEWAY,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Request(error) => error.status(),
            Self::BadRequest(_) | Self::Rejected { .. } => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooManyCancelled | Self::TooManyTunnels => StatusCode::TOO_MANY_REQUESTS,
            Self::NoCapableServer { .. }
            | Self::Unconfirmed { .. }
            | Self::Unanswered { .. }
            | Self::Upstream { .. }
            | Self::Agent { .. }
            | Self::LocalOnly { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Kubernetes' `reason` (`metav1.StatusReason`); empty where Kubernetes has none for the code.
    pub fn reason(&self) -> &'static str {
        match self.code() {
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            StatusCode::GATEWAY_TIMEOUT => "Timeout",
            // Kubernetes has no reason for 502, and client-go calls a code without one an internal error.
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY => "InternalError",
            _ => "",
        }
    }

    /// The label `decision` of `mvp_requests_total` and of the access log, where routing's own reason does not apply.
    pub fn decision(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "refused_unauthorized",
            Self::Request(_)
            | Self::BadRequest(_)
            | Self::TargetTooLong
            | Self::TransferEncoding
            | Self::Expectation
            | Self::Rejected { .. } => "refused_malformed",
            Self::Agent { .. } => "agent_failed",
            Self::HeaderTooLarge => "refused_header",
            Self::TooManyCancelled => "refused_cancellations",
            Self::TooManyTunnels => "refused_tunnels",
            Self::NoCapableServer { .. } => Reason::CapableServerUnreachable.as_str(),
            Self::Unconfirmed { .. } | Self::Unanswered { .. } => "knowledge_unconfirmed",
            Self::Upstream { .. } | Self::LocalOnly { .. } => "server_failed",
            Self::Timeout { .. } => "server_timeout",
        }
    }

    /// After how long the client should try again; `None`: a repetition would not help. It is a second, because discovery polls
    /// and probes servers once per second.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoCapableServer { .. }
            | Self::Unconfirmed { .. }
            | Self::Unanswered { .. }
            | Self::Agent {
                repeatable: true, ..
            }
            | Self::TooManyCancelled
            | Self::TooManyTunnels
            | Self::Upstream {
                repeatable: true, ..
            } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The label `type` of `apiserver_peer_proxy_errors_total`; `None` where the native feature counts nothing.
    pub fn peer_error_kind(&self) -> Option<&'static str> {
        match self {
            Self::NoCapableServer { .. } | Self::Unconfirmed { .. } | Self::Unanswered { .. } => {
                Some("endpoint_resolution")
            }
            Self::Upstream { local: false, .. }
            | Self::Agent { local: false, .. }
            | Self::Timeout { local: false, .. } => Some("proxy_transport"),
            _ => None,
        }
    }
}

impl From<Refusal> for ProxyError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed => Self::BadRequest(
                "the request's target has a '#' or another character in it that the mixed version proxy cannot pass on",
            ),
            Refusal::TooLong => Self::TargetTooLong,
            Refusal::HeaderBytes | Refusal::HeaderCount => Self::HeaderTooLarge,
            Refusal::Head => Self::BadRequest("the request's head is malformed"),
            Refusal::Encoding => Self::TransferEncoding,
        }
    }
}

impl AttemptError {
    pub fn new(ending: Ending, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { ending, text }
    }

    /// For endings that need no details.
    pub fn bare(ending: Ending) -> Self {
        Self::new(ending, "")
    }

    /// The same with another ending, once more is known of the connection.
    pub fn becomes(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ending.words())?;
        match self.text.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.text),
        }
    }
}

impl std::error::Error for AttemptError {}
