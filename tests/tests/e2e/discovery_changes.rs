//! The view of discovery through changes: definitions come and go, servers die and come back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::Method;
use mvp_tests::agent::eventually;
use mvp_tests::client::{Client, empty};
use mvp_tests::facts::{self, Facts, V2};
use mvp_tests::fixtures::{DEFINITIONS, SOON, definition, spec};
use mvp_tests::fleet::Fleet;
use serde_json::{Value, json};

const WIDGETS: &str = "/apis/test.example/v1/namespaces/default/widgets";
const FACT: &str = "test.example/v1 widgets list";
const NEW: &str = "admissionregistration.k8s.io/v1 mutatingadmissionpolicies list";
const V2_LIST: [(&str, &str); 1] = [("accept", V2)];

fn widgets() -> Value {
    definition("test.example", "widgets", "Widget", json!({"status": {}}))
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "test.example/v1", "kind": "Widget", "metadata": {"name": name}})
}

async fn delete(client: &Client, target: &str) {
    let answer = client
        .call(Method::DELETE, target, &[], empty())
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "DELETE {target}: {}", answer.text());
}

async fn create(client: &Client, target: &str, object: &Value) {
    let answer = client.post_json(target, &[], object).await.unwrap();
    assert_eq!(answer.status, 201, "POST {target}: {}", answer.text());
}

/// What each agent says in aggregated discovery.
async fn views(fleet: &Fleet) -> anyhow::Result<Vec<Facts>> {
    let answers = fleet.ask_agents("/apis", &V2_LIST).await?;
    answers.iter().map(facts::of).collect()
}

/// Waits until every agent says it, or until none does.
async fn all_say(fleet: &Fleet, fact: &str, present: bool) {
    eventually(&format!("{fact}: {present}"), SOON, || async {
        let views = views(fleet).await?;
        Ok(views.iter().all(|view| view.contains(fact) == present))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_new_definition_is_seen_in_every_form_and_served_through_every_agent() {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 36), spec(b'c', 36)]).await;
    for (maker, server) in fleet.servers.iter().enumerate() {
        create(server, DEFINITIONS, &widgets()).await;
        all_say(&fleet, FACT, true).await;
        for path in [
            "/apis",
            "/apis/test.example",
            "/apis/test.example/v1",
            "/openapi/v3",
        ] {
            let wanted = if path == "/openapi/v3" {
                "apis/test.example/v1"
            } else {
                "test.example/v1"
            };
            let answers = fleet.ask_agents(path, &[]).await.unwrap();
            let mut seen = answers.iter().map(|answer| match path {
                "/apis/test.example/v1" => facts::of(answer).unwrap().contains(FACT),
                _ => facts::of(answer).unwrap().contains(wanted),
            });
            assert!(seen.all(|seen| seen), "{path}");
        }
        for (number, client) in fleet.clients.iter().enumerate() {
            create(client, WIDGETS, &widget(&format!("w-{number}"))).await;
        }
        for client in &fleet.clients {
            let list = client.get(WIDGETS, &[]).await.unwrap().json();
            assert_eq!(list["items"].as_array().unwrap().len(), 3);
        }
        for number in 0..3 {
            delete(&fleet.clients[maker], &format!("{WIDGETS}/w-{number}")).await;
        }
        delete(server, &format!("{DEFINITIONS}/widgets.test.example")).await;
        all_say(&fleet, FACT, false).await;
    }
}

/// Requests for discovery that a server has received.
fn polls(fleet: &Fleet, server: usize) -> usize {
    let requests = fleet.plane.server(server).requests();
    requests
        .iter()
        .filter(|request| request.path() == "/apis")
        .count()
}

/// A server that is down knows the definition still, but all servers share definitions: what the others say of them holds.
#[tokio::test]
async fn a_deleted_definition_does_not_come_back_while_a_server_is_down() {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 36), spec(b'c', 36)]).await;
    create(&fleet.servers[0], DEFINITIONS, &widgets()).await;
    all_say(&fleet, FACT, true).await;
    fleet.plane.server(2).kill().await;
    delete(
        &fleet.servers[0],
        &format!("{DEFINITIONS}/widgets.test.example"),
    )
    .await;
    all_say(&fleet, FACT, false).await;
    let stays_gone = async |what: &str| {
        let until = polls(&fleet, 0) + 12;
        eventually(what, SOON, || async {
            for view in views(&fleet).await? {
                assert!(!view.contains(FACT), "{what}");
                // What the dead server has built in stays.
                assert!(view.contains(NEW), "{what}");
            }
            Ok(polls(&fleet, 0) > until)
        })
        .await
        .unwrap();
    };
    stays_gone("one server is down").await;
    // Nor is the dead server waited for: nobody serves the type, and that is what clients hear.
    let objects = "/apis/test.example/v1/namespaces/default/widgets";
    eventually("404 through every agent", SOON, || async {
        let answers = fleet.ask_agents(objects, &[]).await?;
        Ok(answers.iter().all(|answer| answer.status == 404))
    })
    .await
    .unwrap();
    fleet.plane.server(2).start().await.unwrap();
    fleet.knows(fleet.plane.server(2)).await;
    stays_gone("all are up again").await;
}

#[tokio::test]
async fn what_only_a_dead_server_has_stays_listed() {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 36)]).await;
    let union = fleet.union("/apis", &V2_LIST).await.unwrap();
    all_say(&fleet, NEW, true).await;
    fleet.plane.server(1).kill().await;
    // Also through the agent whose own server is the dead one.
    let until = polls(&fleet, 0) + 12;
    eventually("discovery through both agents", SOON, || async {
        let mut complete = true;
        for answer in fleet.ask_agents("/apis", &V2_LIST).await? {
            match answer.status.as_u16() {
                200 => assert_eq!(facts::of(&answer)?, union),
                503 => complete = false,
                other => panic!("{other}: {}", answer.text()),
            }
        }
        Ok(complete && polls(&fleet, 0) > until)
    })
    .await
    .unwrap();
}

/// A server that restarts as another version: its new types are there for all, and none of the old ones was ever missing.
#[tokio::test]
async fn the_view_only_grows_while_a_server_is_upgraded() {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 35)]).await;
    let before = fleet.union("/apis", &V2_LIST).await.unwrap();
    all_say(&fleet, NEW, false).await;
    let done = std::sync::atomic::AtomicBool::new(false);
    let watching = async {
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            for answer in fleet.ask_agents("/apis", &V2_LIST).await.unwrap() {
                assert_eq!(answer.status, 200, "{}", answer.text());
                let view = facts::of(&answer).unwrap();
                let missing: Vec<_> = before.difference(&view).take(3).collect();
                assert!(missing.is_empty(), "{missing:?}");
            }
            tokio::task::yield_now().await;
        }
    };
    let upgrade = async {
        fleet.plane.server(1).restart(36).await.unwrap();
        all_say(&fleet, NEW, true).await;
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(watching, upgrade);
}
