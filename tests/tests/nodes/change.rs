//! Kernel steering while something changes: connections of before the guard armed, an agent that replaces another, and an agent that
//! drains, all under load.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Cluster, eventually, on_nodes};
use crate::knocking::Knocking;
use mvp_tests::client::Client;
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, admin};
use mvp_tests::sim::control::Command;
use rustix::process::Signal;

/// Asks over this connection; whoever wants the status waits for it.
fn ask(
    cluster: &Cluster,
    client: &Arc<Client>,
    target: String,
) -> tokio::task::JoinHandle<anyhow::Result<http::StatusCode>> {
    let client = Arc::clone(client);
    cluster
        .clients
        .spawn(async move { Ok(client.get(&target, &[]).await?.status) })
}

#[test]
fn connections_of_before_are_retired_in_a_silent_moment() {
    on_nodes("retire", &[36, 36], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent(node);
        agent.until("idle");
        assert_eq!(agent.metric("mvp_retiring_available{reason=\"\"}"), 1.0);
        let silent = Arc::new(cluster.connect(&cluster.clients, node.at()).unwrap());
        let busy = Arc::new(cluster.connect(&cluster.clients, node.at()).unwrap());
        let ask = |client: &Arc<Client>, target: String| ask(&cluster, client, target);
        let join = |task| cluster.clients.join(task);
        assert_eq!(join(ask(&silent, CONFIG_MAPS.into())).unwrap(), 200);
        let before = agent.accepted();
        agent.admin("POST", "/arm").unwrap();
        let pins = cluster.bpffs.join(&node.name);
        eventually("the kernel is armed", || {
            mvp::kernel::read_pinned(&pins).unwrap().guard.armed
        });
        // A connection that the agent has accepted has the server's port too, and may be as silent.
        let through = Arc::new(cluster.connect(&cluster.clients, node.at()).unwrap());
        assert_eq!(join(ask(&through, CONFIG_MAPS.into())).unwrap(), 200);
        // Requests of 3 s one after another: never silent for 5 s.
        node.command(Command::Slow { micros: 3_000_000 });
        for number in 0..3 {
            let target = format!("{CONFIG_MAPS}/slow-{number}");
            assert_eq!(join(ask(&busy, target)).unwrap(), 404, "cut off");
        }
        node.command(Command::Slow { micros: 0 });
        let destroyed = || agent.metric("mvp_retired_connections_total{outcome=\"destroyed\"}");
        eventually("both are retired", || destroyed() >= 2.0);
        assert_eq!(
            destroyed(),
            2.0,
            "the agent's own and accepted ones are not"
        );
        for client in [&silent, &busy] {
            assert!(join(ask(client, CONFIG_MAPS.into())).is_err());
        }
        assert_eq!(join(ask(&through, CONFIG_MAPS.into())).unwrap(), 200);
        assert_eq!(agent.accepted() - before, 1.0);
        assert_eq!(
            cluster
                .get(&cluster.clients, node, CONFIG_MAPS)
                .unwrap()
                .status,
            200
        );
        assert_eq!(agent.accepted() - before, 2.0);
        // Discovery was not disturbed.
        let servers = agent.status()["servers"].clone();
        assert!(
            servers
                .as_array()
                .unwrap()
                .iter()
                .all(|s| s["available"] == true),
            "{servers}"
        );
    });
}

#[test]
fn an_operator_has_connections_of_before_ended_now() {
    on_nodes("hurry", &[36, 36], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent_with(node, |config| {
            config["retire"] = serde_json::json!({"within": "1h"});
        });
        agent.until("idle");
        let before = Arc::new(cluster.connect(&cluster.clients, node.at()).unwrap());
        let ask = || ask(&cluster, &before, CONFIG_MAPS.into());
        let join = |task| cluster.clients.join(task);
        assert_eq!(join(ask()).unwrap(), 200);
        agent.admin("POST", "/arm?for=1h").unwrap();
        let retirement = || agent.status()["retirement"].clone();
        eventually("it is found", || retirement()["open"] == 1);
        // A request that is under way is answered.
        node.command(Command::Slow { micros: 1_000_000 });
        let under_way = ask();
        eventually("the server has it", || {
            node.command(Command::Status)["streams"] == 1
        });
        let accepted = agent.accepted();
        assert_eq!(agent.admin("POST", "/retire").unwrap().0, 202);
        assert_eq!(join(under_way).unwrap(), 200, "cut off");
        node.command(Command::Slow { micros: 0 });
        eventually("it is ended", || retirement()["open"] == 0);
        let ended = retirement();
        assert_eq!(
            (&ended["destroyed"], &ended["late"]),
            (&1.into(), &0.into())
        );
        assert!(join(ask()).is_err());
        let again = cluster.get(&cluster.clients, node, CONFIG_MAPS).unwrap();
        assert_eq!(again.status, 200);
        assert_eq!(agent.accepted() - accepted, 1.0, "it came by the agent");
    });
}

