//! What a failed attempt says about the request: errors of sockets, of TLS and of hyper become an [`Ending`].

use std::io;

use super::blame::Ending;
use super::error::AttemptError;
use super::http2::fault_error;
use super::wire_body::BodyError;
use crate::net::is_local_shortage;

/// What hyper's error says about the request. HTTP/2: RFC 9113 §6.8 (a stream above GOAWAY's last id was not processed) and
/// §8.7 (REFUSED_STREAM); hyper itself reports requests it never wrote as cancelled.
pub(super) fn attempt_error(error: hyper::Error) -> AttemptError {
    let ending = ending(&error);
    AttemptError::new(ending, text(&error))
}

/// How a connection that could not be made ended.
pub(super) fn dial_ending(error: &io::Error) -> Ending {
    if error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
    {
        return Ending::TlsFailed;
    }
    if is_local_shortage(error) {
        return Ending::Shortage;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Ending::ConnectRefused,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::NotConnected => Ending::ConnectReset,
        io::ErrorKind::TimedOut => Ending::ConnectTimedOut,
        _ => Ending::Unreachable,
    }
}

/// The same for an error of the h2 crate.
pub(super) fn http2_error(error: &h2::Error) -> AttemptError {
    let ending = of_http2(error).unwrap_or(match error.get_io().map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut) => Ending::PingUnanswered,
        _ => Ending::ConnectionBroken,
    });
    AttemptError::new(ending, error.to_string())
}

/// The same for an error that broke off an answer.
pub(super) fn body_error(error: BodyError) -> AttemptError {
    match error {
        BodyError::Http1(error) => attempt_error(error),
        BodyError::Http2(error) => http2_error(&error),
        BodyError::Own(fault) => fault_error(fault),
    }
}

fn ending(error: &hyper::Error) -> Ending {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut io_ending = None;
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>()
            && let Some(ending) = of_http2(h2)
        {
            return ending;
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            io_ending = Some(match io.kind() {
                io::ErrorKind::TimedOut => Ending::PingUnanswered,
                _ => Ending::ConnectionBroken,
            });
        }
        source = cause.source();
    }
    if error.is_canceled() {
        return Ending::GoingAway;
    }
    if error.is_body_write_aborted() {
        return Ending::UploadBroken;
    }
    if error.is_timeout() {
        return Ending::PingUnanswered;
    }
    if error.is_parse() {
        return Ending::ConnectionMalformed;
    }
    io_ending.unwrap_or(Ending::ConnectionBroken)
}

/// `None`: the bytes of the connection are wrong; the source of the error says more.
fn of_http2(error: &h2::Error) -> Option<Ending> {
    let reason = error.reason();
    if error.is_reset() {
        return Some(match (error.is_remote(), reason) {
            (true, Some(reason)) => of_reset(reason),
            (true, None) => Ending::RequestRejected,
            // The agent's own HTTP/2 client reset the stream, because the answer was malformed.
            (false, _) => Ending::AnswerMalformed,
        });
    }
    if error.is_go_away() {
        return Some(match (error.is_remote(), reason) {
            (true, _) => Ending::GoingAway,
            (false, Some(h2::Reason::ENHANCE_YOUR_CALM | h2::Reason::NO_ERROR)) => Ending::OwnLimit,
            (false, _) => Ending::ConnectionMalformed,
        });
    }
    None
}

/// A server's RST_STREAM with this code.
pub(super) fn of_reset(reason: h2::Reason) -> Ending {
    match reason {
        h2::Reason::REFUSED_STREAM => Ending::StreamRefused,
        // A server ends streams with these codes for reasons of its own.
        h2::Reason::INTERNAL_ERROR
        | h2::Reason::NO_ERROR
        | h2::Reason::CANCEL
        | h2::Reason::STREAM_CLOSED => Ending::StreamAborted,
        _ => Ending::RequestRejected,
    }
}

fn text(error: &hyper::Error) -> String {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return h2.to_string();
        }
        source = cause.source();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::{DialFrom, Reserved, dial_any};
    use crate::route::testing::server;

    /// On real sockets: a range of source ports that is used up, and a port on which nothing listens.
    #[tokio::test]
    async fn source_ports_that_are_used_up_are_no_failure_of_the_server() {
        let listener = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let from = DialFrom::reserved(Reserved {
            own_source: Ipv4Addr::new(127, 66, 0, 1),
            peer_ports: 21_020..=21_022,
        });
        let mut open = Vec::new();
        let failed = loop {
            match dial_any(&[address], &from).await {
                Ok(stream) => open.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(open.len(), 3);
        assert_eq!(dial_ending(&failed), Ending::Shortage);
        let blamed = server("cp-b", false);
        for _ in 0..77 {
            let error = dial_any(&[address], &from).await.unwrap_err();
            if let Some(failure) = dial_ending(&error).verdict().counts {
                blamed.failed(failure);
            }
        }
        assert!(blamed.available());

        drop((listener, open));
        let refused = dial_any(&[address], &DialFrom::anywhere()).await;
        assert_eq!(dial_ending(&refused.unwrap_err()), Ending::ConnectRefused);
    }
}
