//! What can go wrong between a client's request and a server's answer: whose fault, and whether another try is safe.

use std::time::Duration;

use http::StatusCode;

use crate::identity::Unauthorized;
use crate::request::RequestError;
use crate::route::{Failure, Reason};

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
    /// The client's fault: more header than the agent's limit.
    #[error("the request's header is larger than the limit of the mixed version proxy")]
    HeaderTooLarge,
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
    },
    /// The local server's fault: it did not answer what it alone can, a probe or its own version.
    #[error("kube-apiserver {server} did not answer: {attempt}")]
    LocalOnly {
        server: String,
        attempt: AttemptError,
    },
    /// The named server's fault: no answer in time.
    #[error("Timeout: request did not complete within the allotted timeout")]
    Timeout { server: String, local: bool },
}

/// Why one attempt at one server failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// No byte of the request was sent.
    #[error("cannot connect: {text}")]
    Connect { failure: Failure, text: String },
    /// The server said it did not process the request (REFUSED_STREAM, GOAWAY), or a kept connection turned out closed.
    #[error("the connection was going away: {0}")]
    Unprocessed(String),
    /// The connection or the stream broke after the request was sent; the server may have acted on it.
    #[error("broke off: {text}")]
    Broken { failure: Failure, text: String },
    /// The server was not shown to accept this agent, or whom it asserts: nothing was sent.
    #[error("it has not been shown to accept the mixed version proxy")]
    Unproved,
    /// The client's own upload ended in an error.
    #[error("the client's upload broke off")]
    Upload,
    /// No response head within the limit.
    #[error("no answer in time")]
    TimedOut,
}

impl ProxyError {
    pub fn code(&self) -> StatusCode {
        match self {
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Request(error) => error.status(),
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoCapableServer { .. }
            | Self::Unconfirmed { .. }
            | Self::Unanswered { .. }
            | Self::Upstream { .. }
            | Self::LocalOnly { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Kubernetes' `reason` (`metav1.StatusReason`); empty where Kubernetes has no word for the code.
    pub fn reason(&self) -> &'static str {
        match self.code() {
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
            StatusCode::GATEWAY_TIMEOUT => "Timeout",
            StatusCode::INTERNAL_SERVER_ERROR => "InternalError",
            _ => "",
        }
    }

    /// The label `decision` of `mvp_requests_total` and of the access log, where routing's own reason does not apply.
    pub fn decision(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "refused_unauthorized",
            Self::Request(_) | Self::BadRequest(_) => "refused_malformed",
            Self::HeaderTooLarge => "refused_header",
            Self::NoCapableServer { .. } => Reason::CapableServerUnreachable.as_str(),
            Self::Unconfirmed { .. } | Self::Unanswered { .. } => "knowledge_unconfirmed",
            Self::Upstream { .. } | Self::LocalOnly { .. } => "server_failed",
            Self::Timeout { .. } => "server_timeout",
        }
    }

    /// When the client should come again. A second: discovery is polled, and servers are probed, once a second. Nothing for
    /// what only the local server can say: client-go waits and retries up to ten times wherever it reads Retry-After
    /// (`client-go/rest/with_retry.go`), and kubectl asks for `/version` before much of what it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoCapableServer { .. }
            | Self::Unconfirmed { .. }
            | Self::Unanswered { .. }
            | Self::Upstream { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The label `type` of `apiserver_peer_proxy_errors_total`; `None` where the native feature counts nothing.
    pub fn peer_error_kind(&self) -> Option<&'static str> {
        match self {
            Self::NoCapableServer { .. } | Self::Unconfirmed { .. } | Self::Unanswered { .. } => {
                Some("endpoint_resolution")
            }
            Self::Upstream { local: false, .. } | Self::Timeout { local: false, .. } => {
                Some("proxy_transport")
            }
            _ => None,
        }
    }
}

impl AttemptError {
    /// True if the server certainly did not act on the request, whatever its method.
    pub fn is_unprocessed(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::Unprocessed(_) | Self::Unproved
        )
    }

    /// What the server's health should learn from it.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Connect { failure, .. } | Self::Broken { failure, .. } => Some(*failure),
            // A hang is found by PINGs and by the prober; a slow answer alone is no reason to leave a server.
            Self::Unprocessed(_) | Self::Unproved | Self::Upload | Self::TimedOut => None,
        }
    }

    /// Label of `mvp_retries_total`.
    pub fn retry_reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Unprocessed(_) => "unprocessed",
            Self::Unproved => "unproved",
            Self::Broken { .. } => "broken",
            Self::Upload => "upload",
            Self::TimedOut => "timeout",
        }
    }
}
