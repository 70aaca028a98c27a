//! A reset of one stream is about the request.

use mvp_tests::fixtures::received;
use mvp_tests::raw::{Frame, HEADERS, RST_STREAM, Raw, block};
use mvp_tests::sim::pki::ClientAuth;

use super::{MAPS, admin, calm_agent, nobody_is_blamed, tls, twins};

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const DATA: u8 = 0;
const PROTOCOL_ERROR: u32 = 1;

fn head(method: &str, authority: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", authority),
        (":path", MAPS),
    ];
    fields.extend_from_slice(more);
    block(&fields)
}

/// The first frame on `stream` that tells how it ended: HEADERS or RST_STREAM.
async fn outcome(raw: &mut Raw, stream: u32) -> Frame {
    loop {
        let frame = raw.frame().await.unwrap().expect("still open");
        if frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM) {
            return frame;
        }
    }
}

/// The status of an answer as it is in the static table of HPACK (RFC 7541, Appendix A), or as a literal.
fn has_status(frame: &Frame, status: &str) -> bool {
    let indexed: Option<u8> = match status {
        "200" => Some(0x88),
        "400" => Some(0x8c),
        "404" => Some(0x8d),
        _ => None,
    };
    frame.kind == HEADERS
        && (indexed.is_some_and(|byte| frame.payload.contains(&byte))
            || frame.payload.windows(3).any(|w| w == status.as_bytes()))
}

#[tokio::test]
async fn an_authority_with_user_information_is_refused_by_the_agent() {
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let anonymous = tls(&plane, ClientAuth::None);
    // What the agent is compared with.
    let mut direct = Raw::http2(plane.server(0).addr(), &anonymous)
        .await
        .unwrap();
    let bad = head("GET", "a@k", &[]);
    direct
        .send_frame(HEADERS, END_HEADERS | END_STREAM, 1, &bad)
        .await
        .unwrap();
    let reset = outcome(&mut direct, 1).await;
    assert_eq!(reset.kind, RST_STREAM);
    assert_eq!(reset.payload, PROTOCOL_ERROR.to_be_bytes());
    plane.server(0).clear_requests();
    // Two connections of nobody, as often as a server is ejected for, and more.
    for _ in 0..2 {
        let mut raw = Raw::http2(agent.address, &anonymous).await.unwrap();
        for stream in (1..20).step_by(2) {
            raw.send_frame(HEADERS, END_HEADERS | END_STREAM, stream, &bad)
                .await
                .unwrap();
            let answer = outcome(&mut raw, stream).await;
            assert!(has_status(&answer, "400"), "{answer:?}");
        }
    }
    let mut http1 = Raw::http1(agent.address, &anonymous).await.unwrap();
    http1
        .send(format!("GET {MAPS} HTTP/1.1\r\nHost: a@k\r\n\r\n"))
        .await
        .unwrap();
    assert_eq!(http1.answer(false).await.unwrap().status, 400);
    for server in plane.servers() {
        assert_eq!(received(server, MAPS), 0);
    }
    nobody_is_blamed(&plane, &agent).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get(MAPS, &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn trailers_that_go_refuses_are_dropped() {
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let admin_tls = tls(&plane, admin(&plane));
    for (at, name) in ["host", "range", "if-match", "content-length", "te"]
        .into_iter()
        .enumerate()
    {
        for (address, direct) in [(plane.server(0).addr(), true), (agent.address, false)] {
            let mut raw = Raw::http2(address, &admin_tls).await.unwrap();
            let map = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"trailer-{at}"}}}}"#
            );
            let fields = [("content-type", "application/json"), ("trailer", name)];
            raw.send_frame(HEADERS, END_HEADERS, 1, &head("POST", "k", &fields))
                .await
                .unwrap();
            raw.send_frame(DATA, 0, 1, map.as_bytes()).await.unwrap();
            let trailers = block(&[(name, "trailers"), ("x-fine", "1")]);
            raw.send_frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers)
                .await
                .unwrap();
            let end = outcome(&mut raw, 1).await;
            if direct {
                assert_eq!(end.kind, RST_STREAM, "{name}");
                assert_eq!(end.payload, PROTOCOL_ERROR.to_be_bytes());
            } else {
                assert_eq!(end.kind, HEADERS, "{name}: {end:?}");
            }
        }
        let client = agent.http2(&plane, admin(&plane)).await.unwrap();
        let made = client.get(&format!("{MAPS}/trailer-{at}"), &[]).await;
        assert_eq!(made.unwrap().status, 200, "{name}");
    }
    nobody_is_blamed(&plane, &agent).await;
}

#[tokio::test]
async fn a_stream_reset_as_malformed_is_the_requests_affair() {
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let (local, peer) = (plane.server(0), plane.server(1));
    local.faults_only_on(MAPS);
    local.reject_next(20);
    for _ in 0..20 {
        let answer = client.get(MAPS, &[]).await.unwrap();
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert_eq!(answer.json()["reason"], "BadRequest");
        assert!(!answer.headers.contains_key("retry-after"));
    }
    assert_eq!(received(local, MAPS), 20);
    assert_eq!(received(peer, MAPS), 0, "sent on to the next server");
    nobody_is_blamed(&plane, &agent).await;
    // Handlers that give up are not the server's end either.
    local.reset_next(20);
    for _ in 0..20 {
        let made = client.post_json(MAPS, &[], &serde_json::json!({})).await;
        assert_eq!(made.unwrap().status, 502);
    }
    nobody_is_blamed(&plane, &agent).await;
    assert_eq!(client.get(MAPS, &[]).await.unwrap().status, 200);
}
