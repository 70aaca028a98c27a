//! Headers on their way through, beside those that `identity` deletes and sets when it admits a request.

use http::header::{CONNECTION, COOKIE, HOST, HeaderName, HeaderValue, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Uri, Version};

use crate::identity::AUDIT_ID;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The protocol a client wants to switch to, if its HTTP/1.1 request is an upgrade (`Connection` names it, `Upgrade` says to what).
pub(super) fn upgrade_protocol(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 {
        return None;
    }
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| tokens(value).any(|t| t.eq_ignore_ascii_case("upgrade")));
    if asks {
        headers.get(UPGRADE).cloned()
    } else {
        None
    }
}

/// Removes what no trailer may say (RFC 9110 §6.5.1): Go's servers reset the stream of a request with such a trailer
/// (`ValidTrailerHeader` of golang.org/x/net/http/httpguts, whose list this is).
pub(super) fn strip_forbidden_trailers(trailers: &mut HeaderMap) {
    let forbidden: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_forbidden_trailer(name.as_str()))
        .cloned()
        .collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

/// `name` is in lower case.
fn is_forbidden_trailer(name: &str) -> bool {
    const FORBIDDEN: [&str; 21] = [
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "realm",
        "te",
        "trailer",
        "transfer-encoding",
        "www-authenticate",
    ];
    name.starts_with("if-") || FORBIDDEN.contains(&name)
}

/// Gives a request an id, unless the client gave it one. This is done first, so that a refusal has the id as well.
pub(super) fn ensure_audit_id(headers: &mut HeaderMap) {
    if !headers.contains_key(AUDIT_ID) {
        let mut buffer = uuid::Uuid::encode_buffer();
        let id = uuid::Uuid::new_v4().hyphenated();
        insert(headers, AUDIT_ID, id.encode_lower(&mut buffer));
    }
    keep_ids_out_of_tables(headers);
}

/// Has HPACK send the id as it is and remember nothing of it ("never indexed", RFC 7541 §6.2.3). It never comes a second time, and
/// the entries that it would make push out those of fields which do: a table of 4 KiB holds about fifty of them.
/// The same of the span of a trace (W3C Trace Context), which a client with tracing sends, another for each request.
pub(super) fn keep_ids_out_of_tables(headers: &mut HeaderMap) {
    for name in [AUDIT_ID, TRACEPARENT] {
        if let Some(id) = headers.get_mut(name) {
            id.set_sensitive(true);
        }
    }
}

/// The target for a server: same path and query, byte for byte. HTTP/2 wants scheme and authority, HTTP/1.1 a `Host`.
/// The client's own authority is kept, so that a `Location` the server makes points where the client can go.
pub(super) fn upstream_target(
    uri: &Uri,
    headers: &mut HeaderMap,
    upstream: Version,
    fallback: &crate::config::Endpoint,
) -> Result<Uri, http::Error> {
    let path = uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let authority = uri
        .authority()
        .cloned()
        .or_else(|| {
            headers
                .get(HOST)
                .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        })
        .map_or_else(
            || Authority::try_from(crate::discovery::authority(fallback)),
            Ok,
        )?;
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    if upstream == Version::HTTP_2 {
        headers.remove(HOST);
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(authority);
    } else {
        insert(headers, HOST, authority.as_str());
        join_cookies(headers);
    }
    Ok(Uri::from_parts(parts)?)
}

