//! A server that stops is let go at once: its watches end between two events and go on elsewhere, and so it need not wait for them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{
    CONFIG_MAPS, Events, ONLY_36, SOON, admin, available, client, config_map, direct, policy,
    policy_key, revision, spec,
};
use mvp_tests::rbac;
use mvp_tests::sim::store::Key;
use mvp_tests::sim::{ControlPlane, Server};
use mvp_tests::tunnel::{RawConnection, WEBSOCKET};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

/// Far sooner than a server would stop by itself, and than the agent's own watches end by themselves.
const STOPPED: Duration = Duration::from_secs(15);
/// A real server was seen to keep watches open for 20 to 60 s.
const LINGERS: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 10;
const WATCHES: usize = 500;
/// Between two requests of the load: 200 each second.
const PAUSE: Duration = Duration::from_millis(5);
/// So many stops of one server after another.
const STOPS: usize = 4;

async fn lingering(minors: &[u8]) -> ControlPlane {
    let specs = (b'a'..).zip(minors);
    let specs = specs.map(|(letter, minor)| spec(letter, *minor).lingers(LINGERS));
    ControlPlane::builder()
        .servers(specs)
        .start()
        .await
        .unwrap()
}

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    ended: AtomicUsize,
    over: AtomicBool,
}

/// Follows config maps from `from` on until `last` comes, resuming whenever a watch ends. Returns the names that were added, in order.
async fn follow(client: Arc<Client>, mut from: String, last: &str, counts: &Counts) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let target = format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}");
        let mut events = Events::open(&client, &target).await.unwrap();
        counts.open.fetch_add(1, Ordering::Relaxed);
        // A stream that breaks is an error here.
        while let Some(event) = events.next().await.unwrap() {
            assert_eq!(event["type"], "ADDED", "{event}");
            from = revision(&event);
            let name = event["object"]["metadata"]["name"].as_str().unwrap();
            names.push(name.to_owned());
            if name == last {
                return names;
            }
        }
        counts.open.fetch_sub(1, Ordering::Relaxed);
        counts.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks every few milliseconds until it is over; every answer is to be 200.
async fn load(client: Client, counts: Arc<Counts>) -> usize {
    let (client, mut tick) = (Arc::new(client), interval(PAUSE));
    let mut asked = JoinSet::new();
    while !counts.over.load(Ordering::Relaxed) {
        tick.tick().await;
        let client = client.clone();
        asked.spawn(async move {
            let answer = client.get("/api/v1/namespaces", &[]).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        });
    }
    asked.join_all().await.len()
}

async fn add(plane: &ControlPlane, name: &str) {
    let key = Key::new("", "configmaps", "default", name);
    let mut object = config_map(name);
    object["metadata"]["namespace"] = "default".into();
    plane.store().create(&key, object).await.unwrap();
}

async fn stop(server: &Server) -> Duration {
    let began = Instant::now();
    let stopped = timeout(STOPPED, server.stop()).await;
    stopped.expect("it waits for nobody's watch").unwrap();
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_waits_for_no_watch_and_no_event_is_lost() {
    let plane = lingering(&[36, 36, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let first = client(&plane, &agent).await;
    let from = revision(&first.get(CONFIG_MAPS, &[]).await.unwrap().json());
    let counts = Arc::new(Counts::default());
    let mut followers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = Arc::new(client(&plane, &agent).await);
        for _ in 0..WATCHES / CONNECTIONS {
            let (client, from, counts) = (client.clone(), from.clone(), counts.clone());
            followers.spawn(async move { follow(client, from, "last", &counts).await });
        }
    }
    let asking = tokio::spawn(load(client(&plane, &agent).await, counts.clone()));
    let mut took = Vec::new();
    for number in 0..STOPS {
        eventually("all watches are open", SOON, || async {
            Ok(counts.open.load(Ordering::Relaxed) == WATCHES)
        })
        .await
        .unwrap();
        add(&plane, &format!("before-{number}")).await;
        let server = plane.server(number % 2);
        let adding = async {
            for event in 0..20 {
                add(&plane, &format!("stop-{number}-{event:02}")).await;
                tokio::time::sleep(PAUSE).await;
            }
        };
        took.push(tokio::join!(stop(server), adding).0);
        server.start().await.unwrap();
        available(&agent, server.name()).await;
    }
    add(&plane, "last").await;
    let mut all = BTreeSet::new();
    while let Some(names) = timeout(SOON, followers.join_next()).await.unwrap() {
        let names = names.unwrap();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(
            (names.len(), distinct.len()),
            (STOPS * 21 + 1, STOPS * 21 + 1)
        );
        all.insert(names);
    }
    assert_eq!(all.len(), 1, "everybody saw the same in the same order");
    counts.over.store(true, Ordering::Relaxed);
    let asked = asking.await.unwrap();
    let ended = counts.ended.load(Ordering::Relaxed);
    assert!(ended >= WATCHES, "{ended}");
    println!("{ended} watches resumed, {asked} requests answered, stops took {took:?}");
}

#[tokio::test]
async fn the_watches_by_which_members_are_read_are_let_go_too() {
    let plane = lingering(&[36, 36]).await;
    rbac::apply(&plane).unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        // On one node all addresses are its own: the peer is named in the file.
        config.peers.kubernetes.enabled = true;
    })
    .await
    .unwrap();
    let local = plane.named("cp-a").unwrap();
    let watches = |server: &Server| {
        let requests = server.requests();
        let watches = requests.iter().filter(|r| r.target.contains("watch="));
        let paths: BTreeSet<_> = watches.map(|r| r.path().to_owned()).collect();
        ["/endpointslices", "/leases", "/nodes"]
            .iter()
            .all(|end| paths.iter().any(|path| path.ends_with(end)))
    };
    eventually("members are watched", SOON, || async { Ok(watches(local)) })
        .await
        .unwrap();
    available(&agent, "cp-b").await;
    stop(local).await;
    let peer = plane.named("cp-b").unwrap();
    eventually("they go on elsewhere", SOON, || async { Ok(watches(peer)) })
        .await
        .unwrap();
}

