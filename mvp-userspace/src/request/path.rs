//! Paths as kube-apiserver reads them: decoded once, slashes trimmed at both ends, then split at every slash. Nothing is
//! cleaned: `//`, `.` and `..` are parts like any other, and an encoded slash separates parts as a plain one does.

use std::borrow::Cow;

use super::RequestError;

/// What a path is, by its shape alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PathClass<'a> {
    /// `/api/<version>/<resource>…` or `/apis/<group>/<version>/<resource>…`.
    Resource,
    /// Statements of one server about itself: health, metrics, version, logs, profiles.
    Probe,
    /// `/api`, `/api/<version>`, `/apis`, `/apis/<group>`, `/apis/<group>/<version>`; what the path does not name is empty.
    Discovery {
        /// Empty for `/apis` and for the core group.
        group: &'a str,
        /// Empty if the path names no version.
        version: &'a str,
    },
    /// `/openapi/v2` and `/openapi/v3…`; the group and version of `/openapi/v3/apis/<group>/<version>` and
    /// `/openapi/v3/api/<version>`, else empty.
    OpenApi {
        /// Empty for the core group, and for an index.
        group: &'a str,
        /// Empty for an index.
        version: &'a str,
    },
    /// Everything else, which the local server answers.
    Other,
}

/// Classifies a decoded path ([`super::RequestInfo::path`]). A single slash at the end is allowed, as kube-apiserver allows it.
pub fn classify(path: &str) -> PathClass<'_> {
    if Segments::of(path).resource_offset().is_some() {
        return PathClass::Resource;
    }
    let Some(rest) = path.strip_prefix('/') else {
        return PathClass::Other;
    };
    let (first, rest) = match rest.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (rest, None),
    };
    match first {
        "healthz" | "livez" | "readyz" | "metrics" | "version" | "logs" | "debug" | "statusz"
        | "flagz" => PathClass::Probe,
        "api" | "apis" => match group_version(first, rest.unwrap_or("")) {
            Some((group, version)) => PathClass::Discovery { group, version },
            None => PathClass::Other,
        },
        "openapi" => openapi(rest.unwrap_or("")),
        _ => PathClass::Other,
    }
}

/// The first parts of a path, borrowed. Nine are enough for the longest form that is interpreted:
/// `apis/<group>/<version>/watch/namespaces/<namespace>/<resource>/<name>/<subresource>`.
pub(super) struct Segments<'a> {
    parts: [&'a str; 9],
    len: usize,
}

impl<'a> Segments<'a> {
    pub(super) fn of(path: &'a str) -> Self {
        let mut segments = Segments {
            parts: [""; 9],
            len: 0,
        };
        let trimmed = path.trim_matches('/');
        if trimmed.is_empty() {
            return segments;
        }
        // Parts are of a few bytes: looking at each byte is less than a search for each slash.
        let mut rest = Some(trimmed);
        for slot in &mut segments.parts {
            let Some(text) = rest else { break };
            let end = text.bytes().position(|byte| byte == b'/');
            (*slot, rest) = match end.and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?))) {
                Some((part, behind)) => (part, Some(behind)),
                None => (text, None),
            };
            segments.len += 1;
        }
        segments
    }

    pub(super) fn as_slice(&self) -> &[&'a str] {
        self.parts.get(..self.len).unwrap_or_default()
    }

    /// Where version and resource begin, if the path names a resource: 1 after `api`, 2 after `apis/<group>`.
    /// `watch` or `proxy` with nothing behind it names none.
    pub(super) fn resource_offset(&self) -> Option<usize> {
        let offset = match (self.parts[0], self.len) {
            ("api", 3..) => 1,
            ("apis", 4..) => 2,
            _ => return None,
        };
        let names_nothing = matches!(self.as_slice().get(offset + 1..), Some(["watch" | "proxy"]));
        (!names_nothing).then_some(offset)
    }
}

/// Go's `url.ParseRequestURI` for what it refuses, and its decoding of the path (`+` stays).
///
/// # Errors
/// All of them are the client's fault (400): a control character, an escape that is not `%` and two hex digits, or a path
/// that does not begin with a slash (`*` and the empty path of CONNECT are let through).
pub(super) fn decode<'a>(path: &'a str, query: Option<&str>) -> Result<Cow<'a, str>, RequestError> {
    let control = |text: &str| text.bytes().any(|b| b.is_ascii_control());
    if control(path) || query.is_some_and(control) {
        return Err(RequestError::ControlCharacter);
    }
    if !path.starts_with('/') && !matches!(path, "" | "*") {
        return Err(RequestError::NoLeadingSlash);
    }
    unescape(path, Plus::Stays).ok_or_else(|| RequestError::BadEscape(path.to_owned()))
}

/// What `+` means: itself in a path, a space in a query.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Plus {
    Stays,
    IsSpace,
}

