//! Which limit a request's header exceeds, and how large it is.

use http::Version;
use http::request::Parts;

use crate::config::Limits;
use crate::h2wire::Refusal;

/// What Go adds to the limit for the fields that every request has (`adjustHTTP1MaxHeaderSize` of `golang.org/x/net/http2`).
const ALLOWANCE: usize = 320;

/// The limit that a request exceeded before the HTTP library read it.
pub(super) fn limit_of(refusal: Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::HeaderBytes => Some("header_bytes"),
        Refusal::HeaderCount => Some("header_count"),
        Refusal::Malformed | Refusal::TooLong | Refusal::Head | Refusal::Encoding => None,
    }
}

/// The limit that a request's header exceeds by itself, if any. Over HTTP/1.1 its bytes were counted already.
pub(super) fn exceeded_limit(parts: &Parts, bytes: usize, limits: &Limits) -> Option<&'static str> {
    if parts.headers.len() > limits.header_count {
        return Some("header_count");
    }
    (parts.version == Version::HTTP_2 && bytes > limits.header_bytes as usize + ALLOWANCE)
        .then_some("header_bytes")
}

/// As RFC 9113 §6.5.2 (SETTINGS_MAX_HEADER_LIST_SIZE) counts.
pub(super) fn header_bytes(parts: &Parts) -> usize {
    let field = |name: usize, value: usize| name + value + 32;
    let path = parts.uri.path_and_query().map_or(0, |p| p.as_str().len());
    let fields = parts.headers.iter();
    fields.fold(field(":path".len(), path), |sum, (name, value)| {
        sum + field(name.as_str().len(), value.len())
    })
}
