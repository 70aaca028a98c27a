//! Pollers against small servers over real TLS sockets: what they ask, what they learn, and what faults do to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fake::{Fake, Form, Running, pki, run, serving, settings, status, until};
use mvp::config::Endpoint;
use mvp::discovery::ACCEPT;
use mvp::document::DiscoveryForm;
use mvp::route::Knowledge;

pub(crate) const H2: &[&str] = &["h2", "http/1.1"];
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn keys(running: &Running, name: &str) -> Vec<String> {
    let members = running.discovery.members();
    let member = members.iter().find(|m| &*m.server.name == name).unwrap();
    let entries = member.apis.iter().flat_map(|set| set.entries());
    entries
        .map(|e| format!("{}/{}/{}", e.group, e.version, e.resource))
        .collect()
}

async fn knows(running: &Running, name: &str, knowledge: Knowledge) {
    until(&format!("{name} is {knowledge:?}"), || {
        status(running, name).knowledge == knowledge
    })
    .await;
}

#[tokio::test]
async fn asks_conditionally_and_confirms() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods", "apps/v1/deployments"])).await;
    let running = run(settings(&pki), server.endpoint("a"), Vec::new());
    assert_eq!(status(&running, "a").knowledge, Knowledge::Never);
    running.discovery.first_round_done().await;
    let generation = running.discovery.generation();
    assert_eq!(keys(&running, "a"), ["/v1/pods", "apps/v1/deployments"]);
    until("confirmed", || {
        status(&running, "a").polls.not_modified >= 3
    })
    .await;
    until("ready", || status(&running, "a").ready == Some(true)).await;
    until("version", || {
        status(&running, "a").version.as_deref() == Some("v1.36.0")
    })
    .await;
    assert_eq!(
        running.discovery.generation(),
        generation,
        "a confirmation makes no table"
    );
    assert_eq!(running.discovery.table().generation(), generation);

    let now = status(&running, "a");
    assert_eq!(
        (now.knowledge, now.keys, now.source),
        (Knowledge::Confirmed, 2, Some(DiscoveryForm::V2))
    );
    assert_eq!(
        (now.polls.changed, now.polls.failed, now.local),
        (1, 0, true)
    );
    assert!(now.etag.is_some() && now.last_error.is_none() && now.age.is_some());
    assert_eq!(now.url, format!("https://{}", server.address));
    assert_eq!(
        server.state.connections.load(Ordering::SeqCst),
        1,
        "one connection, kept open"
    );
    assert_eq!(server.count("/version"), 1, "once for each connection");

    let seen = server.state.seen.lock().unwrap();
    let groups: Vec<_> = seen.iter().filter(|s| s.path == "/apis").collect();
    assert_eq!(groups[0].headers["accept"], ACCEPT);
    assert_eq!(groups[0].headers["x-remote-user"], "system:mvp");
    assert_eq!(groups[0].headers["x-remote-group"], "system:authenticated");
    assert!(
        groups[0].headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("mvp/")
    );
    assert!(!groups[0].headers.contains_key("if-none-match"));
    assert_eq!((groups[0].status, groups[1].status), (200, 304));
}

