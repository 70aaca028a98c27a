//! Following CustomResourceDefinitions and APIServices at small servers over real TLS sockets: what events bring about, and
//! what faults of a watch do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::fake::objects::{DEFINITIONS, Objects, SERVICES, WatchFault, taken};
use crate::fake::{Behaviour, Fake, Pki, Running, pki, run, serving, settings, until};
use mvp::api::GroupVersion;
use mvp::discovery::{EventState, EventTimes, HubSettings};
use mvp::document::Priorities;
use serde_json::json;

const H2: &[&str] = &["h2", "http/1.1"];
const HOUR: Duration = Duration::from_secs(3600);

/// Without events nothing is polled in a test's life.
fn group(priorities: &Priorities, group: &str) -> Option<i32> {
    priorities.groups.get(group).copied()
}

fn v1(group: &str) -> GroupVersion {
    GroupVersion {
        group: group.into(),
        version: "v1".into(),
    }
}

fn patient(pki: &Pki) -> HubSettings {
    let mut settings = settings(pki);
    settings.interval = HOUR;
    settings.stale_after = HOUR;
    settings.events = EventTimes {
        fast_interval: Duration::from_millis(5),
        fast_for: Duration::from_secs(20),
        watch: HOUR,
        idle: HOUR,
        denied: Duration::from_millis(20),
        backoff: Duration::from_millis(50),
    };
    settings
}

fn with(objects: &Arc<Objects>, serves: &[&'static str]) -> Behaviour {
    let mut behaviour = serving(serves);
    behaviour.objects = Some(objects.clone());
    behaviour
}

/// How definitions are followed: the server's name while they are watched.
fn watched(running: &Running) -> Option<String> {
    match running.discovery.events().definitions {
        EventState::Watching(server) => Some(server.to_string()),
        _ => None,
    }
}

async fn watching(running: &Running) {
    until("watching", || {
        running.discovery.events().to_string() == "watching"
    })
    .await;
}

fn serves(running: &Running, name: &str, resource: &str) -> bool {
    let members = running.discovery.members();
    let member = members.iter().find(|m| &*m.server.name == name).unwrap();
    let mut entries = member.apis.iter().flat_map(|set| set.entries());
    entries.any(|e| &*e.resource == resource)
}

/// Queries of lists and watches of definitions so far.
fn asked(server: &Fake, watch: bool) -> Vec<String> {
    let seen = server.state.seen.lock().unwrap();
    seen.iter()
        .filter(|s| s.path == DEFINITIONS && s.query.contains("watch=true") == watch)
        .map(|s| s.query.clone())
        .collect()
}

/// The resourceVersion that the last watch began with.
fn resumed_from(server: &Fake) -> Option<String> {
    let query = asked(server, true).pop()?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(name, _)| *name == "resourceVersion")
        .map(|(_, value)| value.to_owned())
}

fn crd(objects: &Objects, name: &str) {
    objects.apply(DEFINITIONS, name, json!({"group": "g"}));
}

