//! Kernel steering while all servers are upgraded, one after another, under load.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{eventually, on_nodes};
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, admin};
use mvp_tests::load::{Answer, Call, Client as LoadClient, Endpoint, open_loop};
use mvp_tests::sim::control::Command;

/// Answers by kind, and the texts of what must not be.
#[derive(Default)]
struct Tally {
    ok: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// Requests at once in an upgrade, at most.
const UNDER_WAY: usize = 100;

/// What clients see of an upgrade of three nodes, one after another, with 500 requests per second over connections that are kept,
/// made anew only where client-go's transport does so too.
#[test]
fn a_rolling_upgrade_is_not_seen() {
    on_nodes("upgrade", &[35, 35, 35], |cluster| {
        // Connections of before stay, so that every request on them is the server's to answer.
        let stay = |config: &mut serde_json::Value| {
            config["retire"] = serde_json::json!({"within": "0s"});
        };
        let agents: Vec<_> = (cluster.nodes.iter())
            .map(|node| cluster.agent_with(node, stay))
            .collect();
        for agent in &agents {
            agent.until("idle");
        }
        let tls = cluster
            .plane
            .pki()
            .client_config(admin(&cluster.plane), &[]);
        let mut tls = tls.unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls: Arc<rustls::ClientConfig> = tls.into();
        // Those of the first half connect while all is idle, and keep their busy connections to the servers themselves until these
        // end. Those of the second half come when there is a new type to ask for, and so through the agents.
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let endpoint = Endpoint {
                    address: cluster.nodes[number % 3].at(),
                    server_name: "kubernetes".try_into().unwrap(),
                    tls: Arc::clone(&tls),
                };
                Arc::new(LoadClient::new(endpoint, None))
            })
            .collect();
        // From the first 200 of every node on, the new type must be found.
        let new_type = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        // What is due while so many requests are under way is left out: a machine that is too slow for the rate is not what this is about.
        let under_way = Arc::new(tokio::sync::Semaphore::new(UNDER_WAY));
        let load = {
            let (clients, new_type, tally) = (clients, Arc::clone(&new_type), Arc::clone(&tally));
            cluster.clients.spawn(async move {
                let mut sent = 0;
                open_loop(500.0, async { drop(stopped.await) }, |due| {
                    let Ok(place) = Arc::clone(&under_way).try_acquire_owned() else {
                        return;
                    };
                    sent += 1;
                    let asks_new = due.number.is_multiple_of(5) && new_type.load(Ordering::Relaxed);
                    let number = due.number as usize % 6 + if asks_new { 6 } else { 0 };
                    let client = Arc::clone(&clients[number]);
                    let target = if asks_new { ONLY_36 } else { CONFIG_MAPS };
                    let tally = Arc::clone(&tally);
                    tokio::spawn(async move {
                        tally.count(target, &client).await;
                        drop(place);
                    });
                })
                .await;
                sent
            })
        };
        for (number, node) in cluster.nodes.iter().enumerate() {
            // kubelet sees the manifest later than the agent does.
            let manifest = cluster
                .plane
                .pki()
                .dir()
                .join(format!("{}.yaml", node.name));
            std::fs::write(manifest, "kind: Pod").unwrap();
            eventually("the kernel is armed", || {
                let pins = cluster.bpffs.join(&node.name);
                mvp::kernel::read_pinned(&pins).unwrap().guard.armed
            });
            node.command(Command::Restart { minor: 36 });
            for agent in &agents {
                eventually("all know the new server", || {
                    let servers = agent.status()["servers"].clone();
                    let all = servers.as_array().unwrap().iter();
                    all.filter(|s| {
                        s["available"] == true
                            && s["version"]
                                .as_str()
                                .is_some_and(|v| v.starts_with("v1.36"))
                    })
                    .count()
                        > number
                });
            }
            for other in &cluster.nodes {
                eventually("the new type is served everywhere", || {
                    cluster
                        .get(&cluster.clients, other, ONLY_36)
                        .is_ok_and(|a| a.status == 200)
                });
            }
            new_type.store(true, Ordering::Relaxed);
        }
        for agent in &agents {
            agent.until("idle");
        }
        drop(stop);
        let sent = cluster.clients.join(load);
        eventually("all is answered", || {
            let wrong = tally.wrong.lock().unwrap().len() as u64;
            tally.ok.load(Ordering::Relaxed) + wrong >= sent
        });
        let wrong = tally.wrong.lock().unwrap();
        println!(
            "{sent} requests, {} not answered as they should",
            wrong.len()
        );
        assert!(
            wrong.is_empty(),
            "{} of {sent}: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(10)]
        );
        assert!(sent > 1000);
    });
}

impl Tally {
    async fn count(&self, target: &str, client: &LoadClient) {
        match client.send(&Call::get(target)).await {
            Ok(reply) if Answer::classify(reply.status, &reply.body) == Answer::Ok => {
                self.ok.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => {
                let text = String::from_utf8_lossy(&reply.body).into_owned();
                self.wrong(format!("{target}: {} {text}", reply.status));
            }
            Err(failure) => self.wrong(format!("{target}: {failure}")),
        }
    }

    fn wrong(&self, text: String) {
        self.wrong.lock().unwrap().push(text);
    }
}
