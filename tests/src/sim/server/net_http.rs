//! What Go's `net/http` answers by itself, before any handler is asked.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use crate::sim::api::body::{self, Body};

/// The answer to a request that no handler gets.
pub(super) fn answered(parts: &Parts, http2: bool) -> Option<Response<Body>> {
    if !http2 && expects_the_unknown(parts) {
        // `sendExpectationFailed`.
        let mut response = Response::new(body::full(""));
        *response.status_mut() = StatusCode::EXPECTATION_FAILED;
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        return Some(response);
    }
    if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
        // `globalOptionsHandler`.
        let mut response = Response::new(body::full(""));
        let nothing = HeaderValue::from_static("0");
        response.headers_mut().insert(CONTENT_LENGTH, nothing);
        return Some(response);
    }
    None
}

/// `expectsContinue` is a token of the first value.
fn expects_the_unknown(parts: &Parts) -> bool {
    let expected = parts.headers.get(EXPECT);
    let expected = expected.map(HeaderValue::as_bytes).unwrap_or_default();
    let mut tokens = expected.split(|byte| matches!(byte, b' ' | b',' | b'\t'));
    !expected.is_empty() && !tokens.any(|token| token.eq_ignore_ascii_case(b"100-continue"))
}
