//! Reading the OpenAPI indexes of small servers over real TLS sockets: only while they differ, and again when something says so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use crate::fake::{Behaviour, Fake, Running, pki, run, serving, settings, until};
use mvp::discovery::find;

const H2: &[&str] = &["h2", "http/1.1"];
const INDEX: &str = "/openapi/v3";

fn described(serves: &[&'static str], openapi: &[(&'static str, &'static str)]) -> Behaviour {
    let mut behaviour = serving(serves);
    behaviour.openapi = openapi.to_vec();
    behaviour
}

/// Names of the servers that have this description.
fn having(running: &Running, path: &str, hash: &str) -> Vec<String> {
    let servers = running.discovery.openapi();
    let found = find(&servers, path, hash);
    found.iter().map(|server| server.name.to_string()).collect()
}

async fn rounds(running: &Running, more: u64) {
    let confirmed = || {
        let status = running.discovery.status();
        status.iter().map(|s| s.polls.not_modified).min().unwrap()
    };
    let before = confirmed();
    until("rounds", || confirmed() >= before + more).await;
}

#[tokio::test]
async fn indexes_are_read_while_servers_differ_and_forgotten_when_they_do_not() {
    let pki = pki(H2);
    let pods = &["/v1/pods"][..];
    let a = Fake::start(&pki, described(pods, &[("api/v1", "A")])).await;
    let b = Fake::start(
        &pki,
        described(pods, &[("api/v1", "B"), ("apis/g/v1", "B")]),
    )
    .await;
    let running = run(settings(&pki), a.endpoint("a"), vec![b.endpoint("b")]);
    running.discovery.first_round_done().await;
    rounds(&running, 5).await;
    // Until the first round of both, one is unknown and so differs.
    let steady = (a.count(INDEX), b.count(INDEX));
    assert!(steady.0 <= 1 && steady.1 <= 1, "{steady:?}");
    assert!(running.discovery.openapi().is_empty());
    rounds(&running, 5).await;
    assert_eq!(
        (a.count(INDEX), b.count(INDEX)),
        steady,
        "a steady cluster pays nothing"
    );

    b.change(|behaviour| behaviour.serves.push("g/v1/things"));
    until("both are read", || running.discovery.openapi().len() == 2).await;
    assert_eq!(having(&running, "api/v1", "A"), ["a"]);
    assert_eq!(having(&running, "apis/g/v1", "B"), ["b"]);
    let read = (a.count(INDEX), b.count(INDEX));
    rounds(&running, 5).await;
    assert_eq!((a.count(INDEX), b.count(INDEX)), read, "not every round");

    a.change(|behaviour| behaviour.serves.push("g/v1/things"));
    until("forgotten", || running.discovery.openapi().is_empty()).await;
}

#[tokio::test]
async fn an_index_is_read_again_when_its_server_or_a_client_says_so() {
    let pki = pki(H2);
    let a = Fake::start(&pki, described(&["/v1/pods"], &[("api/v1", "A")])).await;
    let b = Fake::start(&pki, described(&["g/v1/things"], &[("apis/g/v1", "B")])).await;
    let mut slow = settings(&pki);
    slow.interval = Duration::from_secs(3600);
    slow.stale_after = slow.interval;
    let running = run(slow, a.endpoint("a"), vec![b.endpoint("b")]);
    let read = || running.discovery.openapi().len() == 2;
    until("both are read", || {
        // Whoever was first saw no difference yet.
        running.discovery.poke_all();
        read()
    })
    .await;
    // Other resources: another description.
    b.change(|behaviour| {
        behaviour.serves.push("g/v1/more");
        behaviour.openapi = vec![("apis/g/v1", "C")];
    });
    until("read with the set", || {
        running.discovery.poke_all();
        having(&running, "apis/g/v1", "C") == ["b"]
    })
    .await;
    // The same resources with another schema: only a client can tell.
    b.change(|behaviour| behaviour.openapi = vec![("apis/g/v1", "D")]);
    until("read for the client", || {
        running.discovery.openapi_mismatch();
        running.discovery.poke_all();
        having(&running, "apis/g/v1", "D") == ["b"]
    })
    .await;
    assert_eq!(having(&running, "api/v1", "A"), ["a"], "the other stands");
}

#[tokio::test]
async fn an_index_that_cannot_be_read_leaves_the_last_one_and_discovery_alone() {
    let pki = pki(H2);
    let a = Fake::start(&pki, described(&["/v1/pods"], &[("api/v1", "A")])).await;
    let b = Fake::start(&pki, described(&["g/v1/things"], &[])).await;
    let running = run(settings(&pki), a.endpoint("a"), vec![b.endpoint("b")]);
    until("read", || having(&running, "api/v1", "A") == ["a"]).await;
    until("asked", || b.count(INDEX) >= 1).await;
    a.change(|behaviour| {
        behaviour.fail.insert(INDEX, 403);
        behaviour.serves.push("/v1/nodes");
    });
    let asked = a.count(INDEX);
    until("asked again", || a.count(INDEX) > asked).await;
    rounds(&running, 3).await;
    assert_eq!(running.discovery.openapi().len(), 1);
    assert_eq!(having(&running, "api/v1", "A"), ["a"]);
    let status = running.discovery.status();
    assert!(status.iter().all(|s| s.polls.failed == 0), "{status:?}");
}

fn described_by(running: &Running, path: &str) -> Vec<String> {
    let servers = running.discovery.openapi_described(path);
    servers
        .iter()
        .map(|server| server.name.to_string())
        .collect()
}

/// Whoever waits knows what every server that answers describes, and waits for nobody who has answered, whatever it was.
#[tokio::test]
async fn who_waits_for_the_indexes_has_them() {
    let pki = pki(H2);
    let a = Fake::start(&pki, described(&["/v1/pods"], &[("api/v1", "A")])).await;
    let b = Fake::start(&pki, described(&["g/v1/things"], &[("apis/g/v1", "B")])).await;
    let c = Fake::start(&pki, described(&["g/v1/things"], &[("apis/g/v1", "B")])).await;
    c.change(|behaviour| {
        behaviour.fail.insert(INDEX, 403);
    });
    let mut slow = settings(&pki);
    slow.interval = Duration::from_secs(3600);
    slow.stale_after = slow.interval;
    slow.refresh = Duration::from_secs(3600);
    let running = run(
        slow,
        a.endpoint("a"),
        vec![b.endpoint("b"), c.endpoint("c")],
    );
    running.discovery.first_round_done().await;
    running.discovery.openapi_settled().await;
    assert_eq!(having(&running, "api/v1", "A"), ["a"]);
    assert_eq!(having(&running, "apis/g/v1", "B"), ["b"]);
    assert_eq!(described_by(&running, "apis/g/v1"), ["b"]);
    let asked = (a.count(INDEX), c.count(INDEX));
    running.discovery.openapi_settled().await;
    assert_eq!(
        (a.count(INDEX), c.count(INDEX)),
        asked,
        "nobody is waited for"
    );
}

/// What a server serves says enough to find the description of it.
#[tokio::test]
async fn a_server_that_does_not_tell_its_index_describes_what_it_serves() {
    let pki = pki(H2);
    let known = [("api/v1", "A"), ("apis/g/v1", "A")];
    let a = Fake::start(&pki, described(&["/v1/pods", "g/v1/things"], &known)).await;
    let b = Fake::start(&pki, described(&["g/v1/things", "g/v1/more"], &[])).await;
    b.change(|behaviour| behaviour.hang.push(INDEX));
    let mut brief = settings(&pki);
    brief.refresh = Duration::from_millis(50);
    let running = run(brief, a.endpoint("a"), vec![b.endpoint("b")]);
    running.discovery.first_round_done().await;
    running.discovery.openapi_settled().await;
    assert_eq!(described_by(&running, "apis/g/v1"), ["b"]);
    assert_eq!(described_by(&running, "api/v1"), ["a"]);
}
