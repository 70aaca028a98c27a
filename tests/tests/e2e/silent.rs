//! Servers that fall silent without closing anything: found by PING, and left for others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mvp::config::Endpoint;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{
    CONFIG_MAPS, Events, ONLY_36, SILENT, SOON, client, config_map, plane, policy, received, spec,
};
use mvp_tests::sim::ControlPlane;
use tokio::time::timeout;

/// Waits for the end of a watch that has no events, and sees it end in order.
async fn ends_within(events: &mut Events, limit: Duration) {
    let end = async { while events.next().await.expect("a clean end").is_some() {} };
    timeout(limit, end)
        .await
        .expect("the silence was not noticed");
}

async fn get(client: &Client, target: &str) -> u16 {
    let answer = client.get(target, &[]).await.unwrap();
    answer.status.as_u16()
}

#[tokio::test]
async fn a_peer_that_hangs_is_found_under_an_idle_watch_and_under_requests() {
    let plane = plane(&[35, 36, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = Arc::new(client(&plane, &agent).await);
    // One watch on each peer: two are spread by their load.
    let target = format!("{ONLY_36}?watch=true&resourceVersion=1");
    let mut watches = Vec::new();
    for _ in 0..2 {
        watches.push(Events::open(&client, &target).await.unwrap());
    }
    let (b, c) = (plane.server(1), plane.server(2));
    assert_eq!((received(b, &target), received(c, &target)), (1, 1));
    b.hang(true);
    let reads = join_all((0..20).map(|_| get(&client, ONLY_36)));
    let writes = join_all((0..20).map(|i| {
        let client = &client;
        async move {
            let object = policy(&format!("m-{i}"));
            let made = client.post_json(ONLY_36, &[], &object).await.unwrap();
            made.status.as_u16()
        }
    }));
    let first_end = async {
        let (left, right) = watches.split_at_mut(1);
        // Only the one on the server that hangs ends.
        tokio::select! {
            () = ends_within(&mut left[0], SILENT) => 1,
            () = ends_within(&mut right[0], SILENT) => 0,
        }
    };
    let (reads, writes, alive) =
        tokio::join!(timeout(SILENT, reads), timeout(SILENT, writes), first_end);
    // Reads are repeated elsewhere; writes may have arrived and are not.
    assert_eq!(reads.unwrap(), [200; 20]);
    let writes = writes.unwrap();
    assert!(
        writes.iter().all(|code| [201, 502].contains(code)),
        "{writes:?}"
    );
    assert!(writes.contains(&201), "the other peer served none");
    // From now on nobody waits for it.
    for _ in 0..20 {
        assert_eq!(get(&client, ONLY_36).await, 200);
    }
    // The other watch goes on.
    let made = client
        .post_json(ONLY_36, &[], &policy("last"))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let told = async {
        while watches[alive].next().await.unwrap().expect("an event")["object"]["metadata"]["name"]
            != "last"
        {}
    };
    timeout(SOON, told).await.unwrap();
    b.hang(false);
    eventually("it is used again", SOON, || async {
        get(&client, ONLY_36).await;
        Ok(received(b, ONLY_36) > 20)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_local_server_that_hangs_is_left_for_a_peer() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    assert_eq!(get(&client, CONFIG_MAPS).await, 200);
    plane.server(0).hang(true);
    // What only the peer serves does not even notice.
    let forwarded = async {
        for _ in 0..20 {
            assert_eq!(get(&client, ONLY_36).await, 200);
        }
    };
    let caught = timeout(SILENT, get(&client, CONFIG_MAPS));
    let ((), caught) = tokio::join!(forwarded, caught);
    assert_eq!(caught.unwrap(), 200);
    for i in 0..20 {
        assert_eq!(get(&client, CONFIG_MAPS).await, 200);
        let map = config_map(&format!("m-{i}"));
        let made = client.post_json(CONFIG_MAPS, &[], &map).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
    }
    assert_eq!(get(&client, "/readyz").await, 503, "nobody answers for it");
}

#[tokio::test]
async fn a_stopped_process_is_found_and_used_again_when_it_goes_on() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 35))
        .start()
        .await
        .unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_mvp-sim"));
    let child = plane.spawn(binary, &spec(b'b', 36)).await.unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.peers.fixed.push(Endpoint {
            name: "cp-b".into(),
            host: child.addr().ip().to_string(),
            port: child.addr().port(),
        });
    });
    let agent = agent.await.unwrap();
    let client = client(&plane, &agent).await;
    let mut watch = Events::open(&client, &format!("{ONLY_36}?watch=true"))
        .await
        .unwrap();
    child.pause().unwrap();
    // Nobody else serves it: an honest answer, in time.
    let caught = timeout(SILENT, get(&client, ONLY_36));
    let ((), caught) = tokio::join!(ends_within(&mut watch, SILENT), caught);
    assert_eq!(caught.unwrap(), 503);
    assert_eq!(get(&client, CONFIG_MAPS).await, 200);
    child.resume().unwrap();
    eventually("it is used again", SOON, || async {
        Ok(get(&client, ONLY_36).await == 200)
    })
    .await
    .unwrap();
}
