//! What servers say at `/readyz`, against small servers over real TLS sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::fake::{Fake, Running, pki, run, serving, settings, status, until};
use mvp::route::{Departure, Knowledge};

const H2: &[&str] = &["h2", "http/1.1"];

fn departure(running: &Running) -> Departure {
    running.discovery.members()[0].server.departure.clone()
}

#[tokio::test]
async fn a_slow_readiness_check_holds_nothing_up() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    server.change(|b| b.hang = vec!["/readyz"]);
    let running = run(settings(&pki), server.endpoint("a"), Vec::new());
    until("confirmed", || {
        status(&running, "a").polls.not_modified >= 5
    })
    .await;
    assert_eq!(server.count("/readyz"), 1, "one at a time");
    assert_eq!(status(&running, "a").ready, None);
}

#[tokio::test]
async fn readiness_is_passed_on() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let running = run(settings(&pki), server.endpoint("a"), Vec::new());
    let shared = running.discovery.members()[0].server.clone();
    until("ready", || status(&running, "a").ready == Some(true)).await;
    server.change(|b| {
        b.fail.insert("/readyz", 403);
    });
    let asked = server.count("/readyz");
    until("asked", || server.count("/readyz") > asked + 3).await;
    assert!(shared.available(), "a 403 says nothing of the server");
    server.change(|b| {
        b.fail.clear();
        b.ready = false;
    });
    until("not ready", || {
        status(&running, "a").ready == Some(false) && !shared.available()
    })
    .await;
    assert_eq!(status(&running, "a").knowledge, Knowledge::Confirmed);
    server.change(|b| b.ready = true);
    until("ready again", || shared.available()).await;
}

#[tokio::test]
async fn a_server_leaves_that_says_so_and_no_other() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let running = run(settings(&pki), server.endpoint("a"), Vec::new());
    let departure = departure(&running);
    server.change(|b| b.ready = false);
    until("not ready", || status(&running, "a").ready == Some(false)).await;
    assert!(!departure.is_leaving(), "for another reason");
    server.change(|b| b.stops = true);
    until("it leaves", || departure.is_leaving()).await;
    assert!(status(&running, "a").stopping);
    server.change(|b| (b.ready, b.stops) = (true, false));
    until("it is over", || !departure.is_leaving()).await;
}

#[tokio::test]
async fn a_server_that_takes_no_connection_leaves_until_one_answers_there_again() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let running = run(settings(&pki), server.endpoint("a"), Vec::new());
    let departure = departure(&running);
    until("ready", || status(&running, "a").ready == Some(true)).await;
    let address = server.stop().await;
    until("it leaves", || departure.is_leaving()).await;
    assert_eq!(status(&running, "a").ready, Some(false));
    // One that does not tell us whether it is ready is there all the same.
    let mut silent = serving(&["/v1/pods"]);
    silent.fail.insert("/readyz", 403);
    let _again = Fake::start_at(&pki, silent, address).await;
    until("it is over", || !departure.is_leaving()).await;
    until("it is well", || {
        let status = status(&running, "a");
        status.ready.is_none() && status.knowledge == Knowledge::Confirmed
    })
    .await;
}
