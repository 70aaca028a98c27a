//! Cancelled requests, and uploads that are refused early.

use std::time::Duration;

use futures_util::future::join_all;
use mvp_tests::agent::eventually;
use mvp_tests::fixtures::{Events, received};
use mvp_tests::raw::{self, GOAWAY, HEADERS, RST_STREAM, Raw, block};
use serde_json::json;

use super::{MAPS, admin, calm_agent, nobody, nobody_is_blamed, tls, twins};

const SOON: Duration = Duration::from_secs(30);
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=true";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();

fn head(method: &str, path: &str) -> Vec<u8> {
    block(&[
        (":method", method),
        (":scheme", "https"),
        (":authority", "k"),
        (":path", path),
    ])
}

#[tokio::test]
async fn what_one_client_cancels_ends_nobodys_watch() {
    const BATCHES: u32 = 30;
    const BATCH: u32 = 60;
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |config| {
        config.limits.cancellations = 1_000_000;
    })
    .await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let mut watch = Events::open(&client, WATCH).await.unwrap();
    let mallory = tls(&plane, nobody(&plane, "mallory"));
    for batch in 0..BATCHES {
        let mut raw = Raw::http2(agent.address, &mallory).await.unwrap();
        // Requests whose answers cross with the resets, and uploads that were refused before they ended.
        let upload = batch % 2 == 1;
        let streams: Vec<u32> = (0..BATCH).map(|n| 2 * n + 1).collect();
        let mut bytes = Vec::new();
        for &stream in &streams {
            let (flags, method) = match upload {
                true => (END_HEADERS, "POST"),
                false => (END_HEADERS | END_STREAM, "GET"),
            };
            bytes.extend(raw::frame(HEADERS, flags, stream, &head(method, MAPS)));
        }
        // Before they are sent: the agent and the server are other threads, and may be done with all of them at once.
        let before = received(plane.server(0), MAPS);
        raw.send(&bytes).await.unwrap();
        if upload {
            let mut ended = 0;
            while ended < BATCH {
                let frame = raw.frame().await.unwrap().expect("the connection stays");
                assert_ne!(frame.kind, GOAWAY, "batch {batch}: {:?}", frame.payload);
                if frame.kind == RST_STREAM && frame.payload != [0; 4] {
                    panic!("batch {batch}: reset {:?}", frame.payload);
                }
                let answers = frame.kind <= HEADERS && streams.contains(&frame.stream);
                ended += u32::from(answers && frame.flags & END_STREAM != 0);
            }
        } else {
            eventually("requests reach the server", SOON, || async {
                Ok(received(plane.server(0), MAPS) > before)
            })
            .await
            .unwrap();
        }
        let resets: Vec<u8> = streams
            .iter()
            .flat_map(|&stream| raw::frame(RST_STREAM, 0, stream, &CANCEL))
            .collect();
        raw.send(&resets).await.unwrap();
    }
    nobody_is_blamed(&plane, &agent).await;
    // The watch goes on, on the connection that it had.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "after"}});
    let made = client.post_json(MAPS, &[], &map).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    loop {
        let event = watch.next().await.unwrap().expect("the watch goes on");
        if event["object"]["metadata"]["name"] == "after" {
            break;
        }
    }
    assert_eq!(received(plane.server(0), WATCH), 1);
}

#[tokio::test]
async fn who_cancels_too_fast_waits_and_nobody_else() {
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |config| config.limits.cancellations = 20).await;
    let hasty = nobody(&plane, "hasty");
    let server = plane.server(0);
    server.faults_only_on(MAPS);
    server.slow(Duration::from_secs(3600));
    let mut raw = Raw::http2(agent.address, &tls(&plane, hasty.clone()))
        .await
        .unwrap();
    for n in 0..80_u32 {
        let stream = 2 * n + 1;
        raw.send_frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &head("GET", MAPS),
        )
        .await
        .unwrap();
    }
    eventually("all are under way", SOON, || async {
        Ok(server.streams() >= 80)
    })
    .await
    .unwrap();
    for n in 0..80_u32 {
        raw.send_frame(RST_STREAM, 0, 2 * n + 1, &CANCEL)
            .await
            .unwrap();
    }
    eventually("all were cancelled", SOON, || async {
        Ok(agent
            .metric("mvp_outstanding_requests{server=\"cp-a\"}")
            .await?
            == 0.0)
    })
    .await
    .unwrap();
    server.slow(Duration::ZERO);
    let sample = "mvp_refused_total{limit=\"cancellations\"}";
    assert_eq!(agent.metric(sample).await.unwrap(), 0.0);
    let again = agent.http2(&plane, hasty).await.unwrap();
    // Another user of the same address is not concerned.
    let other = agent.http2(&plane, admin(&plane)).await.unwrap();
    let (refused, served) = tokio::join!(again.get(MAPS, &[]), other.get(MAPS, &[]));
    let refused = refused.unwrap();
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.json()["reason"], "TooManyRequests");
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(served.unwrap().status, 200);
    assert!(agent.metric(sample).await.unwrap() >= 1.0);
    // Sixty were owed, of which two come back each second.
    eventually("the allowance comes back", 4 * SOON, || async {
        Ok(again.get(MAPS, &[]).await?.status == 403)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn uploads_that_are_refused_early_cost_no_connection() {
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let client = agent.http2(&plane, nobody(&plane, "eager")).await.unwrap();
    let padding = "x".repeat(4096);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"p": padding}});
    for parallel in [60, 480] {
        let posts = (0..parallel).map(|_| client.post_json(MAPS, &[], &map));
        for answer in join_all(posts).await {
            let answer = answer.expect("the connection stays");
            assert_eq!(answer.status, 403, "{}", answer.text());
        }
    }
    assert_eq!(client.get("/version", &[]).await.unwrap().status, 200);
    assert_eq!(
        agent.metric("mvp_http2_reset_floods_total").await.unwrap(),
        0.0
    );
    nobody_is_blamed(&plane, &agent).await;
}

/// Frames on streams that the agent has reset already, as a client sends them that has not heard of it yet.
#[tokio::test]
async fn the_rest_of_a_refused_upload_is_no_attack() {
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let mut raw = Raw::http2(agent.address, &tls(&plane, nobody(&plane, "late")))
        .await
        .unwrap();
    let mut bytes = Vec::new();
    for n in 0..200_u32 {
        bytes.extend(raw::frame(
            HEADERS,
            END_HEADERS,
            2 * n + 1,
            &head("POST", MAPS),
        ));
    }
    raw.send(&bytes).await.unwrap();
    let mut ended = 0;
    while ended < 200 {
        let frame = raw.frame().await.unwrap().expect("the connection stays");
        ended +=
            u32::from(frame.kind <= HEADERS && frame.flags & END_STREAM != 0 && frame.stream > 0);
    }
    let rest: Vec<u8> = (0..200_u32)
        .flat_map(|n| raw::frame(0, END_STREAM, 2 * n + 1, &[b'x'; 1024]))
        .collect();
    raw.send(&rest).await.unwrap();
    raw.send_frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        401,
        &head("GET", "/version"),
    )
    .await
    .unwrap();
    loop {
        let frame = raw.frame().await.unwrap().expect("the connection stays");
        if frame.stream == 401 && frame.kind == HEADERS {
            break;
        }
    }
}
