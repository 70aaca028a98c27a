//! HTTP/1.1 requests that two parsers may read differently: refused, or passed on in one interpretation. In none does a
//! server see a request that the agent did not take for one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use http::Response;
use mvp_tests::client::{Client, full};
use mvp_tests::raw::Raw;
use mvp_tests::scripted::{Seen, Stage};
use mvp_tests::sim::pki::ClientAuth;

/// What an attacker wants to get through.
const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: k\r\nX-Remote-User: root\r\n\r\n";

/// How a request must end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// A 4xx answer, 501 to another transfer coding as in Go, or none at all; then the connection is closed.
    Refused,
    /// Passed on with this body, then the connection is closed: what follows was not read.
    Alone(&'static str),
}

use End::{Alone, Refused};

fn cases() -> Vec<(&'static str, String, End)> {
    let case = |what, head: &str, rest: &str, end| {
        (
            what,
            format!("POST /first HTTP/1.1\r\nHost: k\r\n{head}\r\n\r\n{rest}"),
            end,
        )
    };
    let chunked = "Transfer-Encoding: chunked";
    vec![
        // RFC 9112 §6.1: chunked wins, and the connection is closed behind it.
        case(
            "length, then chunked",
            &format!("Content-Length: 6\r\n{chunked}"),
            &format!("0\r\n\r\n{SECOND}"),
            Alone(""),
        ),
        case(
            "chunked, then length",
            &format!("{chunked}\r\nContent-Length: 4"),
            &format!("1\r\nx\r\n0\r\n\r\n{SECOND}"),
            Alone("x"),
        ),
        case(
            "two lengths",
            "Content-Length: 5\r\nContent-Length: 0",
            &format!("hello{SECOND}"),
            Refused,
        ),
        case(
            "a list of lengths",
            "Content-Length: 5, 0",
            &format!("hello{SECOND}"),
            Refused,
        ),
        case(
            "a signed length",
            "Content-Length: +5",
            &format!("hello{SECOND}"),
            Refused,
        ),
        case("a negative length", "Content-Length: -1", SECOND, Refused),
        case(
            "a hexadecimal length",
            "Content-Length: 0x5",
            &format!("hello{SECOND}"),
            Refused,
        ),
        case("an empty length", "Content-Length: ", SECOND, Refused),
        case(
            "a length beyond 64 bits",
            "Content-Length: 18446744073709551616",
            SECOND,
            Refused,
        ),
        case(
            "a space before the colon",
            "Content-Length : 5",
            &format!("hello{SECOND}"),
            Refused,
        ),
        case(
            "chunked is not last",
            "Transfer-Encoding: chunked, gzip",
            &format!("0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "another coding",
            "Transfer-Encoding: identity",
            SECOND,
            Refused,
        ),
        case(
            "a mangled coding",
            "Transfer-Encoding: xchunked",
            &format!("0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a quoted coding",
            "Transfer-Encoding: \"chunked\"",
            &format!("0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a control character in the coding",
            "Transfer-Encoding: \u{b}chunked",
            &format!("0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a space before the coding's colon",
            "Transfer-Encoding : chunked",
            &format!("0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a folded coding",
            "Transfer-Encoding:\r\n chunked",
            &format!("0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a folded header",
            "X-A: b\r\n X-Remote-User: root",
            SECOND,
            Refused,
        ),
        case(
            "a chunk size that is no number",
            chunked,
            &format!("zz\r\nhello\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a signed chunk size",
            chunked,
            &format!("-1\r\nx\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a chunk size in C",
            chunked,
            &format!("0x1\r\nx\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a chunk size beyond 64 bits",
            chunked,
            &format!("10000000000000005\r\nhello\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a chunk longer than it says",
            chunked,
            &format!("1\r\nhello\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a chunk ended by a bare line feed",
            chunked,
            &format!("5\r\nhello\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a chunk size ended by a bare line feed",
            chunked,
            &format!("5\nhello\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case(
            "a line feed in a chunk extension",
            chunked,
            &format!("5;a\nb\r\nhello\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        case("NUL in a value", "X-A: a\0b", SECOND, Refused),
        case("NUL in a name", "X\0A: b", SECOND, Refused),
        case(
            "a bare carriage return",
            "X-A: a\rX-Remote-User: root",
            SECOND,
            Refused,
        ),
        case("a header without a colon", "X-Remote-User", SECOND, Refused),
        case("an empty name", ": x", SECOND, Refused),
        (
            "a space before the first header",
            "GET /first HTTP/1.1\r\n Host: k\r\n\r\n".to_owned() + SECOND,
            Refused,
        ),
        (
            "a version of its own",
            "GET /first HTTP/1.2\r\nHost: k\r\n\r\n".to_owned() + SECOND,
            Refused,
        ),
        (
            "no version",
            "GET /first\r\n\r\n".to_owned() + SECOND,
            Refused,
        ),
        (
            "spaces in the target",
            "GET /first second HTTP/1.1\r\nHost: k\r\n\r\n".to_owned() + SECOND,
            Refused,
        ),
        (
            "a line feed in the target",
            "GET /fi\nrst HTTP/1.1\r\nHost: k\r\n\r\n".to_owned() + SECOND,
            Refused,
        ),
        (
            "chunked in HTTP/1.0",
            format!("POST /first HTTP/1.0\r\nHost: k\r\n{chunked}\r\n\r\n0\r\n\r\n{SECOND}"),
            Refused,
        ),
        (
            "HTTP/1.0",
            "GET /first HTTP/1.0\r\nHost: k\r\n\r\n".to_owned() + SECOND,
            Alone(""),
        ),
        (
            "the end is asked for",
            "GET /first HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n".to_owned() + SECOND,
            Alone(""),
        ),
        (
            "CONNECT",
            format!(
                "CONNECT first:443 HTTP/1.1\r\nHost: first:443\r\nConnection: close\r\n\r\n{SECOND}"
            ),
            Refused,
        ),
        (
            "the preface of HTTP/2",
            format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SECOND}"),
            Refused,
        ),
    ]
}

async fn tls(stage: &Stage) -> Arc<rustls::ClientConfig> {
    let admin = ClientAuth::Certificate(stage.plane.pki().admin().unwrap());
    Arc::new(stage.plane.pki().client_config(admin, &[]).unwrap())
}

fn ok(_: &Seen) -> Response<mvp_tests::client::TestBody> {
    Response::new(full("ok"))
}

#[tokio::test]
async fn no_server_ever_sees_a_second_request() {
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let stage = Stage::new(alpn, ok).await.unwrap();
        let tls = tls(&stage).await;
        for (number, (what, bytes, end)) in cases().into_iter().enumerate() {
            let mut raw = Raw::http1(stage.agent.address, &tls).await.unwrap();
            let target = format!("/case{number}");
            raw.send(bytes.replace("/first", &target)).await.unwrap();
            let received = raw.until_closed().await.expect(what);
            let received = String::from_utf8_lossy(&received);
            let status = received.get(..12).unwrap_or_default().to_owned();
            let answers = received.matches("HTTP/1.").count();
            assert!(answers <= 1, "{what}: {received}");
            match end {
                Refused => assert!(
                    status.is_empty()
                        || status.starts_with("HTTP/1.1 4")
                        || status == "HTTP/1.1 501",
                    "{what}: {received}"
                ),
                Alone(body) => {
                    assert!(status.ends_with(" 200"), "{what}: {received}");
                    assert_eq!(stage.local.only(&target).unwrap().body, body, "{what}");
                }
            }
        }
        // None of it is the server's fault, and the connections to it are in step.
        let available = stage.agent.metric("mvp_server_available{server=\"cp-a\"}");
        assert_eq!(available.await.unwrap(), 1.0);
        let ejections = stage.agent.metric("mvp_ejections_total{server=\"cp-a\"}");
        assert_eq!(ejections.await.unwrap(), 0.0);
        let client = Client::http1(stage.agent.address, &tls).await.unwrap();
        for number in 0..20 {
            let target = format!("/after?{number}");
            assert_eq!(client.get(&target, &[]).await.unwrap().text(), "ok");
            stage.local.only(&target).unwrap();
        }
        for seen in stage.local.seen() {
            if let Some(number) = seen.target.strip_prefix("/case") {
                let (what, bytes, end) = &cases()[number.parse::<usize>().expect("as it was sent")];
                // A body that turns out malformed half-way had begun to go to the server, which saw it break off.
                assert!(
                    *end != Refused || bytes.contains("chunked"),
                    "{what}: {seen:?}"
                );
                assert_eq!(seen.headers["x-remote-user"], "kubernetes-admin", "{what}");
            } else {
                assert!(seen.target.starts_with("/after?"), "{seen:?}");
            }
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_each_as_its_own() {
    let stage = Stage::new(&["h2", "http/1.1"], |seen: &Seen| {
        Response::new(full(seen.target.clone()))
    })
    .await
    .unwrap();
    let mut raw = Raw::http1(stage.agent.address, &tls(&stage).await)
        .await
        .unwrap();
    raw.send(
        "POST /a HTTP/1.1\r\nHost: k\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: k\r\n\r\n\
         POST /c HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /d HTTP/1.1\r\nHost: k\r\n\r\n",
    )
    .await
    .unwrap();
    for target in ["/a", "/b", "/c", "/d"] {
        assert_eq!(raw.answer(false).await.unwrap().text(), target);
    }
    let bodies: Vec<_> = stage
        .local
        .seen()
        .into_iter()
        .map(|seen| seen.body)
        .collect();
    assert_eq!(bodies, ["abc", "", "x", ""]);
}

#[tokio::test]
async fn a_target_with_a_host_of_its_own_is_one_request_to_the_same_server() {
    for alpn in [&["h2"][..], &["http/1.1"]] {
        let stage = Stage::new(alpn, ok).await.unwrap();
        let mut raw = Raw::http1(stage.agent.address, &tls(&stage).await)
            .await
            .unwrap();
        for (target, host) in [
            ("https://elsewhere:1/first", "elsewhere:1"),
            ("/second", "k"),
            ("//elsewhere/third", "k"),
        ] {
            raw.send(format!("GET {target} HTTP/1.1\r\nHost: k\r\n\r\n"))
                .await
                .unwrap();
            assert_eq!(raw.answer(false).await.unwrap().status, 200, "{target}");
            let seen = stage.local.seen().pop().unwrap();
            assert!(target.ends_with(&seen.target), "{target}: {}", seen.target);
            let hosts: Vec<_> = seen
                .headers
                .get_all("host")
                .iter()
                .map(|v| v.to_str().unwrap())
                .collect();
            match seen.authority.as_deref() {
                Some(authority) => assert_eq!((authority, hosts.len()), (host, 0)),
                None => assert_eq!(hosts, [host]),
            }
        }
    }
}
