//! Descriptors: as many as the system allows, a reserve for the admin port, and no end of the agent when there are none.

use std::time::Duration;

use mvp_tests::agent::eventually;
use mvp_tests::child::{ChildAgent, raise_descriptor_limit};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{CONFIG_MAPS, SOON, admin, plane};
use mvp_tests::raw::Raw;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");

#[tokio::test]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start_limited(BINARY, &plane, "cp-a", (64, 2048), |_| {})
        .await
        .unwrap();
    assert_eq!(agent.descriptor_limit().unwrap(), (2048, 2048));
}

/// More clients than there are descriptors: those that there is no room for are refused, the rest and the admin port are served.
#[tokio::test]
async fn the_admin_port_and_health_answer_at_the_limit() {
    raise_descriptor_limit().unwrap();
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start_limited(BINARY, &plane, "cp-a", (256, 256), |_| {})
        .await
        .unwrap();
    let tls = plane
        .pki()
        .client_config(admin(&plane), &[])
        .unwrap()
        .into();
    let good = Client::http2(agent.address, &tls).await.unwrap();
    assert_eq!(good.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    let mut held = Vec::new();
    for _ in 0..300 {
        // Each with a request, so that none of them makes room.
        let client = Raw::http1(agent.address, &tls);
        if let Ok(Ok(mut client)) = timeout(Duration::from_secs(5), client).await {
            let request = format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: k\r\n\r\n");
            if client.send(request).await.is_ok() && client.answer(false).await.is_ok() {
                held.push(client);
            }
        }
        if held.len() % 50 == 0 {
            assert_eq!(agent.admin_get("/readyz").await.unwrap().0, 200);
        }
    }
    assert!(held.len() < 256, "{} clients", held.len());
    assert!(!held.is_empty());
    assert!(
        agent
            .metric("mvp_refused_total{limit=\"connections\"}")
            .await
            .unwrap()
            > 0.0
    );
    assert_eq!(agent.admin_get("/readyz").await.unwrap().0, 200);
    assert_eq!(agent.admin_get("/livez").await.unwrap().0, 200);
    assert_eq!(good.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    let log = agent.log();
    assert!(!log.contains("accept failed"), "{log}");
}

/// Without a single descriptor the accept loop waits and does not spin; with some again all is as before.
#[tokio::test]
async fn without_descriptors_the_agent_waits_and_recovers() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start(BINARY, &plane, "cp-a", |_| {})
        .await
        .unwrap();
    let tls = plane
        .pki()
        .client_config(admin(&plane), &[])
        .unwrap()
        .into();
    let good = Client::http2(agent.address, &tls).await.unwrap();
    assert_eq!(good.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    let before = agent.descriptor_limit().unwrap();
    agent.use_up_descriptors().unwrap();
    let mut held = Vec::new();
    while !agent.log().contains("accept failed") {
        assert!(held.len() < 200, "descriptors are never used up");
        // The last one is closed.
        let client = timeout(SOON, Client::http2(agent.address, &tls)).await;
        held.extend(client.expect("left in the queue").ok());
    }
    // A connection that cannot be accepted is closed, so that its client tries again, and does not wait in the queue.
    for _ in 0..5 {
        let refused = Client::http2(agent.address, &tls);
        let refused = timeout(SOON, refused).await.expect("left in the queue");
        assert!(refused.is_err());
    }
    assert_eq!(good.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    let warnings = agent.log().matches("accept failed").count();
    assert!((1..=2).contains(&warnings), "{}", agent.log());
    drop(held);
    agent.limit_descriptors(before.0).unwrap();
    eventually("new clients are served again", SOON, || async {
        let client = Client::http2(agent.address, &tls).await?;
        Ok(client.get(CONFIG_MAPS, &[]).await?.status == 200)
    })
    .await
    .unwrap();
}

/// What a configuration asks for and the system does not allow is not promised.
#[tokio::test]
async fn more_connections_than_descriptors_are_not_promised() {
    let plane = plane(&[36]).await;
    let agent = ChildAgent::start_limited(BINARY, &plane, "cp-a", (256, 1024), |config| {
        config["limits"]["connections"] = 20_000.into();
    })
    .await
    .unwrap();
    let log = agent.log();
    let told = log.lines().find(|line| line.contains("limits.connections"));
    assert!(
        told.is_some_and(|told| told.contains("allowed=384")),
        "{log}"
    );
}
