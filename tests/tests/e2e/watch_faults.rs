//! Forwarded watches whose server dies: no event is lost, and what is not a whole event is not passed for an end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{
    Events, ONLY_36, SOON, available, client, plane, policy, policy_key, received, revision,
};
use tokio::time::timeout;

#[tokio::test]
async fn a_watch_survives_the_death_of_its_server_without_losing_an_event() {
    const OBJECTS: usize = 120;
    let plane = plane(&[35, 36, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    let list = client.get(ONLY_36, &[]).await.unwrap().json();
    let mut from = revision(&list);
    let mut seen = Vec::new();
    let mut ends = 0;
    let writer = async {
        for number in 0..OBJECTS {
            let object = policy(&format!("m-{number:03}"));
            // Written below the servers, so that their deaths concern nothing but the watch.
            let key = policy_key(object["metadata"]["name"].as_str().unwrap());
            plane.store().create(&key, object.clone()).await.unwrap();
            if number % 40 == 20 {
                // The one that serves the watch dies; the other takes over.
                let target = |r: &str| r.starts_with(ONLY_36) && r.contains("watch");
                let [b, c] = [plane.server(1), plane.server(2)];
                eventually("one of them serves the watch", SOON, || async {
                    Ok(b.streams() + c.streams() > 0
                        && [b, c]
                            .iter()
                            .any(|s| s.requests().iter().any(|r| target(&r.target))))
                })
                .await
                .unwrap();
                let victim = match b.requests().iter().any(|r| target(&r.target)) {
                    true => b,
                    false => c,
                };
                available(&agent, "cp-b").await;
                available(&agent, "cp-c").await;
                victim.kill().await;
                victim.clear_requests();
                victim.start().await.unwrap();
            }
        }
    };
    let reader = async {
        while seen.len() < OBJECTS {
            let target = format!("{ONLY_36}?watch=true&resourceVersion={from}");
            let mut events = Events::open(&client, &target).await.unwrap();
            while seen.len() < OBJECTS {
                // A broken stream would be an error here: it must end between two events.
                let Some(event) = events.next().await.unwrap() else {
                    ends += 1;
                    break;
                };
                assert_eq!(event["type"], "ADDED", "{event}");
                from = revision(&event);
                seen.push(
                    event["object"]["metadata"]["name"]
                        .as_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    };
    timeout(SOON, async { tokio::join!(writer, reader) })
        .await
        .unwrap();
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (OBJECTS, OBJECTS));
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(ends > 0, "no server died under the watch");
}

#[tokio::test]
async fn a_watch_that_dies_in_the_middle_of_an_event_breaks() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    let made = client.post_json(ONLY_36, &[], &policy("m")).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let peer = plane.server(1);
    peer.faults_only_on(ONLY_36);
    let target = format!("{ONLY_36}?watch=true");
    for bytes in [1, 40] {
        peer.cut_next(1, bytes);
        // The break may overtake the head.
        let first = async { Events::open(&client, &target).await?.next().await };
        let outcome = timeout(SOON, first).await.unwrap();
        assert!(outcome.is_err(), "{bytes}: {outcome:?}");
        let text = format!("{:#}", outcome.unwrap_err());
        assert!(
            !text.contains("in the middle"),
            "it ended as if it were complete: {text}"
        );
    }
    // Between two events it ends.
    let mut events = Events::open(&client, &target).await.unwrap();
    let event = events.next().await.unwrap().unwrap();
    let whole = event.to_string().len() + 1;
    peer.cut_next(1, whole);
    let mut events = Events::open(&client, &target).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap(), event);
    assert!(
        timeout(SOON, events.next())
            .await
            .unwrap()
            .unwrap()
            .is_none()
    );
    assert_eq!(received(peer, &target), 4);
}
