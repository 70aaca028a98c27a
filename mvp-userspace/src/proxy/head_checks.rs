//! What a request's head is looked at for before anything else.

use http::Version;
use http::header::HOST;
use http::request::Parts;

use super::error::ProxyError;

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
