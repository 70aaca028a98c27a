//! What a request's head is looked at for before anything else.

use http::Version;
use http::header::HOST;
use http::request::Parts;

use super::error::ProxyError;
use crate::config::Limits;

/// The limit that a request's header is above by itself, if any. Over HTTP/1.1 the parser counted its bytes already.
pub fn exceeded_limit(parts: &Parts, bytes: usize, limits: &Limits) -> Option<&'static str> {
    if parts.headers.len() > limits.header_count {
        return Some("header_count");
    }
    (parts.version == Version::HTTP_2 && bytes > limits.header_bytes as usize)
        .then_some("header_bytes")
}

/// As RFC 9113 §6.5.2 (SETTINGS_MAX_HEADER_LIST_SIZE) counts.
pub fn header_bytes(parts: &Parts) -> usize {
    let field = |name: usize, value: usize| name + value + 32;
    let path = parts.uri.path_and_query().map_or(0, |p| p.as_str().len());
    let fields = parts.headers.iter();
    fields.fold(field(":path".len(), path), |sum, (name, value)| {
        sum + field(name.as_str().len(), value.len())
    })
}

/// `user@host` where only a host belongs.
pub fn has_userinfo(parts: &Parts) -> bool {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    authority.is_some_and(|authority| authority.contains('@'))
        || parts
            .headers
            .get_all(HOST)
            .iter()
            .any(|host| host.as_bytes().contains(&b'@'))
}

/// As Go's `readRequest` and `httpguts.ValidHostHeader`: one `Host` over HTTP/1.1, of the characters that a host can have.
pub fn check_host(parts: &Parts) -> Result<(), ProxyError> {
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