/// The next frame of a server: its opcode and its payload, which is shorter than 64 KiB in these tests.
async fn frame(watch: &mut RawConnection) -> (u8, Vec<u8>) {
    let stream = &mut watch.stream;
    let first = stream.read_u8().await.unwrap();
    assert_eq!(first & 0xf0, 0x80, "a message in one frame");
    let length = match stream.read_u8().await.unwrap() {
        126 => stream.read_u16().await.unwrap().into(),
        short => {
            assert!(short < 126, "{short}");
            short.into()
        }
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    (first & 0x0f, payload)
}

#[tokio::test]
async fn a_watch_over_websocket_is_let_go_between_two_events() {
    let plane = lingering(&[36, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    available(&agent, "cp-b").await;
    let first = client(&plane, &agent).await;
    let from = revision(&first.get(CONFIG_MAPS, &[]).await.unwrap().json());
    let target = format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}");
    let mut watches = Vec::new();
    for _ in 0..10 {
        let opened = RawConnection::open(agent.address, &plane, admin(&plane)).await;
        let mut watch = opened.unwrap();
        let (status, _) = watch.exchange("GET", &target, WEBSOCKET).await.unwrap();
        assert_eq!(status, 101);
        watches.push(watch);
    }
    // A server waits for watches like this one, and not for a connection that was upgraded, which breaks off with the process.
    let local = plane.named("cp-a").unwrap();
    let beside = Arc::new(direct(&plane, local).await);
    let held = Events::open(&beside, &target).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let adding = async {
        let mut added = 0;
        while !over.load(Ordering::Relaxed) {
            add(&plane, &format!("event-{added:04}")).await;
            added += 1;
            tokio::time::sleep(PAUSE).await;
        }
    };
    let mut readers = JoinSet::new();
    for mut watch in watches {
        readers.spawn(async move {
            let mut events = 0;
            loop {
                match frame(&mut watch).await {
                    (0x1, event) => {
                        let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
                        let name = event["object"]["metadata"]["name"].as_str().unwrap();
                        assert_eq!(name, format!("event-{events:04}"));
                        events += 1;
                    }
                    // Going away, by RFC 6455 §7.4.1.
                    (0x8, code) => {
                        assert_eq!(code, 1001u16.to_be_bytes());
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(
                watch.read_some().await.unwrap().is_empty(),
                "nothing follows"
            );
            events
        });
    }
    let reading = async {
        let events = timeout(SOON, readers.join_all()).await;
        over.store(true, Ordering::Relaxed);
        drop(held);
        events.expect("every watch is ended while the server still runs")
    };
    let (_, _, events) = tokio::join!(adding, stop(local), reading);
    assert!(events.iter().any(|events| *events > 0), "{events:?}");
}

#[tokio::test]
async fn a_watch_that_no_other_server_can_go_on_with_stays() {
    let plane = lingering(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-b").await.unwrap();
    let client = Arc::new(client(&plane, &agent).await);
    let mut lonely = Vec::new();
    for _ in 0..20 {
        let target = format!("{ONLY_36}?watch=true");
        lonely.push(Events::open(&client, &target).await.unwrap());
    }
    let mut common = JoinSet::new();
    for _ in 0..20 {
        let mut events = Events::open(&client, &format!("{CONFIG_MAPS}?watch=true"))
            .await
            .unwrap();
        common.spawn(async move { events.next().await.unwrap() });
    }
    let server = plane.named("cp-b").unwrap();
    let told = async {
        while let Some(ended) = timeout(SOON, common.join_next()).await.unwrap() {
            assert_eq!(ended.unwrap(), None, "another server serves it");
        }
        let key = policy_key("p");
        plane.store().create(&key, policy("p")).await.unwrap();
        for events in &mut lonely {
            let event = timeout(SOON, events.next()).await.unwrap().unwrap();
            assert_eq!(event.expect("it is still open")["type"], "ADDED");
        }
        lonely.clear();
    };
    tokio::join!(stop(server), told);
}
