//! Callers who are not authenticated ride connections of their own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mvp_tests::agent::eventually;
use mvp_tests::client::Client;
use mvp_tests::raw::{GOAWAY, HEADERS, Raw, block};
use mvp_tests::sim::ServerSpec;
use mvp_tests::sim::api::authn::Method;
use mvp_tests::sim::pki::{ClientAuth, Request};

use super::{MAPS, admin, calm_agent, nobody_is_blamed, tls, twins};

const SOON: Duration = Duration::from_secs(30);
const TOKEN: [(&str, &str); 1] = [("authorization", "Bearer admin-token")];
const BAD: [(&str, &str); 1] = [("authorization", "Bearer not-a-token")];

/// Strangers with these headers ask 20 at a time while a client with a good token, and one with a certificate, ask beside them.
async fn beside(stranger: &[(&str, &str)], refused: u16) {
    let plane = twins(ServerSpec::ends_unauthenticated).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let anonymous = tls(&plane, ClientAuth::None);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let strangers = (0..20).map(|_| async {
        while !stop.load(Ordering::Relaxed) {
            let client = Client::http2(agent.address, &anonymous).await.unwrap();
            let answer = client.get(MAPS, stranger).await.unwrap();
            assert_eq!(answer.status, refused, "{}", answer.text());
            asked.fetch_add(1, Ordering::Relaxed);
        }
    });
    let good = async {
        let account = Client::http2(agent.address, &anonymous).await.unwrap();
        let user = agent.http2(&plane, admin(&plane)).await.unwrap();
        let mut rounds = 0;
        while rounds < 200 || asked.load(Ordering::Relaxed) < 200 {
            let (token, certificate) = tokio::join!(account.get(MAPS, &TOKEN), user.get(MAPS, &[]));
            for answer in [token.unwrap(), certificate.unwrap()] {
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            rounds += 1;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all(strangers), good);
    nobody_is_blamed(&plane, &agent).await;
    // No connection was used for an unknown caller and for anybody else.
    for server in plane.servers() {
        let requests = server.requests();
        let requests = requests.iter().filter(|r| r.target == MAPS);
        let (known, strange): (Vec<_>, Vec<_>) =
            requests.partition(|r| matches!(r.how, Some(Method::Token | Method::FrontProxy)));
        for stranger in strange {
            let shares = known.iter().any(|r| r.connection == stranger.connection);
            assert!(!shares, "connection {} is shared", stranger.connection);
        }
    }
}

#[tokio::test]
async fn anonymous_clients_fail_nobody_else() {
    beside(&[], 403).await;
}

#[tokio::test]
async fn bad_tokens_fail_nobody_else() {
    beside(&BAD, 401).await;
}

/// Each had a connection of its own: a stranger who asked a hundred times at once had the agent and the server shake hands a hundred times.
#[tokio::test]
async fn what_one_stranger_asks_at_once_shares_connections_with_nobody_else() {
    let plane = twins(ServerSpec::ends_unauthenticated).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let server = plane.server(0);
    server.faults_only_on(MAPS);
    // Those that may be under way together have come before the first is answered.
    server.slow(Duration::from_millis(300));
    let clients = [
        agent.http2(&plane, ClientAuth::None).await.unwrap(),
        agent.http2(&plane, ClientAuth::None).await.unwrap(),
    ];
    let target = |client| format!("{MAPS}?resourceVersion={client}");
    let asked = clients.iter().enumerate().map(async |(number, client)| {
        let target = target(number);
        let answers = (0..24).map(|_| client.get(&target, &[]));
        for answer in join_all(answers).await {
            assert_eq!(answer.unwrap().status, 403);
        }
    });
    join_all(asked).await;
    let requests = server.requests();
    let over = |number| {
        let target = target(number);
        let of_client = requests.iter().filter(|r| r.target == target);
        of_client.map(|r| r.connection).collect::<BTreeSet<_>>()
    };
    let (first, second) = (over(0), over(1));
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    for over in [first, second] {
        // One, unless a busy machine lets some of them come behind the first answer.
        assert!(
            over.len() <= 3,
            "{} connections for 24 requests",
            over.len()
        );
    }
    nobody_is_blamed(&plane, &agent).await;
}

#[tokio::test]
async fn a_token_that_was_accepted_shares_connections() {
    let plane = twins(ServerSpec::ends_unauthenticated).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let client = agent.http2(&plane, ClientAuth::None).await.unwrap();
    for _ in 0..20 {
        assert_eq!(client.get(MAPS, &TOKEN).await.unwrap().status, 200);
    }
    let requests = plane.server(0).requests();
    let over: BTreeSet<_> = requests
        .iter()
        .filter(|r| r.target == MAPS)
        .map(|r| r.connection)
        .collect();
    assert_eq!(over.len(), 2, "the first alone, then all on one: {over:?}");
}

/// After a server has gone its clients come to another one all at once, and nothing is known there of their token.
#[tokio::test]
async fn who_waits_with_a_token_that_is_accepted_meanwhile_makes_no_connection() {
    let plane = twins(ServerSpec::ends_unauthenticated).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let server = plane.server(0);
    server.faults_only_on(MAPS);
    // The others have come before the first is answered.
    server.slow(Duration::from_millis(300));
    let client = agent.http2(&plane, ClientAuth::None).await.unwrap();
    let answers = join_all((0..60).map(|_| client.get(MAPS, &TOKEN))).await;
    for answer in answers {
        assert_eq!(answer.unwrap().status, 200);
    }
    let requests = server.requests();
    let over: BTreeSet<_> = requests
        .iter()
        .filter(|r| r.target == MAPS)
        .map(|r| r.connection)
        .collect();
    // What they share while they are strangers, and what they share then; before, each made one.
    assert!(over.len() <= 8, "{} connections", over.len());
}

/// Asks with these header fields and reads until GOAWAY came with the answer; or, if it is not to come, until two PINGs sent after the
/// answer were answered.
async fn ask(raw: &mut Raw, fields: &[(&str, &str)], leaves: bool) {
    const PING: u8 = 6;
    let mut head = vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "k"),
        (":path", MAPS),
    ];
    head.extend_from_slice(fields);
    raw.send_frame(HEADERS, 5, 1, &block(&head)).await.unwrap();
    let (mut answered, mut goaway, mut pongs) = (false, false, 0);
    while !(answered && (goaway || pongs == 2)) {
        let frame = raw.frame().await.unwrap().expect("an answer first");
        goaway |= frame.kind == GOAWAY;
        let ended = frame.stream == 1 && frame.flags & 1 == 1 && frame.kind <= HEADERS;
        answered |= ended;
        if frame.kind == PING && frame.flags == 0 {
            // hyper asks with a PING whether its GOAWAY arrived.
            raw.send_frame(PING, 1, 0, &frame.payload).await.unwrap();
        }
        pongs += u32::from(frame.kind == PING && frame.flags == 1);
        if !leaves && (ended || pongs == 1 && frame.kind == PING && frame.flags == 1) {
            raw.send_frame(PING, 0, 0, b"is-there").await.unwrap();
        }
    }
    assert_eq!(goaway, leaves, "{fields:?}");
    // The connection ends as soon as the agent knows that its GOAWAY arrived.
    while leaves && let Some(frame) = raw.frame().await.unwrap() {
        if frame.kind == PING && frame.flags == 0 {
            raw.send_frame(PING, 1, 0, &frame.payload).await.unwrap();
        }
    }
}

