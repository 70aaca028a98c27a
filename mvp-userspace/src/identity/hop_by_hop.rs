//! What ends at this hop, and what a request gets here instead. It belongs to identity: a client can name any header in `Connection`,
//! and must not take off what says who asks and from where.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONNECTION, EXPECT, HOST, HeaderName, HeaderValue, TE};

use super::authenticate::tokens;

/// One id for a request in every server's audit log (`apiserver/pkg/audit`).
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// RFC 9110 §7.6.1 and the older names that Go's ReverseProxy removes as well. `Trailer` stays: it announces fields that pass on.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "transfer-encoding",
    "upgrade",
];

/// Removes what ends at this hop: the fixed list and what `Connection` nominates, except `is_end_to_end`. Must come before
/// any header of the agent's own is set, so that a client cannot nominate those. `TE: trailers` stays, as HTTP/2 allows it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            .filter(|name| !is_end_to_end(name))
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    // Over HTTP/2 there is none, and one walk over the fields finds that out with less than a lookup for each name.
    if headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
    }
    if let Some(te) = headers.get(TE) {
        let mut tokens = te.to_str().unwrap_or_default().split(',').map(str::trim);
        let trailers = tokens.any(|token| token.eq_ignore_ascii_case("trailers"));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    // All of them begin with one of these.
    name.starts_with(['c', 'k', 'p', 't', 'u']) && HOP_BY_HOP.contains(&name)
}

/// A client's address as `X-Forwarded-For` has it.
pub fn forwarded_for(client: IpAddr) -> HeaderValue {
    // An address is always a legal value.
    HeaderValue::try_from(client.to_canonical().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// Headers that the agent sets on every request that leaves, besides identity. `Expect` ends here: the agent itself asks the
/// client for the body (100 Continue) as soon as the server reads it. `forwarded_for` is the client's address as
/// [`forwarded_for`] made it.
pub(super) fn prepare_request(headers: &mut HeaderMap, forwarded_for: &HeaderValue) {
    headers.remove(EXPECT);
    append_forwarded_for(headers, forwarded_for);
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
    // Values of headers, joined, are a legal value.
    if let Ok(joined) = HeaderValue::try_from(joined) {
        headers.insert(X_FORWARDED_FOR, joined);
    }
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
}