#[tokio::test]
async fn a_created_definition_has_every_server_polled_until_it_is_served() {
    let (pki, objects) = (pki(H2), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    let b = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    let running = run(patient(&pki), a.endpoint("a"), vec![b.endpoint("b")]);
    running.discovery.first_round_done().await;
    watching(&running).await;
    crd(&objects, "things.g");
    let polls = |fake: &Fake| fake.count("/apis");
    let before = (polls(&a), polls(&b));
    until("both polled, more than once", || {
        polls(&a) > before.0 + 2 && polls(&b) > before.1 + 2
    })
    .await;
    // A server serves a definition only some time after the event.
    a.change(|behaviour| behaviour.serves.push("g/v1/things"));
    until("known at a", || serves(&running, "a", "things")).await;
    assert!(!serves(&running, "b", "things"));
    b.change(|behaviour| behaviour.serves.push("g/v1/things"));
    until("known at b", || serves(&running, "b", "things")).await;

    let watched = [&a, &b].map(|fake| asked(fake, true).len());
    assert_eq!(watched.iter().sum::<usize>(), 1, "one server, one watch");
    let connections = [&a, &b].map(|fake| fake.state.connections.load(Ordering::SeqCst));
    assert_eq!(connections, [1, 1], "over the pollers' connections");
    let server = if watched[0] == 1 { &a } else { &b };
    let seen = server.state.seen.lock().unwrap();
    let accepts: Vec<_> = seen
        .iter()
        .filter(|s| s.path == DEFINITIONS)
        .map(|s| s.headers["accept"].to_str().unwrap())
        .collect();
    assert!(
        accepts[0].starts_with("application/json;as=PartialObjectMetadataList;"),
        "{accepts:?}"
    );
    assert!(
        accepts[1].starts_with("application/json;as=PartialObjectMetadata;"),
        "{accepts:?}"
    );
}

#[tokio::test]
async fn priorities_are_those_of_all_services_and_follow_them() {
    let (pki, objects) = (pki(H2), Objects::new());
    let service = |name: &str, group: &str, version: &str, priority: i32| {
        let spec = json!({"group": group, "version": version, "groupPriorityMinimum": priority, "versionPriority": 15});
        objects.apply(SERVICES, name, spec);
    };
    // More than two pages.
    for i in 0..1100 {
        service(&format!("v1.g{i:04}"), &format!("g{i:04}"), "v1", i);
    }
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    let running = run(patient(&pki), a.endpoint("a"), Vec::new());
    watching(&running).await;
    let priorities = running.discovery.priorities();
    assert_eq!(priorities.groups.len(), 1100);
    assert_eq!(group(&priorities, "g1099"), Some(1099));
    assert_eq!(priorities.versions.get(&v1("g0000")).copied(), Some(15));
    service("v2.g1099", "g1099", "v2", 2000);
    until("added", || {
        group(&running.discovery.priorities(), "g1099") == Some(2000)
    })
    .await;
    service("v2.g1099", "g1099", "v2", 1500);
    until("modified", || {
        group(&running.discovery.priorities(), "g1099") == Some(1500)
    })
    .await;
    objects.delete(SERVICES, "v2.g1099");
    until("deleted", || {
        group(&running.discovery.priorities(), "g1099") == Some(1099)
    })
    .await;
}

#[tokio::test]
async fn without_permission_polling_goes_on_and_the_status_says_why() {
    let (pki, objects) = (pki(H2), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    a.change(|b| {
        b.fail.insert(DEFINITIONS, 403);
        b.fail.insert(SERVICES, 404);
    });
    let mut polling = patient(&pki);
    polling.interval = Duration::from_millis(20);
    let running = run(polling, a.endpoint("a"), Vec::new());
    until("both said", || {
        let status = running.discovery.events().to_string();
        status.starts_with("polling only: a: ")
            && status.contains("customresourcedefinitions answered 403")
            && status.contains("apiservices answered 404")
    })
    .await;
    a.change(|b| b.serves.push("g/v1/things"));
    until("polled", || serves(&running, "a", "things")).await;
    a.change(|b| {
        b.fail.remove(DEFINITIONS);
    });
    until("one type is watched", || watched(&running).is_some()).await;
    let status = running.discovery.events().to_string();
    assert!(
        status.starts_with("polling only for one type: a: "),
        "{status}"
    );
    a.change(|b| b.fail.clear());
    watching(&running).await;
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let (pki, objects) = (pki(H2), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    a.change(|b| b.watch = WatchFault::Ends);
    let running = run(patient(&pki), a.endpoint("a"), Vec::new());
    until("several watches", || asked(&a, true).len() > 3).await;
    crd(&objects, "things.g");
    let revision = objects.revision().to_string();
    until("after the event", || {
        resumed_from(&a) == Some(revision.clone())
    })
    .await;
    objects.bookmark(DEFINITIONS);
    let revision = objects.revision().to_string();
    until("after the bookmark", || {
        resumed_from(&a) == Some(revision.clone())
    })
    .await;
    assert_eq!(asked(&a, false), ["limit=1"], "never listed again");
    let polls = a.count("/apis");
    until("the event has it polled", || a.count("/apis") > polls + 1).await;
    drop(running);
}

#[tokio::test]
async fn a_silent_watch_is_given_up_and_goes_on_where_it_was() {
    let (pki, objects) = (pki(H2), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    a.change(|b| b.watch = WatchFault::Silent);
    let mut impatient = patient(&pki);
    impatient.events.idle = Duration::from_millis(30);
    let running = run(impatient, a.endpoint("a"), Vec::new());
    until("tried again", || asked(&a, true).len() > 3).await;
    until("said", || {
        let status = running.discovery.events().to_string();
        status.contains("silent for too long")
    })
    .await;
    assert_eq!(asked(&a, false), ["limit=1"]);
    // What happens meanwhile is seen by the next watch.
    crd(&objects, "things.g");
    let polls = a.count("/apis");
    a.change(|b| b.watch = WatchFault::None);
    until("polled", || a.count("/apis") > polls + 2).await;
}

#[tokio::test]
async fn after_garbage_and_endless_lines_all_is_listed_again() {
    for fault in [WatchFault::Garbage, WatchFault::EndlessLine] {
        let (pki, objects) = (pki(H2), Objects::new());
        let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
        a.change(|b| b.watch = fault);
        let running = run(patient(&pki), a.endpoint("a"), Vec::new());
        until("listed again", || asked(&a, false).len() > 2).await;
        let expected = match fault {
            WatchFault::Garbage => "cannot be read",
            _ => "a line of more than 4194304 bytes",
        };
        until("said", || {
            running.discovery.events().to_string().contains(expected)
        })
        .await;
        let sessions = (asked(&a, true).len() * 2 + 2) as u64;
        let most = sessions * (6 << 20);
        assert!(taken(&a.state.endless) < most, "{fault:?} is bounded");
        a.change(|b| b.watch = WatchFault::None);
        watching(&running).await;
        a.change(|b| b.serves.push("g/v1/things"));
        crd(&objects, "things.g");
        until("known", || serves(&running, "a", "things")).await;
    }
}

#[tokio::test]
async fn what_was_compacted_is_listed_again() {
    let (pki, objects) = (pki(H2), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    a.change(|b| b.watch = WatchFault::Ends);
    let running = run(patient(&pki), a.endpoint("a"), Vec::new());
    until("watched", || asked(&a, true).len() > 1).await;
    objects.compact();
    until("listed again", || asked(&a, false).len() == 2).await;
    let revision = objects.revision().to_string();
    until("from there", || resumed_from(&a) == Some(revision.clone())).await;
    assert_ne!(running.discovery.events().definitions, EventState::Starting);
}

#[tokio::test]
async fn when_a_server_goes_away_another_is_watched() {
    let (pki, objects) = (pki(H2), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    let b = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    let (to_a, to_b) = (a.endpoint("a"), b.endpoint("b"));
    let running = run(patient(&pki), to_a, vec![to_b]);
    watching(&running).await;
    let first = watched(&running).unwrap();
    let (gone, left) = if first == "a" { (a, b) } else { (b, a) };
    let other = if first == "a" { "b" } else { "a" };
    gone.stop().await;
    until("the other is watched", || {
        watched(&running).as_deref() == Some(other)
    })
    .await;
    assert!(
        asked(&left, false).is_empty(),
        "revisions are the same everywhere"
    );
    left.change(|behaviour| behaviour.serves.push("g/v1/things"));
    crd(&objects, "things.g");
    until("known", || serves(&running, other, "things")).await;
}

#[tokio::test]
async fn a_server_that_is_a_member_no_more_is_not_watched() {
    let (pki, objects) = (pki(H2), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    let b = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    a.change(|behaviour| behaviour.hang.push(DEFINITIONS));
    let mut hasty = patient(&pki);
    hasty.dialer.timeout = Duration::from_millis(200);
    let running = run(hasty, a.endpoint("a"), vec![b.endpoint("b")]);
    until("b is watched", || watched(&running).as_deref() == Some("b")).await;
    a.change(|behaviour| behaviour.hang.clear());
    running.members.send_replace(Arc::default());
    until("a is watched", || watched(&running).as_deref() == Some("a")).await;
}

#[tokio::test]
async fn over_http1_the_watch_has_its_own_connection() {
    let (pki, objects) = (pki(&["http/1.1"]), Objects::new());
    let a = Fake::start(&pki, with(&objects, &["/v1/pods"])).await;
    let running = run(patient(&pki), a.endpoint("a"), Vec::new());
    watching(&running).await;
    a.change(|behaviour| behaviour.serves.push("g/v1/things"));
    crd(&objects, "things.g");
    until("known", || serves(&running, "a", "things")).await;
    let connections = a.state.connections.load(Ordering::SeqCst);
    assert_eq!(connections, 3, "the poller's and one a watch");
}
