//! Why an answer could not be had, and whose fault that is.

use std::io;

use crate::document::DecodeError;
use crate::route::Failure;

/// What failed, as routing and the operator need it. `Failure` says how the server failed; the text says what to look at.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The name could not be resolved; what is known of the server stands.
    #[error("cannot resolve {host}: {reason} (look at the server's url and at DNS)")]
    Resolve {
        /// The name in the server's URL.
        host: String,
        /// The resolver's message.
        reason: String,
    },
    /// The connection was not made, or broke.
    #[error("{what}: {reason}")]
    Transport {
        /// What was being done, for the message.
        what: &'static str,
        /// The text of the system, of TLS or of HTTP.
        reason: String,
        /// How it counts against the server's health.
        failure: Failure,
        /// Whether a new connection may be tried at once.
        lost: Lost,
    },
    /// An answer other than 200 and 304.
    #[error(
        "{path} answered {status} (look at the front-proxy certificate and at the server's own log)"
    )]
    Status {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
    },
    /// The document was not read to its end.
    #[error(
        "{path} answered with more than discovery.maxBytes = {limit} bytes; the server's document was refused"
    )]
    TooLarge {
        /// What was asked for.
        path: String,
        /// Bytes, `discovery.maxBytes`.
        limit: usize,
    },
    /// The document broke the rules of its format, or a limit of ours.
    #[error("{path}: {error}")]
    Decode {
        /// What was asked for.
        path: String,
        /// What is wrong with the document.
        error: DecodeError,
    },
}

/// What became of the connection of a [`FetchError::Transport`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lost {
    /// The server ended it, perhaps before it saw the request: it may do so at any time, with a GOAWAY too.
    Ended,
    /// Nobody knows whether it is of use.
    Doubtful,
    /// It is as good as before.
    No,
}

impl FetchError {
    /// How the server failed as a peer on the network, or `None` if it answered, but not with something of use.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            FetchError::Resolve { .. } => Some(Failure::Unreachable),
            FetchError::Transport { failure, .. } => Some(*failure),
            _ => None,
        }
    }

    /// True if the server refused the agent: it does not know it, or does not allow it what it asked for.
    pub fn refused(&self) -> bool {
        matches!(
            self,
            FetchError::Status {
                status: 401 | 403,
                ..
            }
        )
    }

    /// True if a connection that had been open was ended by the server: another connection shows the server's state, this does not.
    pub fn ended(&self) -> bool {
        matches!(
            self,
            FetchError::Transport {
                lost: Lost::Ended,
                ..
            }
        )
    }

    /// True if a new connection may well do better.
    pub fn lost(&self) -> bool {
        match self {
            FetchError::Transport { lost, .. } => *lost != Lost::No,
            // A client certificate that expired or was replaced: kube-apiserver verifies it at each request.
            FetchError::Status { status, .. } => *status == 401,
            _ => false,
        }
    }
}

impl From<hyper::Error> for FetchError {
    fn from(error: hyper::Error) -> Self {
        lost(error)
    }
}

/// An error that ended the connection or the stream.
pub(super) fn lost(error: hyper::Error) -> FetchError {
    FetchError::Transport {
        what: "the connection",
        failure: http_failure(&error),
        reason: chain(&error),
        lost: match stream_reset(&error) || error.is_timeout() {
            true => Lost::Doubtful,
            false => Lost::Ended,
        },
    }
}

pub(super) fn transport(what: &'static str, reason: impl ToString, failure: Failure) -> FetchError {
    FetchError::Transport {
        what,
        reason: reason.to_string(),
        failure,
        lost: Lost::Doubtful,
    }
}

/// Whether only the one stream was ended.
fn stream_reset(error: &hyper::Error) -> bool {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<h2::Error>())
        .is_some_and(h2::Error::is_reset)
}

fn http_failure(error: &hyper::Error) -> Failure {
    if error.is_timeout() {
        return Failure::TimedOut;
    }
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io_failure(io);
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return match h2.get_io() {
                Some(io) => io_failure(io),
                None if h2.is_go_away() || h2.is_reset() => Failure::Reset,
                None => Failure::Protocol,
            };
        }
        source = error.source();
    }
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        Failure::Reset
    } else {
        Failure::Protocol
    }
}

pub(super) fn io_failure(error: &io::Error) -> Failure {
    use io::ErrorKind::*;
    if error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
    {
        return Failure::Tls;
    }
    if crate::net::is_local_shortage(error) {
        return Failure::Local;
    }
    match error.kind() {
        ConnectionRefused => Failure::Refused,
        ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof | NotConnected => {
            Failure::Reset
        }
        TimedOut => Failure::TimedOut,
        HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable
        | PermissionDenied => Failure::Unreachable,
        _ => Failure::Protocol,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    /// What a request over HTTP/2 comes to whose server does this with it.
    async fn asked(ends: impl FnOnce(&mut h2::server::SendResponse<Bytes>) -> bool) -> FetchError {
        let (near, far) = tokio::io::duplex(1 << 16);
        let client = async {
            let (mut sender, driver) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
                TokioExecutor::new(),
                TokioIo::new(near),
            )
            .await
            .unwrap();
            tokio::spawn(driver);
            let request = http::Request::get("https://server/readyz");
            let request = request.body(Empty::new()).unwrap();
            lost(sender.send_request(request).await.unwrap_err())
        };
        let server = async {
            let mut server = h2::server::handshake(far).await.unwrap();
            let (_, mut answer) = server.accept().await.unwrap().unwrap();
            if ends(&mut answer) {
                server.abrupt_shutdown(h2::Reason::NO_ERROR);
            }
            while let Some(Ok(_)) = server.accept().await {}
        };
        tokio::join!(client, server).0
    }

    #[tokio::test]
    async fn a_connection_that_its_server_ends_is_told_from_a_stream() {
        let error = asked(|_| true).await;
        assert!(error.ended() && error.lost(), "{error}");
        let error = asked(|answer| {
            answer.send_reset(h2::Reason::INTERNAL_ERROR);
            false
        })
        .await;
        assert!(!error.ended() && error.lost(), "{error}");
        let late = transport("waiting", "no answer in time", Failure::TimedOut);
        assert!(!late.ended());
    }
}
