//! Servers that say goodbye, refuse, reset, die and break off under load: what clients see of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{
    CONFIG_MAPS, DEFINITIONS, NEVER, ONLY_36, SOON, admin, available, client, config_map,
    definition, direct, plane, policy, received, spec, unpolled,
};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::store::Scope;
use serde_json::json;

/// Names of the stored objects of a resource.
async fn names(plane: &ControlPlane, group: &str, resource: &str, namespace: &str) -> Vec<String> {
    let scope = Scope::new(group, resource, namespace);
    let (objects, _) = plane.store().list(&scope).await.unwrap();
    let names = objects
        .iter()
        .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned());
    names.collect()
}

async fn config_maps(plane: &ControlPlane) -> Vec<String> {
    names(plane, "", "configmaps", "default").await
}

async fn policies(plane: &ControlPlane) -> Vec<String> {
    names(
        plane,
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        "",
    )
    .await
}

#[tokio::test]
async fn goaway_in_mid_load_fails_nothing_and_doubles_nothing() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 40;
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let stop = AtomicBool::new(false);
    let goodbyes = AtomicUsize::new(0);
    let goodbye = async {
        while !stop.load(Ordering::Relaxed) {
            for server in plane.servers() {
                server.goaway().await;
            }
            goodbyes.fetch_add(1, Ordering::Relaxed);
            // The pace of the load, not a wait for anything.
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let work = async {
        let clients = (0..CLIENTS).map(|number| {
            let (plane, agent) = (&plane, &agent);
            async move {
                let client = client(plane, agent).await;
                let client = &client;
                let padding = "x".repeat(20_000);
                for round in 0..ROUNDS {
                    let name = format!("m-{number}-{round}");
                    let mut map = config_map(&name);
                    map["data"]["padding"] = json!(padding);
                    let calls = [(CONFIG_MAPS, map), (ONLY_36, policy(&name))];
                    let creates = calls.map(|(target, object)| async move {
                        let made = client.post_json(target, &[], &object).await.unwrap();
                        assert_eq!(made.status, 201, "{target} {}", made.text());
                    });
                    let gets = [CONFIG_MAPS, ONLY_36].map(|collection| async move {
                        let target = format!("{collection}?limit=1");
                        let answer = client.get(&target, &[]).await.unwrap();
                        assert_eq!(answer.status, 200, "{target} {}", answer.text());
                    });
                    tokio::join!(join_all(creates), join_all(gets));
                }
            }
        });
        join_all(clients).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(work, goodbye);
    assert!(goodbyes.load(Ordering::Relaxed) > 10);
    for (server, target) in plane.servers().iter().zip([CONFIG_MAPS, ONLY_36]) {
        let requests = server.requests();
        let over = requests
            .iter()
            .filter(|r| r.path() == target)
            .map(|r| r.connection);
        assert!(
            over.collect::<BTreeSet<_>>().len() > 10,
            "few connections ended"
        );
    }
    for names in [config_maps(&plane).await, policies(&plane).await] {
        let ours = names.iter().filter(|name| name.starts_with("m-")).count();
        assert_eq!(ours, CLIENTS * ROUNDS);
    }
}

#[tokio::test]
async fn refused_streams_are_sent_again() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    let local = plane.server(0);
    local.faults_only_on(CONFIG_MAPS);
    local.refuse_streams(2);
    let made = client
        .post_json(CONFIG_MAPS, &[], &config_map("m"))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(received(local, CONFIG_MAPS), 3);
    assert_eq!(
        agent
            .metric("mvp_retries_total{reason=\"unprocessed\"}")
            .await
            .unwrap(),
        2.0
    );
    local.refuse_streams(1);
    assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    // One that refuses for good is left for another, and is not held to be dead.
    local.refuse_streams(1000);
    let made = client
        .post_json(CONFIG_MAPS, &[], &config_map("n"))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(received(plane.server(1), CONFIG_MAPS), 1);
    local.refuse_streams(0);
    assert_eq!(
        client
            .get(&format!("{CONFIG_MAPS}/n"), &[])
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(received(local, &format!("{CONFIG_MAPS}/n")), 1);
}

#[tokio::test]
async fn a_reset_before_the_answer_repeats_reads_and_never_writes() {
    for http1 in [false, true] {
        let specs = [spec(b'a', 35), spec(b'b', 36)];
        let specs = specs.map(|spec| if http1 { spec.http1_only() } else { spec });
        let plane = ControlPlane::builder()
            .servers(specs)
            .start()
            .await
            .unwrap();
        let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
        let client = client(&plane, &agent).await;
        let (local, peer) = (plane.server(0), plane.server(1));
        local.faults_only_on(CONFIG_MAPS);
        local.reset_next(1);
        let answer = client.get(CONFIG_MAPS, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            received(local, CONFIG_MAPS) + received(peer, CONFIG_MAPS),
            2
        );
        local.clear_requests();
        peer.clear_requests();
        local.reset_next(1);
        let answer = client
            .post_json(CONFIG_MAPS, &[], &config_map("m"))
            .await
            .unwrap();
        assert_eq!(answer.status, 502, "{}", answer.text());
        // Nobody knows whether the server acted on it: client-go sends again whatever is answered with Retry-After, kube-rs any 503.
        assert!(!answer.headers.contains_key("retry-after"));
        assert!(answer.json()["details"]["retryAfterSeconds"].is_null());
        assert_eq!(answer.json()["reason"], "InternalError");
        assert_eq!(
            (received(local, CONFIG_MAPS), received(peer, CONFIG_MAPS)),
            (1, 0)
        );
        let names = config_maps(&plane).await;
        assert!(!names.contains(&"m".to_owned()), "{names:?}");
        // The client's own second try is free to succeed.
        let again = client
            .post_json(CONFIG_MAPS, &[], &config_map("m"))
            .await
            .unwrap();
        assert_eq!(again.status, 201, "http1={http1} {}", again.text());
    }
}

#[tokio::test]
async fn reads_survive_servers_that_are_killed_in_mid_load() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let readers = (0..8).map(|_| async {
        let client = client(&plane, &agent).await;
        while !stop.load(Ordering::Relaxed) {
            let answer = client.get(CONFIG_MAPS, &[]).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
    let chaos = async {
        let more = |from: usize| {
            let done = &done;
            eventually("requests go on", SOON, move || async move {
                Ok(done.load(Ordering::Relaxed) > from + 50)
            })
        };
        for _ in 0..3 {
            for server in plane.servers() {
                available(&agent, "cp-a").await;
                available(&agent, "cp-b").await;
                more(done.load(Ordering::Relaxed)).await.unwrap();
                server.kill().await;
                more(done.load(Ordering::Relaxed)).await.unwrap();
                server.start().await.unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all(readers), chaos);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_not_a_short_success() {
    for server_http1 in [false, true] {
        let local = spec(b'a', 36);
        let local = if server_http1 {
            local.http1_only()
        } else {
            local
        };
        let plane = ControlPlane::builder().server(local).start().await.unwrap();
        let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
        let server = plane.server(0);
        server.faults_only_on(CONFIG_MAPS);
        for client_http1 in [false, true] {
            let client = match client_http1 {
                false => agent.http2(&plane, admin(&plane)).await.unwrap(),
                true => agent.http1(&plane, admin(&plane)).await.unwrap(),
            };
            assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
            server.cut_next(1, 10);
            let outcome = client.get(CONFIG_MAPS, &[]).await;
            assert!(
                outcome.is_err(),
                "server http1={server_http1}, client http1={client_http1}: {outcome:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_404_that_breaks_off_is_not_believed() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 36).crd_delay(NEVER))
        .server(spec(b'b', 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", unpolled)
        .await
        .unwrap();
    let client = client(&plane, &agent).await;
    let crd = definition("cut.example.com", "things", "Thing", json!({}));
    let cp_b = direct(&plane, plane.server(1)).await;
    assert_eq!(
        cp_b.post_json(DEFINITIONS, &[], &crd).await.unwrap().status,
        201
    );
    plane.server(0).faults_only_on("/apis/cut.example.com/");
    plane.server(0).cut_next(1, 5);
    let things = "/apis/cut.example.com/v1/namespaces/default/things";
    let answer = client.get(things, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_small_stream_limit_is_no_limit_for_clients() {
    let plane = ControlPlane::builder()
        .server(spec(b'a', 35).max_concurrent_streams(4))
        .server(spec(b'b', 36).max_concurrent_streams(4))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = Arc::new(client(&plane, &agent).await);
    for server in plane.servers() {
        server.faults_only_on("/api");
        server.slow(Duration::from_millis(30));
    }
    let gets = (0..100).map(|i| {
        let client = &client;
        async move {
            let target = [CONFIG_MAPS, ONLY_36][i % 2];
            let answer = client.get(target, &[]).await.unwrap();
            assert_eq!(answer.status, 200, "{target} {}", answer.text());
        }
    });
    let creates = (0..100).map(|i| {
        let client = &client;
        async move {
            let name = format!("m-{i}");
            let made = match i % 2 {
                0 => client.post_json(CONFIG_MAPS, &[], &config_map(&name)).await,
                _ => client.post_json(ONLY_36, &[], &policy(&name)).await,
            };
            let made = made.unwrap();
            assert_eq!(made.status, 201, "{}", made.text());
        }
    });
    tokio::join!(join_all(gets), join_all(creates));
    let mut made = config_maps(&plane).await;
    made.extend(policies(&plane).await);
    let made: BTreeSet<_> = made.into_iter().filter(|n| n.starts_with("m-")).collect();
    assert_eq!(made.len(), 100);
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client: Client = client(&plane, &agent).await;
    for _ in 0..3 {
        plane.server(0).kill().await;
        assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
        plane.server(0).start().await.unwrap();
        available(&agent, "cp-a").await;
        plane.server(0).clear_requests();
        let made = client.get(CONFIG_MAPS, &[]).await.unwrap();
        assert_eq!(made.status, 200, "{}", made.text());
        assert_eq!(received(plane.server(0), CONFIG_MAPS), 1);
    }
}