/// The interval of a client with 20 requests per second.
const PAUSE: Duration = Duration::from_millis(50);

/// A client that asks again so long after each answer over one connection, and makes another when that one ends between two requests.
/// Returns how many requests were answered, and which were cut: the server got them and the client no answer.
async fn ask_on(
    first: Client,
    to: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<(u32, Vec<String>)> {
    let (mut client, mut answered, mut failed) = (first, 0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(pause).await;
        let target = format!("{CONFIG_MAPS}/busy-{}", answered + failed.len() as u32);
        match client.get(&target, &[]).await {
            Ok(_) => answered += 1,
            Err(_) => {
                failed.push(target);
                client = Client::http2(to, &tls).await?;
            }
        }
    }
    Ok((answered, failed))
}

/// Such a client, at work on a first connection until it is stopped.
fn busy(cluster: &Cluster, to: SocketAddr, pause: Duration) -> (Arc<AtomicBool>, Asking) {
    let tls = cluster
        .plane
        .pki()
        .client_config(admin(&cluster.plane), &[]);
    let tls: Arc<rustls::ClientConfig> = tls.unwrap().into();
    let stop = Arc::new(AtomicBool::new(false));
    let first = cluster.connect(&cluster.clients, to).unwrap();
    let asking = ask_on(first, to, tls, pause, Arc::clone(&stop));
    (stop, cluster.clients.spawn(asking))
}

/// What [`ask_on`] comes to.
type Asking = tokio::task::JoinHandle<anyhow::Result<(u32, Vec<String>)>>;

/// One connection of before leaves in a good moment, and no request of its client is cut.
fn leaves(test: &str, within: &'static str, pause: Duration) {
    on_nodes(test, &[36, 36], move |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent_with(node, |config| {
            config["retire"] = serde_json::json!({"within": within});
        });
        agent.until("idle");
        let (stop, asking) = busy(&cluster, node.at(), pause);
        eventually("the client is at work", || {
            !node.received(&format!("{CONFIG_MAPS}/busy-5")).is_empty()
        });
        let before = agent.accepted();
        agent.admin("POST", "/arm").unwrap();
        eventually("the client comes through the agent", || {
            agent.accepted() > before
        });
        eventually("no connection of before is left", || {
            agent.metric("mvp_connections_of_before") == 0.0
        });
        stop.store(true, Ordering::Relaxed);
        let (answered, failed) = cluster.clients.join(asking).unwrap();
        assert!(answered > 5);
        // The one request that found its connection ended was never received by the server.
        assert!(failed.len() <= 1, "{failed:?}");
        assert!(
            failed.iter().all(|target| node.received(target).is_empty()),
            "{failed:?}"
        );
        assert_eq!(
            agent.metric("mvp_retired_connections_total{outcome=\"destroyed\"}"),
            1.0
        );
        assert_eq!(
            agent.metric("mvp_retired_connections_total{outcome=\"late\"}"),
            0.0
        );
    });
}

#[test]
fn a_connection_that_is_never_silent_leaves_within_the_window_and_no_request_is_cut() {
    leaves("busy", "12s", PAUSE);
}

/// The kernel's clock ticks every 4 ms where tests run, so that it never shows 5 ms of quiet on this one.
#[test]
fn a_connection_without_quiet_by_the_kernels_clock_leaves_after_an_answer() {
    leaves("clockwork", "6s", Duration::from_millis(4));
}

