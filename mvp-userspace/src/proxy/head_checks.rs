//! What is checked in a request's head before anything else.

use http::header::{EXPECT, HOST};
use http::request::Parts;
use http::{Method, Version};

use super::connection::Connection;
use super::error::ProxyError;
use super::header_limits::limit_of;
use crate::h2wire::{REFUSED, Refusal};

/// Whether a request can be passed on, whoever sends it. `exceeded`: the limit that its header fields exceed.
///
/// # Errors
/// Why it cannot be passed on.
pub(super) fn check_head(
    connection: &Connection,
    parts: &Parts,
    exceeded: Option<&'static str>,
) -> Result<(), ProxyError> {
    let metrics = &connection.thread.shared.metrics;
    if let Some(limit) = exceeded {
        metrics.refused(limit);
        return Err(ProxyError::HeaderTooLarge);
    }
    if let Some(mark) = parts.headers.get(REFUSED) {
        let refusal = Refusal::of_mark(mark.as_bytes());
        if let Some(limit) = limit_of(refusal) {
            metrics.refused(limit);
        }
        return Err(refusal.into());
    }
    if connection.unseen.may_be() {
        return Err(ProxyError::BadRequest(
            "the mixed version proxy could not follow the HTTP/2 frames of this connection",
        ));
    }
    check_host(parts)?;
    check_expectation(parts)?;
    if parts.method == Method::CONNECT {
        // No kube-apiserver is a proxy, and behind an answer to CONNECT a connection is not HTTP any more.
        return Err(ProxyError::BadRequest("CONNECT is not supported"));
    }
    if has_userinfo(parts) {
        // Go's HTTP/2 server resets such a stream with PROTOCOL_ERROR; RFC 9110 §4.2.4 has it treated as an error.
        return Err(ProxyError::BadRequest(
            "the request's authority contains user information",
        ));
    }
    Ok(())
}

/// `user@host` where only a host belongs.
fn has_userinfo(parts: &Parts) -> bool {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    authority.is_some_and(|authority| authority.contains('@'))
        || parts
            .headers
            .get_all(HOST)
            .iter()
            .any(|host| host.as_bytes().contains(&b'@'))
}

/// As Go's `readRequest` and `httpguts.ValidHostHeader`: one `Host` over HTTP/1.1, of the characters that a host can have.
fn check_host(parts: &Parts) -> Result<(), ProxyError> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if parts.version == Version::HTTP_11 && host.is_none() {
        return Err(ProxyError::BadRequest("missing required Host header"));
    }
    if hosts.next().is_some() {
        return Err(ProxyError::BadRequest("too many Host headers"));
    }
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(byte);
    match host.is_none_or(|host| host.as_bytes().iter().all(valid)) {
        true => Ok(()),
        false => Err(ProxyError::BadRequest("malformed Host header")),
    }
}

/// As Go's `net/http` over HTTP/1.x (`expectsContinue`, `sendExpectationFailed`): a client can expect to be asked for its body, and
/// nothing else. Over HTTP/2 Go does not look at it.
fn check_expectation(parts: &Parts) -> Result<(), ProxyError> {
    let Some(expected) = parts.headers.get(EXPECT) else {
        return Ok(());
    };
    let mut tokens = expected
        .as_bytes()
        .split(|byte| matches!(byte, b' ' | b',' | b'\t'));
    let known =
        expected.is_empty() || tokens.any(|token| token.eq_ignore_ascii_case(b"100-continue"));
    match parts.version == Version::HTTP_2 || known {
        true => Ok(()),
        false => Err(ProxyError::Expectation),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_client_expects_to_be_asked_for_its_body_or_is_refused() {
        for (version, expected, taken) in [
            (Version::HTTP_11, "100-continue", true),
            (Version::HTTP_10, "100-Continue", true),
            (Version::HTTP_11, "x, 100-continue", true),
            (Version::HTTP_11, "", true),
            (Version::HTTP_11, "100-continued", false),
            (Version::HTTP_10, "200-ok", false),
            (Version::HTTP_2, "200-ok", true),
        ] {
            let request = Request::builder()
                .version(version)
                .header(EXPECT, expected)
                .body(())
                .unwrap();
            let (parts, ()) = request.into_parts();
            assert_eq!(check_expectation(&parts).is_ok(), taken, "{expected:?}");
        }
    }
}
