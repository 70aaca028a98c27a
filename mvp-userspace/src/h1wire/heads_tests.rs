//! Whole connections, in pieces of any size.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::h2wire::REFUSED;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 8192,
    count: 20,
};

/// What the library gets, and whether it is told that the connection has ended.
fn through(sent: &[u8], step: usize) -> (String, Heads) {
    let (mut heads, answered) = Heads::new(LIMITS);
    let mut out = Vec::new();
    for chunk in sent.chunks(step) {
        match heads.feed(chunk) {
            None => out.extend_from_slice(chunk),
            Some(instead) => out.extend(instead),
        }
        // A client that waits for the answer to each request, as far as that matters.
        answered.next(false);
        out.extend(heads.settled().unwrap_or_default());
    }
    (String::from_utf8_lossy(&out).into_owned(), heads)
}

fn at_every_pace(sent: &str, expected: &str) {
    for step in [1, 2, 3, 7, 64, sent.len()] {
        let (out, heads) = through(sent.as_bytes(), step);
        assert_eq!(out, expected, "{sent:.200?} by {step}");
        assert!(!heads.is_over(), "{sent:.200?} by {step}");
    }
}

#[test]
fn what_can_be_carried_goes_on_as_it_came() {
    for sent in [
        "GET / HTTP/1.1\r\nHost: k\r\n\r\nGET /b?c HTTP/1.1\nHost: k\n\n",
        "\r\n\nPOST /a HTTP/1.1\r\nContent-Length: 24\r\n\r\nDELETE /a#b HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n16\r\nDELETE /a#b HTTP/1.1\r\n\r\n0\r\nA: /#b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        at_every_pace(sent, sent);
    }
}

#[test]
fn what_cannot_is_refused_and_the_next_request_goes_on() {
    let next = "GET /next HTTP/1.1\r\nHost: k\r\n\r\n";
    let fields: String = (0..=LIMITS.count)
        .map(|n| format!("X-{n}: v\r\n"))
        .collect();
    let large = format!("X: {}\r\n", "v".repeat(3 * LIMITS.bytes));
    for (head, body, stand_in, mark) in [
        ("PUT /a#b HTTP/1.1\r\nHost: k\r\n", "", "PUT /a_b", "400"),
        ("GET /`<\"> HTTP/1.1\r\nHost: k\r\n", "", "GET /____", "400"),
        (
            "POST /# HTTP/1.1\r\nHost: k\r\nContent-Length: 5\r\n",
            "hello",
            "POST /_",
            "400",
        ),
        (
            "POST /# HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "POST /_",
            "400",
        ),
        (
            &format!("POST /a HTTP/1.1\r\nHost: k\r\n{fields}Content-Length: 3\r\n"),
            "abc",
            "POST /a",
            "431-count",
        ),
        (
            &format!("POST /a HTTP/1.1\r\nHost: k\r\n{large}Content-Length: 3\r\n"),
            "abc",
            "POST /",
            "431-bytes",
        ),
    ] {
        let sent = format!("{next}{head}\r\n{body}{next}");
        // A large head has no target any more if it is never seen whole.
        let refused = |target: &str| {
            format!("{next}{target} HTTP/1.1\r\nHost: k\r\n{REFUSED}: {mark}\r\n\r\n{next}")
        };
        let expected = refused(stand_in);
        for step in [1, 2, 3, 7, 64, sent.len()] {
            let (out, heads) = through(sent.as_bytes(), step);
            let whole = step == sent.len() && mark == "431-bytes";
            assert_eq!(
                out,
                if whole {
                    refused("POST /a")
                } else {
                    expected.clone()
                },
                "by {step}"
            );
            assert!(!heads.is_over() && !heads.is_ending());
        }
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(66_000));
    let (mut heads, _answered) = Heads::new(HeadLimits {
        bytes: 1 << 20,
        count: 20,
    });
    let out = heads.feed(long.as_bytes()).unwrap();
    assert!(out.len() < 9000 && out.ends_with(b": 414\r\n\r\n"));
}

#[test]
fn a_connection_that_cannot_go_on_ends_with_an_answer() {
    let rest = "GET /smuggled HTTP/1.1\r\n\r\n";
    for (head, mark) in [
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n", "400-head"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n", "501"),
        ("POST / HTTP/3\r\n", "400-head"),
        (
            "POST /# HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n",
            "400",
        ),
        ("POST /# HTTP/1.1\r\nContent-Length: 262145\r\n", "400"),
    ] {
        let sent = format!("{head}\r\n{rest}");
        for step in [1, 5, sent.len()] {
            let (out, heads) = through(sent.as_bytes(), step);
            assert!(heads.is_ending(), "{head}");
            let end = format!("{REFUSED}: {mark}\r\nConnection: close\r\n\r\n");
            assert!(out.starts_with("POST /") && out.ends_with(&end), "{out}");
        }
    }
    // Neither one that never ends.
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "v".repeat(5 * LIMITS.bytes));
    let (out, heads) = through(endless.as_bytes(), 1000);
    assert!(heads.is_ending() && out.contains("431-bytes") && heads.held.is_empty());
    // Nor one whose chunks are none: the library finds the same.
    let sent = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{rest}");
    let (out, heads) = through(sent.as_bytes(), 9);
    assert!(heads.is_over() && !out.contains("smuggled"));
}

