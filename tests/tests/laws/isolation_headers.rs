//! Header fields cost the agent what they are, not what a few bytes of HPACK say they are, and only while they are under way.

use std::sync::Arc;
use std::time::Duration;

use mvp_tests::agent::eventually;
use mvp_tests::child::{ChildAgent, raise_descriptor_limit};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{CONFIG_MAPS, SOON, admin, plane};
use mvp_tests::raw::{HEADERS, Raw, bomb, frame};
use mvp_tests::sim::ControlPlane;

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");
const MIB: u64 = 1 << 20;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
/// The attack: connections, streams on each, and how often each means the stored field.
const CONNECTIONS: usize = 32;
const STREAMS: u32 = 240;
const TIMES: usize = 63;
const VALUE: usize = 4000;

fn tls(plane: &ControlPlane) -> Arc<rustls::ClientConfig> {
    Arc::new(plane.pki().client_config(admin(plane), &[]).unwrap())
}

/// The attack keeps a small machine so busy that polls and PINGs are late, which would be held against the server, rightly. The test is
/// about memory.
fn calm(config: &mut serde_json::Value) {
    for (section, key) in [
        ("discovery", "timeout"),
        ("upstream", "pingTimeout"),
        ("limits", "handshakeTimeout"),
        ("limits", "headerTimeout"),
        // The neighbour says nothing until the attack is written.
        ("limits", "idleTimeout"),
    ] {
        config[section][key] = "1h".into();
    }
    config["upstream"]["connectTimeout"] = "1m".into();
}

/// Requests refused for what is under way.
async fn refused(agent: &ChildAgent) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for limit in ["header_bytes_per_connection", "header_bytes_total"] {
        let sample = format!("mvp_refused_total{{limit=\"{limit}\"}}");
        sum += agent.metric(&sample).await?;
    }
    Ok(sum)
}

/// All requests of one connection.
fn bombs(path: &str) -> Vec<u8> {
    let value = "v".repeat(VALUE);
    let mut bytes = Vec::new();
    for number in 0..STREAMS {
        let stored = if number == 0 { value.as_str() } else { "" };
        let block = bomb(path, "x-bomb", stored, TIMES);
        bytes.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * number + 1,
            &block,
        ));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexed_header_fields_do_not_fill_the_memory_and_it_is_given_back() {
    raise_descriptor_limit().unwrap();
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", calm)
        .await
        .unwrap();
    let tls = tls(&plane);
    let good = Client::http2(agent.address, &tls).await.unwrap();
    assert_eq!(good.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    let before = agent.memory().unwrap();
    // Requests wait for their answers all at once.
    plane.server(0).slow(Duration::from_secs(3));
    plane.server(0).faults_only_on("/api/v1/namespaces/bomb");
    let attack = bombs("/api/v1/namespaces/bomb");
    let mut attackers = Vec::new();
    let mut sent = 0;
    for _ in 0..CONNECTIONS {
        // The agent may end an attacker's connection whenever it likes: while the attack is written, and before.
        let Ok(mut attacker) = Raw::http2(agent.address, &tls).await else {
            continue;
        };
        let _cut_off = attacker.send(&attack).await;
        sent += attack.len();
        attackers.push(attacker);
    }
    eventually("requests were refused for it", SOON, || async {
        Ok(refused(&agent).await? >= 100.0)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}; {:?}", agent.memory()));
    // The neighbour is served meanwhile.
    for _ in 0..20 {
        let answer = good.get(CONFIG_MAPS, &[]).await.unwrap();
        assert_eq!(
            answer.status,
            200,
            "{} {:?} {}",
            answer.text(),
            agent.memory(),
            agent.log()
        );
    }
    let most = agent.memory().unwrap();
    drop(attackers);
    plane.server(0).slow(Duration::ZERO);
    println!(
        "{} KiB sent; resident {} KiB before, at most {} KiB",
        sent >> 10,
        before.now >> 10,
        most.peak >> 10
    );
    assert!(most.peak < before.now + 160 * MIB, "{before:?} {most:?}");
    eventually("memory is given back", Duration::from_secs(60), || async {
        Ok(agent.memory()?.now < before.now + 24 * MIB)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}; {:?}", agent.memory()));
    println!(
        "resident {} KiB afterwards",
        agent.memory().unwrap().now >> 10
    );
}

/// The budget is of bytes under way: what has been answered does not count any more.
#[tokio::test]
async fn header_bytes_count_while_they_are_under_way() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"]["headerBytes"] = 65536.into();
        config["limits"]["headerBytesPerConnection"] = 131_072.into();
        config["limits"]["headerBytesTotal"] = (1 << 20).into();
    })
    .await
    .unwrap();
    let client = Client::http2(agent.address, &tls(&plane)).await.unwrap();
    let large = "v".repeat(50_000);
    for _ in 0..10 {
        let answer = client
            .get(CONFIG_MAPS, &[("x-large", &large)])
            .await
            .unwrap();
        assert_eq!(answer.status, 200, "one after the other");
    }
    plane.server(0).slow(Duration::from_secs(2));
    let headers = [("x-large", large.as_str())];
    let all = futures_util::future::join_all((0..4).map(|_| client.get(CONFIG_MAPS, &headers)));
    let all = all.await;
    let mut codes: Vec<_> = all.into_iter().map(|a| a.unwrap()).collect();
    codes.sort_by_key(|answer| answer.status);
    let statuses: Vec<u16> = codes.iter().map(|a| a.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 431, 431]);
    let last = codes.last().unwrap().json();
    assert_eq!(
        (&last["kind"], &last["code"]),
        (&"Status".into(), &431.into())
    );
    assert_eq!(refused(&agent).await.unwrap(), 2.0);
    plane.server(0).slow(Duration::ZERO);
    assert_eq!(client.get(CONFIG_MAPS, &headers).await.unwrap().status, 200);
}

/// One connection's header bytes are not another's: while one is at its limit, others are served.
#[tokio::test]
async fn a_connection_at_its_limit_harms_no_other() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |config| {
        config["limits"]["headerBytes"] = 65536.into();
        config["limits"]["headerBytesPerConnection"] = 65536.into();
        config["limits"]["headerBytesTotal"] = 131_072.into();
    })
    .await
    .unwrap();
    let tls = tls(&plane);
    plane.server(0).slow(Duration::from_secs(3));
    plane.server(0).faults_only_on("/api/v1/namespaces/greedy");
    let large = "v".repeat(60_000);
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let client = Arc::new(Client::http2(agent.address, &tls).await.unwrap());
        let large = large.clone();
        greedy.push(tokio::spawn(async move {
            let headers = [("x-large", large.as_str())];
            let answer = client.get("/api/v1/namespaces/greedy", &headers);
            answer.await.unwrap().status.as_u16()
        }));
    }
    eventually("all there is for large ones is in use", SOON, || async {
        Ok(refused(&agent).await? >= 1.0)
    })
    .await
    .unwrap();
    let other = Client::http2(agent.address, &tls).await.unwrap();
    for _ in 0..10 {
        assert_eq!(other.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    }
    let mut codes = Vec::new();
    for task in greedy {
        codes.push(task.await.unwrap());
    }
    assert!(codes.contains(&431) && codes.contains(&404), "{codes:?}");
}
