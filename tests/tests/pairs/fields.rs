//! What a workload behind a server gets of the fields of a request: as it was, apart from what a proxy adds.

use http::{HeaderMap, HeaderValue, Method};
use mvp_tests::fixtures::admin;
use mvp_tests::pair::{Case, Protocol};

use crate::odd::{ECHO, Scene, Seen};

/// A workload that says which fields it got.
const FIELDS: &str = "/api/v1/namespaces/default/pods/p/proxy/headers";

#[tokio::test]
async fn odd_fields_arrive_as_they_were() {
    let scene = Scene::new().await;
    let pairs = scene.pairs();
    let admin = admin(&scene.plane);
    let get = || Case::get(&admin, FIELDS);
    for case in [
        get().header("x-empty", "").header("x-tab", "a\tb"),
        get().header("x-twice", "1").header("x-twice", "2"),
        get().header("cookie", "a=1; b=2"),
        get().header("cookie", "a=1").header("cookie", "b=2"),
        get().header("x_y.z~!#$%&'*+-^`|", "1"),
        get().header("te", "trailers"),
        get()
            .header("accept-encoding", "gzip")
            .header("accept-language", "de, en;q=0.5"),
        get()
            .header("range", "bytes=0-1")
            .header("if-range", "\"x\""),
        get()
            .header("origin", "https://a")
            .header("referer", "https://b/c?d#e"),
        get()
            .header("max-forwards", "1")
            .header("via", "1.1 x")
            .header("forwarded", "for=1.2.3.4"),
        get()
            .header("content-type", "x/y")
            .header("content-language", "de"),
        get().header("user-agent", "").header("accept", "*/*"),
        get().header("x-large", &"v".repeat(60_000)),
        get()
            .header("traceparent", "00-1-2-01")
            .header("priority", "u=1"),
        Case::new(&admin, Method::POST, FIELDS),
        Case::new(&admin, Method::POST, FIELDS).body("text/plain", "hello"),
        Case::new(&admin, Method::PUT, FIELDS).header("content-length", "0"),
        Case::new(&admin, Method::DELETE, FIELDS),
        Case::new(&admin, Method::OPTIONS, FIELDS).header("access-control-request-method", "PUT"),
    ] {
        for protocol in Protocol::BOTH {
            let (straight, through) = pairs.run(&case, protocol).await.unwrap();
            assert_eq!(straight.status, 200, "{case}");
            assert_eq!(
                through.received, straight.received,
                "{case} over {protocol:?}"
            );
            assert_eq!(
                arrived(&through.body),
                arrived(&straight.body),
                "{case} over {protocol:?}"
            );
        }
    }
    // What no library would send.
    let bytes = format!(
        "GET {FIELDS} HTTP/1.1\r\nhost: kubernetes\r\nX-Utf8: caf\u{e9}\r\nX-Empty:\r\nX-Tab: \ta\tb \t\r\n\
         X-Twice: 1\r\nx-twice: 2\r\nCookie: a=1\r\nAccept: */*\r\nTE: trailers, deflate;q=0.5\r\n\r\n"
    );
    let [straight, through] = scene.both(&bytes, &[false]).await;
    assert_eq!(straight[0].0, 200);
    let fields = |seen: &[Seen]| {
        let mut fields = arrived(&seen[0].2);
        // Hop by hop, apart from trailers.
        fields.retain(|(name, _)| name != "te");
        fields
    };
    assert_eq!(fields(&through), fields(&straight));
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("5"));
    let case = Case::new(&admin, Method::POST, ECHO)
        .body("text/plain", "hello")
        .header("trailer", "x-sum")
        .header("te", "trailers")
        .trailers(trailers);
    pairs.same(&case, 200, 1).await;
}

/// Fields but those that a proxy adds, and those that a client of HTTP/1.1 has and one of HTTP/2 has not.
fn arrived(body: &str) -> Vec<(String, String)> {
    const OF_A_PROXY: [&str; 5] = [
        "host",
        "x-forwarded-for",
        "audit-id",
        "x-kubernetes-peer-proxied",
        "transfer-encoding",
    ];
    let fields: Vec<(String, String)> = serde_json::from_str(body).unwrap();
    let mut fields: Vec<_> = fields
        .into_iter()
        .filter(|(name, _)| !name.starts_with("x-remote-") && !OF_A_PROXY.contains(&name.as_str()))
        // Said or left out, it is the same to a Go server, whose handlers do not see the field.
        .filter(|(name, value)| name != "content-length" || value != "0")
        .collect();
    fields.sort();
    fields
}