#[test]
fn behind_an_upgrade_the_answer_decides() {
    let upgrade = "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let request = "DELETE /a#b HTTP/1.1\r\n\r\n";
    for (upgraded, expected) in [
        (true, request.to_owned()),
        (
            false,
            format!("DELETE /a_b HTTP/1.1\r\n{REFUSED}: 400\r\n\r\n"),
        ),
    ] {
        let (mut heads, answered) = Heads::new(LIMITS);
        let sent = [upgrade, request].concat();
        assert_eq!(heads.feed(sent.as_bytes()).unwrap(), upgrade.as_bytes());
        assert!(heads.settled().is_none() && heads.may_read());
        assert_eq!(heads.feed(&vec![b'\n'; 64 << 10]), Some(Vec::new()));
        assert!(!heads.may_read(), "no more than that waits");
        answered.next(upgraded);
        let out = heads.settled().unwrap();
        let newlines = "\n".repeat(64 << 10);
        assert_eq!(String::from_utf8(out).unwrap(), expected + &newlines);
        if upgraded {
            assert_eq!(heads.feed(request.as_bytes()), None, "another protocol");
        }
    }
}

/// The targets and marks of the requests that the library finds in the bytes.
fn found(bytes: Vec<u8>) -> Vec<(String, Option<HeaderValue>)> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let of_service = Arc::clone(&found);
    let service = service_fn(move |request: Request<Incoming>| {
        let found = Arc::clone(&of_service);
        async move {
            let target = request.uri().to_string();
            let mark = request.headers().get(REFUSED).cloned();
            found.lock().unwrap().push((target, mark));
            // To its end, so that the next one is found.
            let _read = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async move {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let mut builder = http1::Builder::new();
        let served = builder
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        let _ends = tokio::join!(served, client.read_to_end(&mut answers));
    });
    std::mem::take(&mut *found.lock().unwrap())
}

#[test]
fn the_library_finds_each_request() {
    let sent = "GET /a HTTP/1.1\r\nHost: k\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nxyGET /c HTTP/1.1\r\n\r\n";
    let found = found(sent.as_bytes().to_vec());
    let targets: Vec<_> = found.iter().map(|(target, _)| target.as_str()).collect();
    assert_eq!(targets, ["/a", "/b", "/c"]);
}

/// Pieces of requests, most of them whole, that meet at any place.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        "GET /a#b HTTP/1.1\r\nHost: k\r\n\r\n",
        "GET /c HTTP/1.1\r\nHost: k\r\n\r\n",
        "POST /d HTTP/1.1\r\nContent-Length: 12\r\n\r\nGET /e#f HTT",
        "POST /g HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\r\n\r\nG\r\n0\r\n\r\n",
        "POST /h#i HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\n#\r\n0\r\nA: b\r\n\r\n",
        "POST /j HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "POST /k HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
        "HEAD /l HTTP/1.1\nA: b\n\n",
        "Content-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\n\r\n",
        "GET /m HTTP/1.1\r\n",
        "0\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "#",
        "/n#o",
    ]);
    prop_oneof![
        9 => fixed.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..9),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The library finds the requests that were looked at and no other one, whatever is sent.
    #[test]
    fn the_library_finds_what_was_looked_at(pieces in prop::collection::vec(piece(), 1..8), step in 1usize..60) {
        let sent = pieces.concat();
        let (mut heads, _answered) = Heads::new(LIMITS);
        let (mut out, mut judged) = (Vec::new(), Vec::new());
        for chunk in sent.chunks(step) {
            heads.judged.clear();
            match heads.feed(chunk) {
                None => out.extend_from_slice(chunk),
                Some(instead) => out.extend(instead),
            }
            judged.append(&mut heads.judged);
        }
        out.extend(heads.give_up());
        let found = found(out);
        prop_assert!(found.len() <= judged.len(), "{found:?} {judged:?}");
        for ((target, mark), (seen, refused)) in found.iter().zip(&judged) {
            prop_assert_eq!(mark.is_some(), *refused, "{:?}", target);
            if !refused {
                prop_assert_eq!(target.as_bytes(), seen.as_slice());
                prop_assert!(!seen.contains(&b'#'));
            }
        }
    }
}
