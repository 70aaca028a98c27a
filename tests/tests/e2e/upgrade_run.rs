//! A rolling upgrade under load, through agents: no client sees anything of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{
    CONFIG_MAPS, Events, ONLY_36, SOON, available, client, config_map, patient, plane, policy,
    revision,
};
use serde_json::Value;
use tokio::time::timeout;

/// What the clients share.
#[derive(Default)]
struct Run {
    /// A server that has the new type is ready.
    upgraded: AtomicBool,
    stop: AtomicBool,
    requests: AtomicUsize,
    /// What was created, by kind of object.
    maps: Mutex<BTreeSet<String>>,
    policies: Mutex<BTreeSet<String>>,
}

impl Run {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn get(&self, client: &Client, target: &str) -> Value {
        let answer = client.get(target, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "GET {target}: {}", answer.text());
        self.requests.fetch_add(1, Ordering::Relaxed);
        answer.json()
    }

    async fn create(
        &self,
        client: &Client,
        target: &str,
        object: &Value,
        made: &Mutex<BTreeSet<String>>,
    ) {
        let answer = client.post_json(target, &[], object).await.unwrap();
        assert_eq!(answer.status, 201, "POST {target}: {}", answer.text());
        self.requests.fetch_add(1, Ordering::Relaxed);
        made.lock()
            .unwrap()
            .insert(object["metadata"]["name"].as_str().unwrap().to_owned());
    }

    /// Gets, lists and creates, of old types all the time and of the new one as soon as it is there.
    async fn work(&self, client: &Client, number: usize) {
        for round in 0.. {
            if self.over() {
                return;
            }
            let name = format!("m-{number}-{round}");
            self.create(client, CONFIG_MAPS, &config_map(&name), &self.maps)
                .await;
            self.get(client, &format!("{CONFIG_MAPS}/{name}")).await;
            self.get(client, &format!("{CONFIG_MAPS}?limit=5")).await;
            if self.upgraded.load(Ordering::Relaxed) {
                self.create(client, ONLY_36, &policy(&name), &self.policies)
                    .await;
                self.get(client, &format!("{ONLY_36}/{name}")).await;
                self.get(client, &format!("{ONLY_36}?limit=5")).await;
            }
        }
    }

    /// Lists, then watches, and again from where the last watch ended, until everything made was seen.
    async fn watch(&self, client: &Client, collection: &str, made: &Mutex<BTreeSet<String>>) {
        let list = self.get(client, collection).await;
        let mut from = revision(&list);
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let items = list["items"].as_array().unwrap();
        seen.extend(
            items
                .iter()
                .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        let complete =
            |seen: &BTreeSet<String>| self.over() && seen.is_superset(&made.lock().unwrap());
        while !complete(&seen) {
            let target = format!("{collection}?watch=true&resourceVersion={from}");
            let mut events = Events::open(client, &target).await.unwrap();
            while !complete(&seen) {
                // Looks at the condition from time to time although no event comes.
                let Ok(event) = timeout(Duration::from_millis(100), events.next()).await else {
                    continue;
                };
                let Some(event) = event.expect("a clean end") else {
                    break;
                };
                assert_eq!(event["type"], "ADDED", "{event}");
                from = revision(&event);
                seen.insert(
                    event["object"]["metadata"]["name"]
                        .as_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }
}

#[tokio::test]
async fn a_rolling_upgrade_shows_no_client_an_error_or_a_false_404() {
    let plane = plane(&[35, 35, 35]).await;
    let run = Run::default();
    let mut agents = Vec::new();
    for server in plane.servers() {
        let agent = TestAgent::start_with(&plane, server.name(), patient).await;
        agents.push(agent.unwrap());
    }
    let mut clients = Vec::new();
    for agent in &agents {
        for _ in 0..2 {
            clients.push(client(&plane, agent).await);
        }
    }
    let workers = clients
        .iter()
        .enumerate()
        .map(|(number, client)| run.work(client, number));
    let watchers = clients.iter().step_by(2).map(|client| async {
        let old = run.watch(client, CONFIG_MAPS, &run.maps);
        let new = async {
            eventually("a server is upgraded", SOON, || async {
                Ok(run.upgraded.load(Ordering::Relaxed))
            })
            .await
            .unwrap();
            run.watch(client, ONLY_36, &run.policies).await;
        };
        tokio::join!(old, new);
    });
    let upgrade = async {
        let requests = || run.requests.load(Ordering::Relaxed);
        for server in plane.servers() {
            for agent in &agents {
                for server in plane.servers() {
                    available(agent, server.name()).await;
                }
            }
            let before = requests();
            eventually("traffic flows", SOON, || async {
                Ok(requests() > before + 60)
            })
            .await
            .unwrap();
            server.restart(36).await.unwrap();
            run.upgraded.store(true, Ordering::Relaxed);
        }
        let before = requests();
        eventually("traffic flows", SOON, || async {
            Ok(requests() > before + 60)
        })
        .await
        .unwrap();
        run.stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all(workers), join_all(watchers), upgrade);
    assert!(!run.policies.lock().unwrap().is_empty());
}