#[tokio::test]
async fn after_an_unauthenticated_answer_the_clients_connection_ends() {
    let plane = twins(ServerSpec::ends_unauthenticated).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let anonymous = tls(&plane, ClientAuth::None);
    for (fields, ends) in [(&[][..], true), (&BAD[..], true), (&TOKEN[..], false)] {
        let mut raw = Raw::http2(agent.address, &anonymous).await.unwrap();
        ask(&mut raw, fields, ends).await;
        let mut http1 = Raw::http1(agent.address, &anonymous).await.unwrap();
        let lines: String = fields
            .iter()
            .map(|(n, v)| format!("{n}: {v}\r\n"))
            .collect();
        http1
            .send(format!("GET {MAPS} HTTP/1.1\r\nHost: k\r\n{lines}\r\n"))
            .await
            .unwrap();
        let answer = http1.answer(false).await.unwrap();
        // kube-apiserver leaves anonymous callers over HTTP/1.1 alone.
        let ends = answer.status == 401;
        assert_eq!(
            answer.header("connection") == Some("close"),
            ends,
            "{fields:?}"
        );
        if ends {
            http1.until_closed().await.unwrap();
        }
    }
    let mut certificate = Raw::http2(agent.address, &tls(&plane, admin(&plane)))
        .await
        .unwrap();
    ask(&mut certificate, &[], false).await;
}

#[tokio::test]
async fn a_connection_whose_certificate_expires_ends() {
    let plane = twins(ServerSpec::ends_unauthenticated).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let mut short = Request::new("kubernetes-admin", &["system:masters"]);
    short.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(5);
    let short = ClientAuth::Certificate(plane.pki().issue(&short).unwrap());
    let client = agent.http2(&plane, short).await.unwrap();
    assert_eq!(client.get(MAPS, &[]).await.unwrap().status, 200);
    eventually("the certificate expires", SOON, || async {
        Ok(client.get(MAPS, &[]).await?.status == 401)
    })
    .await
    .unwrap();
    // Only a new connection can show a new certificate.
    eventually("the connection has ended", SOON, || async {
        Ok(client.get(MAPS, &[]).await.is_err())
    })
    .await
    .unwrap();
}
