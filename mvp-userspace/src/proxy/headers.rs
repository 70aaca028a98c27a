//! Headers on their way through: what ends at this hop, what the agent adds. Who may say what about users is `identity`'s.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, EXPECT, HOST, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Uri, Version};

/// One id for a request in every server's audit log (`apiserver/pkg/audit`).
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATE: HeaderName = HeaderName::from_static("proxy-authenticate");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// RFC 9110 §7.6.1 and the older names that Go's ReverseProxy removes as well. `Trailer` stays: it announces fields that pass on.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The protocol a client wants to switch to, if its HTTP/1.1 request is an upgrade (`Connection` names it, `Upgrade` says to what).
pub fn upgrade_protocol(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
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

/// Removes what ends at this hop: the fixed list and what `Connection` nominates, except [`is_end_to_end`]. Must come before
/// any header of the agent's own is set, so that a client cannot nominate those. `TE: trailers` stays, as HTTP/2 allows it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !is_end_to_end(name))
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(te) = headers.get(TE) {
        let trailers = tokens(te).any(|token| token.eq_ignore_ascii_case("trailers"));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// Removes what no trailer may say (RFC 9110 §6.5.1): Go's servers reset the stream of a request with such a trailer
/// (`ValidTrailerHeader` of golang.org/x/net/http/httpguts, whose list this is).
pub fn strip_forbidden_trailers(trailers: &mut HeaderMap) {
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

/// What `Connection` may not nominate (RFC 9110 §7.6.1 forbids it for fields meant for the recipient): on whose behalf a request
/// is, where it came from, and what its body is. A proxy that impersonates its users and passes their `Connection` on would
/// otherwise let them take `Impersonate-User` off and be the proxy itself; kube-apiserver does not look at nominations.
fn is_end_to_end(name: &HeaderName) -> bool {
    let text = name.as_str();
    [AUTHORIZATION, HOST, AUDIT_ID, X_FORWARDED_FOR].contains(name)
        || text.starts_with("impersonate-")
        || text.starts_with("content-")
}

/// Gives a request an id, unless the client gave it one. First of all, so that also a refusal can tell it.
pub fn ensure_audit_id(headers: &mut HeaderMap) {
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
pub fn keep_ids_out_of_tables(headers: &mut HeaderMap) {
    for name in [AUDIT_ID, TRACEPARENT] {
        if let Some(id) = headers.get_mut(name) {
            id.set_sensitive(true);
        }
    }
}

/// Headers that the agent sets on every request that leaves, besides identity. `Expect` ends here: the agent itself asks the
/// client for the body (100 Continue) as soon as the server reads it. `forwarded_for` is the client's address as
/// [`forwarded_for`] made it.
pub fn prepare_request(headers: &mut HeaderMap, forwarded_for: &HeaderValue) {
    headers.remove(EXPECT);
    append_forwarded_for(headers, forwarded_for);
}

/// A client's address as `X-Forwarded-For` has it.
pub fn forwarded_for(client: IpAddr) -> HeaderValue {
    // An address is always a legal value.
    HeaderValue::try_from(client.to_canonical().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// Appends the client's address to one `X-Forwarded-For`, as Go's ReverseProxy does. kube-apiserver takes the audit's
/// source addresses from it.
fn append_forwarded_for(headers: &mut HeaderMap, client: &HeaderValue) {
    if !headers.contains_key(X_FORWARDED_FOR) {
        headers.insert(X_FORWARDED_FOR, client.clone());
        return;
    }
    let mut joined = String::new();
    let values = headers.get_all(X_FORWARDED_FOR).iter().chain([client]);
    for text in values.filter_map(|value| value.to_str().ok()) {
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(text);
    }
    insert(headers, X_FORWARDED_FOR, &joined);
}

/// The target for a server: same path and query, byte for byte. HTTP/2 wants scheme and authority, HTTP/1.1 a `Host`.
/// The client's own authority is kept, so that a `Location` the server makes points where the client can go.
pub fn upstream_target(
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
    fn nominated_and_fixed_hop_headers_go() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers, gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        let left: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
            .collect();
        assert_eq!(left, [("accept", "*/*"), ("te", "trailers")]);
    }

    #[test]
    fn what_is_meant_for_the_server_cannot_be_nominated() {
        let pairs = [
            ("impersonate-user", "bob"),
            ("impersonate-extra-scopes", "s"),
            ("authorization", "Bearer t"),
            ("content-length", "5"),
            ("host", "k"),
        ];
        let mut headers = map(&pairs);
        for (name, _) in pairs {
            headers.append(CONNECTION, HeaderValue::from_static(name));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&pairs));
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
    fn forwarded_for_is_one_list() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("expect", "100-continue"),
        ]);
        prepare_request(
            &mut headers,
            &forwarded_for("::ffff:192.0.2.7".parse().unwrap()),
        );
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 192.0.2.7");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
        assert!(!headers.contains_key(EXPECT));
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