/// Percent-decodes; `None` if an escape is malformed. Allocates only if there is something to decode.
pub(super) fn unescape(text: &str, plus: Plus) -> Option<Cow<'_, str>> {
    let space = |b: u8| b == b'+' && plus == Plus::IsSpace;
    if !text.bytes().any(|b| b == b'%' || space(b)) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b if space(b) => b' ',
            b => b,
        });
    }
    let text = match String::from_utf8(decoded) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    Some(Cow::Owned(text))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// What follows `api/` or `apis/`, with at most one slash at the end and no empty part.
fn group_version<'a>(prefix: &str, rest: &'a str) -> Option<(&'a str, &'a str)> {
    if rest.is_empty() {
        return Some(("", ""));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (first, second) = match rest.split_once('/') {
        Some((first, second)) => (first, Some(second)),
        None => (rest, None),
    };
    match (prefix, second) {
        _ if first.is_empty() => None,
        ("api", None) => Some(("", first)),
        ("apis", None) => Some((first, "")),
        ("apis", Some(second)) if !second.is_empty() && !second.contains('/') => {
            Some((first, second))
        }
        _ => None,
    }
}

fn openapi(rest: &str) -> PathClass<'_> {
    let (document, rest) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(document, "v2" | "v3") {
        return PathClass::Other;
    }
    let (prefix, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (group, version) = match prefix {
        "api" | "apis" => group_version(prefix, rest).unwrap_or_default(),
        _ => Default::default(),
    };
    PathClass::OpenApi { group, version }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let discovery = |group, version| PathClass::Discovery { group, version };
        let openapi = |group, version| PathClass::OpenApi { group, version };
        for (path, class) in [
            ("/", PathClass::Other),
            ("", PathClass::Other),
            ("*", PathClass::Other),
            ("/api", discovery("", "")),
            ("/api/", discovery("", "")),
            ("/api/v1", discovery("", "v1")),
            ("/api/v1/", discovery("", "v1")),
            ("/api/v1/pods", PathClass::Resource),
            ("/apis", discovery("", "")),
            ("/apis/", discovery("", "")),
            ("/apis/apps", discovery("apps", "")),
            ("/apis/apps/", discovery("apps", "")),
            ("/apis/apps/v1", discovery("apps", "v1")),
            ("/apis/apps/v1/", discovery("apps", "v1")),
            ("/apis/apps/v1/deployments", PathClass::Resource),
            ("/apis//v1", PathClass::Other),
            ("/apis/apps//", PathClass::Other),
            ("/apis//", PathClass::Other),
            ("//apis", PathClass::Other),
            ("/apiserver", PathClass::Other),
            ("//api/v1/pods", PathClass::Resource),
            ("/openapi/v2", openapi("", "")),
            ("/openapi/v3", openapi("", "")),
            ("/openapi/v3/", openapi("", "")),
            ("/openapi/v3/api", openapi("", "")),
            ("/openapi/v3/api/v1", openapi("", "v1")),
            ("/openapi/v3/apis/apps", openapi("apps", "")),
            ("/openapi/v3/apis/apps/v1", openapi("apps", "v1")),
            ("/openapi/v3/version", openapi("", "")),
            ("/openapi", PathClass::Other),
            ("/healthz", PathClass::Probe),
            ("/livez/ping", PathClass::Probe),
            ("/readyz/etcd", PathClass::Probe),
            ("/readyz/", PathClass::Probe),
            ("/metrics", PathClass::Probe),
            ("/metrics/slis", PathClass::Probe),
            ("/version", PathClass::Probe),
            ("/logs/kube-apiserver.log", PathClass::Probe),
            ("/debug/pprof/heap", PathClass::Probe),
            ("/healthzz", PathClass::Other),
            ("/versions", PathClass::Other),
            ("/.well-known/openid-configuration", PathClass::Other),
            ("/openid/v1/jwks", PathClass::Other),
        ] {
            assert_eq!(classify(path), class, "{path}");
        }
    }

    #[test]
    fn escapes() {
        assert!(matches!(
            unescape("/a+b", Plus::Stays),
            Some(Cow::Borrowed("/a+b"))
        ));
        assert_eq!(unescape("a+b%2B", Plus::IsSpace).unwrap(), "a b+");
        assert_eq!(unescape("%e4%BD%a0", Plus::Stays).unwrap(), "你");
        assert_eq!(unescape("%ff", Plus::Stays).unwrap(), "\u{fffd}");
        for bad in ["%", "%2", "%zz", "%2g", "a%", "%%41"] {
            assert_eq!(unescape(bad, Plus::Stays), None, "{bad}");
        }
        // Decoded once only.
        assert_eq!(unescape("%252F", Plus::Stays).unwrap(), "%2F");
    }
}
