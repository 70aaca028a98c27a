//! What passes through unchanged, what ends at the agent and what it adds: over HTTP/1.1 and HTTP/2 on either side.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use mvp_tests::client::{Client, TestBody, empty, full};
use mvp_tests::raw::Raw;
use mvp_tests::scripted::{Seen, Stage, WIDGETS};
use mvp_tests::sim::pki::ClientAuth;

const EITHER: &[&str] = &["h2", "http/1.1"];
const ONLY_HTTP1: &[&str] = &["http/1.1"];
/// Local, and only on the peer.
const LOCAL: &str = "/custom";

fn ok(_: &Seen) -> Response<TestBody> {
    Response::new(full("done"))
}

async fn tls(stage: &Stage) -> Arc<rustls::ClientConfig> {
    let admin = ClientAuth::Certificate(stage.plane.pki().admin().unwrap());
    Arc::new(stage.plane.pki().client_config(admin, &[]).unwrap())
}

async fn clients(stage: &Stage) -> [Client; 2] {
    let tls = tls(stage).await;
    [
        Client::http1(stage.agent.address, &tls).await.unwrap(),
        Client::http2(stage.agent.address, &tls).await.unwrap(),
    ]
}

/// Trailers behind a body of unknown length, as gRPC-like clients send it.
fn with_trailers(chunks: &'static [&'static str], trailers: &[(&'static str, &str)]) -> TestBody {
    let map: HeaderMap = trailers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
        .collect();
    let data = chunks
        .iter()
        .map(|c| Frame::data(Bytes::from_static(c.as_bytes())));
    let frames: Vec<_> = data.chain([Frame::trailers(map)]).map(Ok).collect();
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test]
async fn path_and_query_arrive_byte_for_byte_at_either_server() {
    let stage = Stage::new(EITHER, ok).await.unwrap();
    for (version, client) in clients(&stage).await.iter().enumerate() {
        for (number, tail) in [
            "?",
            "?a=1&a=2&&b=&=c&d",
            "?x=%20%2B+%2f%2F%c3%a9&y=a;b",
            "/%61%2e%2E;v=1",
            "/a%20b?fieldSelector=metadata.name%3Done,spec.x!%3D%22y%22",
            "/~!$&'()*+,=:@?/?:@!$'()*+,",
            "/%E2%98%83?q=%E2%98%83%00",
            "/one?labelSelector=a%20in%20(b,c)&continue=eyJ2IjoiLw%3D%3D",
            "/?limit=5",
        ]
        .into_iter()
        .enumerate()
        {
            let mark = format!(
                "{}z={version}{number}",
                if tail.contains('?') { "&" } else { "?" }
            );
            for (base, server) in [(LOCAL, &stage.local), (WIDGETS, &stage.peer)] {
                let target = format!("{base}{tail}{mark}");
                let answer = client.get(&target, &[]).await.unwrap();
                assert_eq!(answer.status, 200, "{target}: {}", answer.text());
                server.only(&target).unwrap();
            }
        }
    }
    // Double slashes are parts of a path to kube-apiserver, which answers what they mean.
    let client = &clients(&stage).await[1];
    for target in ["/custom//a///b", "//custom/x/../y/./z", "/custom/a%2Fb//"] {
        client.get(target, &[]).await.unwrap();
        stage.local.only(target).unwrap();
    }
    let target = format!("/{WIDGETS}/one//?double");
    client.get(&target, &[]).await.unwrap();
    stage.peer.only(&target).unwrap();
}

#[tokio::test]
async fn every_pair_of_http_versions_works() {
    for (alpn, upstream) in [(EITHER, Version::HTTP_2), (ONLY_HTTP1, Version::HTTP_11)] {
        let stage = Stage::new(alpn, |seen: &Seen| {
            let body = seen.body.clone();
            let mut response = Response::new(full(body));
            response
                .headers_mut()
                .insert("x-answer", HeaderValue::from_static("yes"));
            response
        })
        .await
        .unwrap();
        for (number, client) in clients(&stage).await.iter().enumerate() {
            for (base, server) in [(LOCAL, &stage.local), (WIDGETS, &stage.peer)] {
                let target = format!("{base}?pair={number}");
                let answer = client
                    .call(
                        Method::POST,
                        &target,
                        &[("content-type", "text/x")],
                        full("hello"),
                    )
                    .await
                    .unwrap();
                assert_eq!(
                    (answer.status.as_u16(), answer.text().as_str()),
                    (200, "hello")
                );
                assert_eq!(answer.headers["x-answer"], "yes");
                assert_eq!(answer.headers["content-length"], "5");
                let seen = server.only(&target).unwrap();
                assert_eq!(seen.version, upstream);
                assert_eq!(
                    seen.headers["content-length"], "5",
                    "length is told, not chunked"
                );
                assert_eq!(seen.headers["content-type"], "text/x");
                // The client's own authority, wherever the version puts it.
                let authority = match upstream {
                    Version::HTTP_2 => seen.authority.unwrap(),
                    _ => seen.headers["host"].to_str().unwrap().to_owned(),
                };
                assert_eq!(authority, "kubernetes");
            }
        }
    }
}

#[tokio::test]
async fn connections_to_a_server_are_used_again() {
    for alpn in [EITHER, ONLY_HTTP1] {
        let stage = Stage::new(alpn, ok).await.unwrap();
        let [http1, _] = clients(&stage).await;
        // The client's connection stays on one data thread, and so does its pool.
        for number in 0..20 {
            let answer = http1
                .get(&format!("{WIDGETS}?n={number}"), &[])
                .await
                .unwrap();
            assert_eq!(answer.status, 200);
        }
        let seen = stage.peer.seen();
        let mut connections: Vec<_> = seen.iter().map(|seen| seen.connection).collect();
        connections.dedup();
        assert_eq!(connections.len(), 1, "{connections:?}");
    }
}

#[tokio::test]
async fn head_and_options_and_unusual_methods_pass() {
    for alpn in [EITHER, ONLY_HTTP1] {
        let stage = Stage::new(alpn, |seen: &Seen| {
            let mut response = Response::new(if seen.method == Method::HEAD {
                empty()
            } else {
                full("body")
            });
            if seen.method == Method::HEAD {
                response
                    .headers_mut()
                    .insert("content-length", HeaderValue::from_static("4711"));
            }
            response
        })
        .await
        .unwrap();
        for client in clients(&stage).await {
            for base in [LOCAL, WIDGETS] {
                let head = client.call(Method::HEAD, base, &[], empty()).await.unwrap();
                assert_eq!(head.headers["content-length"], "4711");
                assert!(head.body.is_empty());
                for method in ["OPTIONS", "TRACE", "PATCH", "SEARCH"] {
                    let method = Method::from_bytes(method.as_bytes()).unwrap();
                    let answer = client.call(method, base, &[], empty()).await.unwrap();
                    assert_eq!(answer.text(), "body");
                }
            }
        }
        let methods: Vec<_> = stage
            .peer
            .seen()
            .into_iter()
            .map(|seen| seen.method.to_string())
            .collect();
        assert_eq!(
            methods,
            ["HEAD", "OPTIONS", "TRACE", "PATCH", "SEARCH"].repeat(2)
        );
    }
}

#[tokio::test]
async fn the_agents_headers_are_added_and_hop_by_hop_ones_end() {
    let stage = Stage::new(EITHER, |_: &Seen| {
        Response::builder()
            .header("x-kept", "1")
            .header("x-kept", "2")
            .header("content-encoding", "gzip")
            .header("etag", "\"e\"")
            .header("audit-id", "from-server")
            .body(full(&[0x1f, 0x8b, 8, 0][..]))
            .unwrap()
    })
    .await
    .unwrap();
    let mut raw = Raw::http1(stage.agent.address, &tls(&stage).await)
        .await
        .unwrap();
    for (base, server) in [(LOCAL, &stage.local), (WIDGETS, &stage.peer)] {
        raw.send(format!(
            "GET {base} HTTP/1.1\r\nHost: kubernetes\r\nConnection: keep-alive, X-Mine\r\nconnection: x-other\r\n\
             X-Mine: 1\r\nX-Other: 2\r\nKeep-Alive: timeout=9\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic eDp5\r\nTE: trailers, deflate\r\nX-Forwarded-For: 10.1.1.1\r\n\
             X-Forwarded-For: 10.1.1.2\r\nUser-Agent: kubectl/v1.36\r\nAccept-Encoding: gzip\r\nX-Twice: a\r\nX-Twice: b\r\n\
             Traceparent: 00-aa-bb-01\r\n\r\n"
        ))
        .await
        .unwrap();
        let answer = raw.answer(false).await.unwrap();
        assert_eq!(
            answer.body,
            [0x1f, 0x8b, 8, 0],
            "compressed bytes pass untouched"
        );
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_eq!(answer.header("etag"), Some("\"e\""));
        assert_eq!(answer.header("audit-id"), Some("from-server"));
        assert_eq!(
            answer
                .headers
                .iter()
                .filter(|(name, _)| name == "x-kept")
                .count(),
            2
        );

        let seen = server.only(base).unwrap().headers;
        for gone in [
            "connection",
            "x-mine",
            "x-other",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
        ] {
            assert!(!seen.contains_key(gone), "{gone}");
        }
        assert_eq!(seen["te"], "trailers");
        assert_eq!(seen["x-forwarded-for"], "10.1.1.1, 10.1.1.2, 127.0.0.1");
        assert_eq!(seen.get_all("x-forwarded-for").iter().count(), 1);
        assert_eq!(seen["user-agent"], "kubectl/v1.36");
        assert_eq!(seen["accept-encoding"], "gzip");
        assert_eq!(seen["traceparent"], "00-aa-bb-01");
        let twice: Vec<_> = seen.get_all("x-twice").iter().collect();
        assert_eq!(twice, ["a", "b"]);
        let id = seen["audit-id"].to_str().unwrap();
        assert!(id.parse::<uuid::Uuid>().is_ok(), "{id}");
        let marks: Vec<_> = seen.get_all("x-kubernetes-peer-proxied").iter().collect();
        let expected: &[&str] = if base == WIDGETS { &["true"] } else { &[] };
        assert_eq!(marks, expected);
    }
    let [_, http2] = clients(&stage).await;
    let target = format!("{WIDGETS}?id");
    http2
        .get(
            &target,
            &[("audit-id", "mine"), ("x-kubernetes-peer-proxied", "false")],
        )
        .await
        .unwrap();
    let seen = stage.peer.only(&target).unwrap().headers;
    assert_eq!(seen["audit-id"], "mine");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    let marks: Vec<_> = seen.get_all("x-kubernetes-peer-proxied").iter().collect();
    assert_eq!(marks, ["true"], "set, never appended to");
}

#[tokio::test]
async fn a_servers_hop_by_hop_headers_end_at_the_agent() {
    // hyper's server would refuse to send these over HTTP/2.
    let stage = Stage::new(ONLY_HTTP1, |_: &Seen| {
        Response::builder()
            .header("connection", "x-secret")
            .header("x-secret", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
            .header("upgrade", "h2c")
            .header("www-authenticate", "Bearer")
            .body(full("x"))
            .unwrap()
    })
    .await
    .unwrap();
    for client in clients(&stage).await {
        let answer = client.get(WIDGETS, &[]).await.unwrap();
        for gone in [
            "connection",
            "x-secret",
            "keep-alive",
            "proxy-authenticate",
            "upgrade",
        ] {
            assert!(!answer.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn trailers_pass_in_both_directions_without_identity() {
    for alpn in [EITHER, ONLY_HTTP1] {
        let stage = Stage::new(alpn, |_: &Seen| {
            let mut response = Response::new(with_trailers(&["a", "b"], &[("x-sum", "2")]));
            response
                .headers_mut()
                .insert("trailer", HeaderValue::from_static("x-sum"));
            response
        })
        .await
        .unwrap();
        for (number, client) in clients(&stage).await.iter().enumerate() {
            for (base, server) in [(LOCAL, &stage.local), (WIDGETS, &stage.peer)] {
                let target = format!("{base}?t={number}");
                let body = with_trailers(
                    &["one", "two"],
                    &[
                        ("x-check", "6"),
                        ("x-remote-user", "root"),
                        ("x-kubernetes-peer-proxied", "true"),
                    ],
                );
                let headers = [
                    (
                        "trailer",
                        "x-check, x-remote-user, x-kubernetes-peer-proxied",
                    ),
                    ("te", "trailers"),
                ];
                let answer = client
                    .call(Method::POST, &target, &headers, body)
                    .await
                    .unwrap();
                assert_eq!(answer.text(), "ab");
                assert_eq!(
                    answer.trailers.expect("trailers of the answer")["x-sum"],
                    "2",
                    "{alpn:?} {number}"
                );
                let seen = server.only(&target).unwrap();
                assert_eq!(seen.body, "onetwo");
                let trailers = seen.trailers.expect("trailers of the request");
                assert_eq!(trailers["x-check"], "6");
                assert_eq!(trailers.len(), 1, "{trailers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_and_then_the_answer() {
    let stage = Stage::new(EITHER, |seen: &Seen| Response::new(full(seen.body.clone())))
        .await
        .unwrap();
    let mut raw = Raw::http1(stage.agent.address, &tls(&stage).await)
        .await
        .unwrap();
    for (base, server) in [(LOCAL, &stage.local), (WIDGETS, &stage.peer)] {
        raw.send(format!(
            "POST {base} HTTP/1.1\r\nHost: kubernetes\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ))
        .await
        .unwrap();
        assert_eq!(raw.answer(false).await.unwrap().status, 100);
        raw.send("hello").await.unwrap();
        let answer = raw.answer(false).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert!(!server.only(base).unwrap().headers.contains_key("expect"));
    }
}

#[tokio::test]
async fn a_refused_client_that_expects_100_is_not_asked_for_its_body() {
    let stage = Stage::new(EITHER, ok).await.unwrap();
    let stranger = mvp_tests::sim::pki::Identity::self_signed("stranger").unwrap();
    let config = stage
        .plane
        .pki()
        .client_config(ClientAuth::Certificate(stranger), &[])
        .unwrap();
    let mut raw = Raw::http1(stage.agent.address, &Arc::new(config))
        .await
        .unwrap();
    raw.send("POST /custom HTTP/1.1\r\nHost: kubernetes\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(raw.answer(false).await.unwrap().status, 401);
    assert!(stage.local.seen().is_empty());
}

#[tokio::test]
async fn a_chunked_upload_arrives_whole() {
    for alpn in [EITHER, ONLY_HTTP1] {
        let stage = Stage::new(alpn, |seen: &Seen| Response::new(full(seen.body.clone())))
            .await
            .unwrap();
        let mut raw = Raw::http1(stage.agent.address, &tls(&stage).await)
            .await
            .unwrap();
        raw.send(format!(
            "POST {WIDGETS} HTTP/1.1\r\nHost: kubernetes\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=\"1\"\r\nhello\r\n"
        ))
        .await
        .unwrap();
        raw.send("6\r\n world\r\n0\r\n\r\n").await.unwrap();
        let answer = raw.answer(false).await.unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "hello world")
        );
        let seen = stage.peer.only(WIDGETS).unwrap();
        assert_eq!(seen.body, "hello world");
        assert!(
            !seen.headers.contains_key("content-length"),
            "nobody knew it"
        );
    }
}

#[tokio::test]
async fn large_headers_within_the_limits_pass() {
    // As much as the test's own client and servers take over HTTP/2 by default.
    const ANSWER: usize = 12 << 10;
    for (alpn, size) in [(EITHER, ANSWER), (ONLY_HTTP1, 200 << 10)] {
        let stage = Stage::new(alpn, |seen: &Seen| {
            let mut response = Response::new(empty());
            let large = &seen.headers["x-large"].as_bytes()[..ANSWER];
            let large = HeaderValue::from_bytes(large).unwrap();
            response.headers_mut().insert("x-large", large);
            response
        })
        .await
        .unwrap();
        let large = "v".repeat(size);
        for client in clients(&stage).await {
            let answer = client.get(WIDGETS, &[("x-large", &large)]).await.unwrap();
            assert_eq!(answer.headers["x-large"], large[..ANSWER]);
        }
        for seen in stage.peer.seen() {
            assert_eq!(seen.headers["x-large"], large.as_str());
        }
    }
}
