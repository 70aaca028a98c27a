//! A refresh on demand: shared by all who ask, and bounded in time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fake::{Fake, pki, run, serving, settings};
use crate::poller::{H2, HOUR, keys};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_is_shared() {
    let pki = pki(H2);
    let servers = [
        Fake::start(&pki, serving(&["/v1/pods"])).await,
        Fake::start(&pki, serving(&["/v1/pods"])).await,
    ];
    let patient = {
        let mut s = settings(&pki);
        s.interval = HOUR;
        s
    };
    let running = run(
        patient,
        servers[0].endpoint("a"),
        vec![servers[1].endpoint("b")],
    );
    running.discovery.first_round_done().await;
    servers[1].change(|b| b.serves.push("g/v1/new"));
    let before = running.discovery.generation();
    let refreshed = running.discovery.refresh().await;
    assert!(refreshed.complete && refreshed.generation > before);
    assert_eq!(running.discovery.table().generation(), refreshed.generation);
    assert_eq!(keys(&running, "b"), ["/v1/pods", "g/v1/new"]);
    assert_eq!(
        (servers[0].count("/apis"), servers[1].count("/apis")),
        (2, 2)
    );

    // However many ask, and however often: ten in a second.
    let began = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..50 {
        let discovery = running.discovery.clone();
        callers.push(tokio::spawn(async move {
            for _ in 0..50 {
                assert!(discovery.refresh().await.complete);
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let most = 1 + began.elapsed().as_millis() as usize / 100;
    let refreshes = running
        .discovery
        .counters()
        .refreshes
        .load(Ordering::Relaxed) as usize
        - 1;
    assert!(refreshes <= most, "{refreshes} > {most}");
    assert_eq!(servers[0].count("/apis"), 2 + refreshes);
}

#[tokio::test]
async fn a_refresh_ends_although_a_server_does_not_answer() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let hasty = {
        let mut s = settings(&pki);
        s.interval = HOUR;
        s.refresh = Duration::from_millis(200);
        s
    };
    let running = run(hasty, server.endpoint("a"), Vec::new());
    running.discovery.first_round_done().await;
    server.change(|b| b.hang = vec![""]);
    // Those who come while it is under way share it.
    let callers = (0..50).map(|_| running.discovery.refresh());
    let results = futures_util::future::join_all(callers).await;
    assert!(results.iter().all(|refreshed| !refreshed.complete));
    let refreshes = &running.discovery.counters().refreshes;
    assert_eq!(refreshes.load(Ordering::Relaxed), 1);
}