/// An agent on a busy node has no room, or a slow thread, for a moment again and again. Connections of before are left alone in such a
/// moment, since their clients would come back to the server itself, and the window goes on after it.
#[test]
fn a_window_goes_on_after_moments_in_which_connections_pass_the_agent_by() {
    on_nodes("window", &[36, 36], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent_with(node, |config| {
            config["retire"] = serde_json::json!({"within": "6s"});
            config["limits"] = serde_json::json!({"connections": 1, "pendingHandshakes": 1});
        });
        agent.until("idle");
        let (stop, asking) = busy(&cluster, node.at(), PAUSE);
        let left = || agent.metric("mvp_connections_of_before");
        let full = || agent.metric("mvp_passing_by{reason=\"full\"}");
        agent.admin("POST", "/arm").unwrap();
        eventually("it is found", || left() == 1.0);
        // While others pass by, what is left is not told.
        let ended = || agent.metric("mvp_retired_connections_total{outcome=\"destroyed\"}");
        let mut moments = 0;
        while ended() == 0.0 && moments < 10 {
            // The agent has room for this one only.
            let through = cluster.connect(&cluster.clients, node.at()).unwrap();
            eventually("others pass by", || full() == 1.0);
            drop(through);
            eventually("there is room again", || full() == 0.0);
            let begun = Instant::now();
            eventually("a third of the window is over", || {
                ended() > 0.0 || begun.elapsed() > Duration::from_secs(2)
            });
            moments += 1;
        }
        assert_eq!(ended(), 1.0, "after {moments} such moments");
        stop.store(true, Ordering::Relaxed);
        let (answered, _) = cluster.clients.join(asking).unwrap();
        assert!(answered > 5);
    });
}

/// For a kernel without the modules, as a guest of `cargo xtask test --kernels` is before they are loaded: it sets the variable.
#[test]
fn without_socket_diagnosis_connections_of_before_stay_and_it_says_so() {
    if std::env::var_os("MVP_TEST_WITHOUT_DIAG").is_none() {
        return;
    }
    on_nodes("undiagnosed", &[36, 36], |cluster| {
        let node = &cluster.nodes[0];
        let agent = cluster.agent(node);
        agent.until("idle");
        let says = agent.status()["retiring"].as_str().unwrap().to_owned();
        assert!(
            says.starts_with("off: connections of before stay with kube-apiserver: not loaded")
                && says.contains("modprobe tcp_diag"),
            "{says}"
        );
        let available = "mvp_retiring_available{reason=\"not_loaded\"}";
        assert_eq!(agent.metric(available), 0.0);
        let early = Arc::new(cluster.connect(&cluster.clients, node.at()).unwrap());
        let ask = || {
            let early = Arc::clone(&early);
            cluster
                .clients
                .on(async move { early.get(CONFIG_MAPS, &[]).await.unwrap().status })
        };
        assert_eq!(ask(), 200);
        agent.admin("POST", "/arm").unwrap();
        let pins = cluster.bpffs.join(&node.name);
        eventually("the kernel is armed", || {
            mvp::kernel::read_pinned(&pins).unwrap().guard.armed
        });
        // It works for new connections all the same.
        let before = agent.accepted();
        let answer = cluster.get(&cluster.clients, node, CONFIG_MAPS).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(agent.accepted() - before, 1.0);
        assert_eq!(ask(), 200);
        assert_eq!(agent.accepted() - before, 1.0);
    });
}

#[test]
fn another_agent_takes_over_and_nobody_is_refused() {
    on_nodes("takeover", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let mut old = cluster.agent(node);
        old.until("armed");
        let knocking = Knocking::start(&cluster, node.at());
        knocking.until_more(20);
        let next = cluster.agent_with(node, |config| {
            config["admin"]["listen"] = "127.0.0.1:9441".into();
        });
        knocking.until_more(20);
        assert_eq!(old.exit_code(), Some(0), "{}", old.log());
        assert!(
            old.log().contains("another agent has taken over"),
            "{}",
            old.log()
        );
        let before = next.accepted();
        knocking.until_more(20);
        assert!(next.accepted() > before);
        knocking.end(&cluster.clients);
    });
}