#[tokio::test]
async fn speaks_http1_where_that_is_negotiated() {
    let pki = pki(&["http/1.1"]);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let running = run(settings(&pki), server.endpoint("a"), Vec::new());
    until("confirmed", || {
        status(&running, "a").polls.not_modified >= 3
    })
    .await;
    until("ready", || status(&running, "a").ready == Some(true)).await;
    assert_eq!(server.state.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_broken_connection_is_replaced_at_once() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let patient = {
        let mut s = settings(&pki);
        s.interval = HOUR;
        s
    };
    let running = run(patient, server.endpoint("a"), Vec::new());
    until("version", || status(&running, "a").version.is_some()).await;
    let generation = running.discovery.generation();
    server.change(|b| b.version = "v1.37.0");
    server.break_connections();
    until("asked again", || {
        status(&running, "a").polls.not_modified == 1
    })
    .await;
    until("new version", || {
        status(&running, "a").version.as_deref() == Some("v1.37.0")
    })
    .await;
    assert_eq!(running.discovery.generation(), generation);
    assert_eq!(status(&running, "a").polls.failed, 0);
}

#[tokio::test]
async fn a_server_that_is_gone_keeps_its_set_and_comes_back_with_another() {
    let pki = pki(H2);
    let (a, b) = (
        Fake::start(&pki, serving(&["/v1/pods"])).await,
        Fake::start(&pki, serving(&["g/v1/old"])).await,
    );
    let running = run(settings(&pki), a.endpoint("a"), vec![b.endpoint("b")]);
    knows(&running, "b", Knowledge::Confirmed).await;
    let server = running.discovery.members()[1].server.clone();
    let before = running.discovery.generation();
    let address = b.stop().await;
    knows(&running, "b", Knowledge::Down).await;
    assert_eq!(keys(&running, "b"), ["g/v1/old"]);
    until("unavailable", || !server.available()).await;
    assert!(status(&running, "b").last_error.is_some());
    let down = running.discovery.table().generation();
    assert!(down > before);
    assert_eq!(
        status(&running, "a").knowledge,
        Knowledge::Confirmed,
        "servers do not wait for each other"
    );

    let b = Fake::start_at(&pki, serving(&["g/v1/old", "g/v2/new"]), address).await;
    until("new set", || {
        keys(&running, "b") == ["g/v1/old", "g/v2/new"]
    })
    .await;
    knows(&running, "b", Knowledge::Confirmed).await;
    until("available", || server.available()).await;
    assert!(running.discovery.table().generation() > down);
    assert!(
        Arc::ptr_eq(&server, &running.discovery.members()[1].server),
        "health and counts survive"
    );
    drop(b);
}

#[tokio::test]
async fn a_server_that_hangs_is_unconfirmed() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let other = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let short = {
        let mut s = settings(&pki);
        s.dialer.timeout = Duration::from_millis(300);
        s
    };
    let running = run(short, server.endpoint("a"), vec![other.endpoint("b")]);
    knows(&running, "a", Knowledge::Confirmed).await;
    server.change(|b| b.hang = vec![""]);
    knows(&running, "a", Knowledge::Unconfirmed).await;
    assert_eq!(keys(&running, "a"), ["/v1/pods"]);
    let confirmed = status(&running, "b").polls.not_modified;
    until("b is still polled", || {
        status(&running, "b").polls.not_modified > confirmed + 3
    })
    .await;
    server.change(|b| b.hang.clear());
    knows(&running, "a", Knowledge::Confirmed).await;
}

#[tokio::test]
async fn knowledge_grows_stale_while_an_answer_is_awaited() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let slow = {
        let mut s = settings(&pki);
        s.dialer.timeout = HOUR;
        s.stale_after = Duration::from_millis(300);
        s
    };
    let running = run(slow, server.endpoint("a"), Vec::new());
    knows(&running, "a", Knowledge::Confirmed).await;
    server.change(|b| b.hang = vec!["/apis"]);
    until("the table says so", || {
        running.discovery.table().members()[0].knowledge == Knowledge::Unconfirmed
    })
    .await;
    assert_eq!(status(&running, "a").polls.failed, 0);
}

#[tokio::test]
async fn older_forms() {
    let pki = pki(H2);
    let serves = ["/v1/pods", "apps/v1/deployments", "batch/v1/jobs"];
    let beta = Fake::start(&pki, {
        let mut b = serving(&serves);
        b.form = Form::V2beta1;
        b
    })
    .await;
    let old = Fake::start(&pki, {
        let mut b = serving(&serves);
        b.form = Form::Legacy;
        b
    })
    .await;
    let running = run(
        settings(&pki),
        beta.endpoint("beta"),
        vec![old.endpoint("old")],
    );
    running.discovery.first_round_done().await;
    assert_eq!(
        status(&running, "beta").source,
        Some(DiscoveryForm::V2beta1)
    );
    assert_eq!(status(&running, "old").source, Some(DiscoveryForm::Legacy));
    assert_eq!(keys(&running, "beta"), serves);
    assert_eq!(keys(&running, "old"), serves);

    // Its documents have no validators: they are read again when the lists change, else now and then.
    until("confirmed", || {
        status(&running, "old").polls.not_modified >= 5
    })
    .await;
    assert!(old.count("/apis/apps/v1") < old.count("/apis"));
    old.change(|b| b.serves.push("batch/v2/jobs"));
    assert!(running.discovery.refresh().await.complete);
    assert!(keys(&running, "old").contains(&"batch/v2/jobs".to_owned()));

    // A version that is listed but unknown there is not served; one whose extension server is down keeps what is known.
    old.change(|b| {
        b.fail.insert("/apis/apps/v1", 503);
        b.fail.insert("/apis/batch/v1", 404);
        b.serves.push("z/v1/zs");
    });
    until("changed", || {
        keys(&running, "old").contains(&"z/v1/zs".to_owned())
    })
    .await;
    assert_eq!(
        keys(&running, "old"),
        [
            "/v1/pods",
            "apps/v1/deployments",
            "batch/v2/jobs",
            "z/v1/zs"
        ]
    );
    let stale: Vec<_> = status(&running, "old")
        .stale
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(stale, ["apps/v1"]);
}

