//! `Host` over HTTP/1.1, as Go's server checks it (`net/http` `readRequest`, `httpguts.ValidHostHeader`).

use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version, header};

use crate::sim::api::body::{self, Body};

/// The answer to a request that has none, two, or one that is malformed.
pub(super) fn refused(parts: &Parts) -> Option<Response<Body>> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let why = match (hosts.next(), hosts.next()) {
        (None, _) if parts.version == Version::HTTP_11 => "missing required Host header",
        (Some(_), Some(_)) => "too many Host headers",
        (Some(host), None) if !host.as_bytes().iter().all(valid) => "malformed Host header",
        _ => return None,
    };
    let mut response = Response::new(body::full(format!("400 Bad Request: {why}")));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CONNECTION, "close"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

fn valid(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~@".contains(byte)
}