/// Its start may last, on a busy node or because another process changes pins; what it gets once it has taken over waits for its
/// first proof all the same.
#[test]
fn another_agent_takes_over_late_and_nobody_is_refused() {
    on_nodes("late", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let mut old = cluster.agent(node);
        old.until("armed");
        let knocking = Knocking::start(&cluster, node.at());
        knocking.until_more(20);
        // Longer than a request that finds no proved server looks for one.
        for node in &cluster.nodes {
            node.command(Command::Slow { micros: 400_000 });
        }
        let lock = std::fs::File::open(&cluster.bpffs).unwrap();
        lock.lock().unwrap();
        let begun = Instant::now();
        let next = cluster.unready(node, |config| {
            config["admin"]["listen"] = "127.0.0.1:9441".into();
        });
        eventually(
            "it has waited for the pins longer than a request waits for a proof",
            || begun.elapsed() > Duration::from_millis(3500),
        );
        drop(lock);
        next.ready();
        knocking.until_more(20);
        assert_eq!(old.exit_code(), Some(0), "{}", old.log());
        assert!(next.accepted() > 0.0);
        knocking.end(&cluster.clients);
    });
}

/// While it is not proved it takes nothing, and what the kernel passed by would meet an old server, which denies the new types.
#[test]
fn an_agent_takes_over_only_once_it_can_serve() {
    on_nodes("fit", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let mut old = cluster.agent(node);
        old.until("armed");
        let knocking = Knocking::asking(&cluster, node.at(), ONLY_36);
        knocking.until_more(20);
        // Its proof takes longer than a heartbeat is good for.
        for node in &cluster.nodes {
            node.command(Command::Slow { micros: 1_200_000 });
        }
        let next = cluster.agent_with(node, |config| {
            config["admin"]["listen"] = "127.0.0.1:9441".into();
        });
        assert_eq!(old.exit_code(), Some(0), "{}", old.log());
        knocking.until_more(8);
        assert!(next.accepted() > 0.0);
        knocking.end(&cluster.clients);
    });
}

#[test]
fn a_drained_agent_leaves_without_a_trace_in_the_traffic() {
    on_nodes("drain", &[36, 35], |cluster| {
        let node = &cluster.nodes[1];
        let mut agent = cluster.agent(node);
        agent.until("armed");
        let knocking = Knocking::start(&cluster, node.at());
        knocking.until_more(20);
        agent.signal(Signal::TERM);
        assert_eq!(agent.exit_code(), Some(0), "{}", agent.log());
        knocking.until_more(20);
        let pinned = mvp::kernel::read_pinned(&cluster.bpffs.join(&node.name)).unwrap();
        assert!(!pinned.guard.armed && pinned.attached);
        knocking.end(&cluster.clients);
    });
}

#[test]
fn without_capabilities_auto_goes_on_and_on_refuses() {
    on_nodes("capabilities", &[36, 35], |cluster| {
        let node = &cluster.nodes[0];
        let bare = ["--bounding-set", "-bpf,-sys_admin", "--"];
        let agent = cluster.confined(node, &bare, |config| {
            config["kernel"]["steering"] = "auto".into();
        });
        agent.ready();
        let status = agent.status();
        let kernel = status["kernel"].as_str().unwrap();
        assert!(
            kernel.contains("steering off") && kernel.contains("CAP_BPF"),
            "{kernel}"
        );
        drop(agent);
        let mut agent = cluster.confined(node, &bare, |_| {});
        assert_eq!(agent.exit_code(), Some(1));
        let log = agent.log();
        let line = log.lines().last().unwrap();
        assert!(
            line.starts_with("mvp: kernel.steering: ") && line.contains("CAP_BPF"),
            "{log}"
        );
        // Those that the manual asks for are enough.
        let needed = [
            "--bounding-set",
            "-all,+bpf,+net_admin,+perfmon,+net_bind_service",
            "--",
        ];
        let agent = cluster.confined(node, &needed, |_| {});
        agent.ready();
        assert!(
            agent.status()["kernel"]
                .as_str()
                .unwrap()
                .contains("steering on")
        );
    });
}