#[tokio::test]
async fn half_an_answer_changes_nothing() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods", "g/v1/a"])).await;
    let running = run(settings(&pki), server.endpoint("a"), Vec::new());
    knows(&running, "a", Knowledge::Confirmed).await;
    server.change(|b| {
        b.serves = vec!["/v1/pods", "/v1/nodes", "g/v1/b"];
        b.fail.insert("/apis", 500);
    });
    knows(&running, "a", Knowledge::Unconfirmed).await;
    assert_eq!(keys(&running, "a"), ["/v1/pods", "g/v1/a"]);
    assert!(
        status(&running, "a")
            .last_error
            .unwrap()
            .contains("/apis answered 500")
    );
    assert!(
        running
            .discovery
            .counters()
            .fetch_discovery
            .load(Ordering::Relaxed)
            > 0
    );
    server.change(|b| b.fail.clear());
    until("both", || {
        keys(&running, "a") == ["/v1/nodes", "/v1/pods", "g/v1/b"]
    })
    .await;
}

#[tokio::test]
async fn a_document_without_end_is_refused_with_bounded_memory() {
    let pki = pki(H2);
    let server = Fake::start(&pki, serving(&["/v1/pods"])).await;
    let patient = {
        let mut s = settings(&pki);
        s.interval = HOUR;
        s
    };
    let max_bytes = patient.max_bytes as u64;
    let running = run(patient, server.endpoint("a"), Vec::new());
    running.discovery.first_round_done().await;
    server.change(|b| {
        b.endless = true;
        b.serves.push("g/v1/a");
    });
    running.discovery.refresh().await;
    let now = status(&running, "a");
    assert!(now.last_error.unwrap().contains("maxBytes"));
    assert_eq!((now.knowledge, now.keys), (Knowledge::Unconfirmed, 1));
    // What the server could hand over: the limit, the HTTP/2 windows, and the sockets' buffers; never 100 MB.
    let taken = server.state.endless.load(Ordering::SeqCst);
    assert!(
        (max_bytes..max_bytes + (16 << 20)).contains(&taken),
        "{taken}"
    );
}

#[tokio::test]
async fn another_ca_is_a_tls_failure() {
    let server = Fake::start(&pki(H2), serving(&["/v1/pods"])).await;
    let running = run(settings(&pki(H2)), server.endpoint("a"), Vec::new());
    running.discovery.first_round_done().await;
    let now = status(&running, "a");
    assert_eq!(now.knowledge, Knowledge::Never);
    assert!(now.last_error.unwrap().contains("TLS"));
}

#[tokio::test]
async fn a_name_without_address_is_counted() {
    let pki = pki(H2);
    let nowhere = Endpoint {
        name: "a".into(),
        host: "no-such-host.invalid".into(),
        port: 6443,
    };
    let running = run(settings(&pki), nowhere, Vec::new());
    running.discovery.first_round_done().await;
    assert!(
        running
            .discovery
            .counters()
            .hostport_resolution
            .load(Ordering::Relaxed)
            > 0
    );
}

#[tokio::test]
async fn a_restart_is_asked_about_at_once() {
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
    running
        .restarts
        .send(Some(servers[1].endpoint("whatever")))
        .await
        .unwrap();
    until("b asked", || status(&running, "b").polls.not_modified == 1).await;
    assert_eq!(servers[0].count("/apis"), 1);
    running.restarts.send(None).await.unwrap();
    until("all asked", || {
        status(&running, "a").polls.not_modified == 1
            && status(&running, "b").polls.not_modified == 2
    })
    .await;
    running.discovery.poke(&servers[0].endpoint("a"));
    until("a asked", || status(&running, "a").polls.not_modified == 2).await;
}

#[tokio::test]
async fn members_come_go_and_change_their_names() {
    let pki = pki(H2);
    let servers = [
        Fake::start(&pki, serving(&["/v1/pods"])).await,
        Fake::start(&pki, serving(&["g/v1/b"])).await,
        Fake::start(&pki, serving(&["g/v1/c"])).await,
    ];
    let running = run(
        settings(&pki),
        servers[0].endpoint("a"),
        vec![servers[1].endpoint("10.0.0.2")],
    );
    running.discovery.first_round_done().await;
    let local = running.discovery.members()[0].server.clone();
    // The local server is named by the list too, under another name: it stays one, and the local one.
    let list = vec![
        servers[0].endpoint("x"),
        servers[1].endpoint("b"),
        servers[2].endpoint("c"),
    ];
    running.members.send(Arc::new(list)).unwrap();
    until("three", || running.discovery.members().len() == 3).await;
    let members = running.discovery.members();
    assert!(Arc::ptr_eq(&local, &members[0].server) && local.local && !members[1].server.local);
    assert_eq!(
        keys(&running, "b"),
        ["g/v1/b"],
        "what is known of the address stays known"
    );
    assert_ne!(status(&running, "b").knowledge, Knowledge::Never);
    knows(&running, "c", Knowledge::Confirmed).await;
    let generation = running.discovery.generation();
    running.members.send(Arc::new(Vec::new())).unwrap();
    until("one", || running.discovery.table().members().len() == 1).await;
    assert!(running.discovery.generation() > generation);
}
