//! What a failed attempt says about the request.

use super::error::AttemptError;
use crate::route::Failure;

/// What hyper's error says about the request. HTTP/2: RFC 9113 §6.8 (a stream above GOAWAY's last id was not processed) and
/// §8.7 (REFUSED_STREAM); hyper itself reports requests it never wrote as cancelled.
pub fn attempt_error(error: hyper::Error) -> AttemptError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut io_failure = None;
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            if h2.is_remote() && (h2.is_go_away() || (h2.is_reset() && refused)) {
                return AttemptError::Unprocessed(h2.to_string());
            }
            if h2.is_reset() {
                return AttemptError::Broken {
                    failure: Failure::Protocol,
                    text: h2.to_string(),
                };
            }
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            io_failure = Some(match io.kind() {
                std::io::ErrorKind::TimedOut => Failure::TimedOut,
                _ => Failure::Reset,
            });
        }
        source = cause.source();
    }
    if error.is_canceled() {
        return AttemptError::Unprocessed(error.to_string());
    }
    if error.is_body_write_aborted() {
        return AttemptError::Upload;
    }
    let failure = if error.is_timeout() {
        Failure::TimedOut
    } else {
        io_failure.unwrap_or(Failure::Reset)
    };
    AttemptError::Broken {
        failure,
        text: error.to_string(),
    }
}