/// HTTP/2 clients may send each cookie in a field of its own; over HTTP/1.1 there is one field (RFC 9113 §8.2.3). Go's HTTP/2 server
/// joins them too.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let Some(first) = cookies.next() else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for cookie in cookies {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    // What is made of header values is one.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// Sets one value; a text that is no header value (cannot happen for the agent's own texts) sets nothing.
fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_bytes(n.as_bytes()).unwrap(),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .fold(HeaderMap::new(), |mut map, (n, v)| {
                map.append(n, v);
                map
            })
    }

    #[test]
    fn trailers_that_gos_servers_refuse_go() {
        let mut trailers = map(&[
            ("x-checksum", "1"),
            ("host", "k"),
            ("range", "bytes=0-1"),
            ("if-match", "x"),
            ("if-whatever", "x"),
            ("content-length", "5"),
            ("te", "trailers"),
            ("grpc-status", "0"),
        ]);
        strip_forbidden_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("x-checksum", "1"), ("grpc-status", "0")]));
    }

    #[test]
    fn upgrade_needs_both_headers_and_http_1_1() {
        let both = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(
            upgrade_protocol(Version::HTTP_11, &both).unwrap(),
            "websocket"
        );
        assert!(upgrade_protocol(Version::HTTP_2, &both).is_none());
        assert!(upgrade_protocol(Version::HTTP_10, &both).is_none());
        assert!(upgrade_protocol(Version::HTTP_11, &map(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade_protocol(Version::HTTP_11, &map(&[("connection", "upgrade")])).is_none());
    }

    #[test]
    fn the_clients_audit_id_stays() {
        let mut headers = map(&[("audit-id", "abc")]);
        ensure_audit_id(&mut headers);
        assert_eq!(headers[AUDIT_ID], "abc");
        assert!(headers[AUDIT_ID].is_sensitive());
        headers.insert(TRACEPARENT, HeaderValue::from_static("00-1-2-01"));
        ensure_audit_id(&mut headers);
        assert!(headers[TRACEPARENT].is_sensitive());
        headers.clear();
        ensure_audit_id(&mut headers);
        assert_eq!(headers[AUDIT_ID].len(), 36);
        assert!(headers[AUDIT_ID].is_sensitive());
    }

    #[test]
    fn cookies_are_one_field_over_http1() {
        let fallback = crate::config::Endpoint {
            name: "cp-b".into(),
            host: "10.0.0.9".into(),
            port: 6443,
        };
        let sent = map(&[("cookie", "a=1"), ("cookie", "b=\"2\""), ("x", "1")]);
        let target = "/api".parse().unwrap();
        let over = |version| {
            let mut headers = sent.clone();
            upstream_target(&target, &mut headers, version, &fallback).unwrap();
            let cookies = headers.get_all(COOKIE).iter();
            let cookies = cookies.map(|cookie| cookie.to_str().unwrap().to_owned());
            cookies.collect::<Vec<_>>()
        };
        assert_eq!(over(Version::HTTP_11), ["a=1; b=\"2\""]);
        assert_eq!(over(Version::HTTP_2), ["a=1", "b=\"2\""]);
    }

    #[test]
    fn target_keeps_path_and_query_byte_for_byte() {
        let fallback = crate::config::Endpoint {
            name: "cp-b".into(),
            host: "10.0.0.9".into(),
            port: 6443,
        };
        let raw = "/api/v1/namespaces/a%2Fb/pods?b=2&a=%20x&;&watch";
        let mut headers = map(&[("host", "api.example:6443")]);
        let h2 = upstream_target(
            &raw.parse().unwrap(),
            &mut headers.clone(),
            Version::HTTP_2,
            &fallback,
        )
        .unwrap();
        assert_eq!(h2.to_string(), format!("https://api.example:6443{raw}"));
        let h1 = upstream_target(
            &raw.parse().unwrap(),
            &mut headers,
            Version::HTTP_11,
            &fallback,
        )
        .unwrap();
        assert_eq!(h1.to_string(), raw);
        assert_eq!(headers[HOST], "api.example:6443");

        let mut none = HeaderMap::new();
        let absolute = format!("https://front.example{raw}").parse().unwrap();
        let h1 = upstream_target(&absolute, &mut none, Version::HTTP_11, &fallback).unwrap();
        assert_eq!(
            (h1.to_string().as_str(), none[HOST].to_str().unwrap()),
            (raw, "front.example")
        );
    }
}
