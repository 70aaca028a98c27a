//! The local server goes down, is not ready, hangs, comes back as another version; what stays local whatever happens.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{
    CONFIG_MAPS, NOWHERE, ONLY_36, SOON, admin, client, config_map, patient, plane, received,
};
use mvp_tests::sim::Recorded;
use mvp_tests::sim::pki::ClientAuth;

const PROBES: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/metrics"];

async fn agent_says(agent: &TestAgent, path: &str, text: &str) {
    eventually(&format!("{path} says {text}"), SOON, || async {
        Ok(agent.admin_get(path).await?.1.contains(text))
    })
    .await
    .unwrap();
}

async fn expect_local_probes(client: &Client, minor: &str) {
    for probe in PROBES {
        let answer = client.get(probe, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{probe}");
        if probe == "/version" {
            assert_eq!(answer.json()["minor"], minor);
        }
    }
}

#[tokio::test]
async fn while_the_local_server_is_down_peers_serve_and_probes_are_honest() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    expect_local_probes(&client, "35").await;
    plane.server(0).kill().await;
    // From the first request on: reads, writes, lists.
    let made = client
        .post_json(CONFIG_MAPS, &[], &config_map("m"))
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let one = format!("{CONFIG_MAPS}/m");
    assert_eq!(client.get(&one, &[]).await.unwrap().status, 200);
    assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    assert_eq!(client.get("/apis", &[]).await.unwrap().status, 200);
    assert_eq!(received(plane.server(1), CONFIG_MAPS), 2);
    for probe in PROBES {
        let answer = client.get(probe, &[]).await.unwrap();
        assert_eq!(answer.status, 503, "{probe}");
        assert_eq!(answer.json()["reason"], "ServiceUnavailable", "{probe}");
        let seen = plane.server(1).requests();
        let ours = |r: &Recorded| {
            r.user
                .as_ref()
                .is_some_and(|u| u.name == "kubernetes-admin")
        };
        assert!(
            !seen.iter().any(|r| r.target == probe && ours(r)),
            "{probe}"
        );
    }
    plane.server(0).start().await.unwrap();
    eventually("the local server is used again", SOON, || async {
        client.get(&one, &[]).await?;
        Ok(received(plane.server(0), &one) > 0)
    })
    .await
    .unwrap();
    expect_local_probes(&client, "35").await;
}

#[tokio::test]
async fn an_agent_that_never_saw_its_local_server_serves_through_peers() {
    let plane = plane(&[35, 36]).await;
    plane.server(0).kill().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    for target in [CONFIG_MAPS, ONLY_36] {
        let answer = client.get(target, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // What the local server would serve is not known: no 404 may be believed.
    assert_eq!(client.get(NOWHERE, &[]).await.unwrap().status, 503);
}

#[tokio::test]
async fn a_local_server_that_is_not_ready_is_skipped() {
    let plane = plane(&[36, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    plane.server(0).not_ready(true);
    agent_says(&agent, "/explain?path=/api/v1/pods", "local_down").await;
    for _ in 0..10 {
        let answer = client.get(CONFIG_MAPS, &[]).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    assert_eq!(received(plane.server(0), CONFIG_MAPS), 0);
    assert_eq!(received(plane.server(1), CONFIG_MAPS), 10);
    // It says so itself.
    let ready = client.get("/readyz", &[]).await.unwrap();
    assert_eq!(ready.status, 500, "{}", ready.text());
    plane.server(0).not_ready(false);
    agent_says(&agent, "/explain?path=/api/v1/pods", "local_serves").await;
    assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    assert_eq!(received(plane.server(0), CONFIG_MAPS), 1);
}

#[tokio::test]
async fn a_server_that_is_still_starting_denies_nothing() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    plane.server(0).starting(true);
    let answer = client.get(NOWHERE, &[]).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_restart_as_another_version_is_learned() {
    let plane = plane(&[35, 35]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let client = client(&plane, &agent).await;
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 404);
    plane.server(1).restart(36).await.unwrap();
    // The first request after the restart already finds it.
    let answer = client.get(ONLY_36, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    agent_says(&agent, "/servers", "v1.36.3").await;
    plane.server(0).restart(36).await.unwrap();
    eventually("the local server serves it itself", SOON, || async {
        let answer = client.get(ONLY_36, &[]).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        Ok(received(plane.server(0), ONLY_36) > 0)
    })
    .await
    .unwrap();
    // And back: a rollback.
    plane.server(0).restart(35).await.unwrap();
    for _ in 0..20 {
        let answer = client.get(ONLY_36, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn with_the_feature_off_everything_is_local() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.interoperability_proxy = false;
    });
    let agent = agent.await.unwrap();
    let client = client(&plane, &agent).await;
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 404);
    assert_eq!(received(plane.server(0), ONLY_36), 1);
    assert_eq!(received(plane.server(1), ONLY_36), 0);
    plane.server(0).kill().await;
    let answer = client.get(CONFIG_MAPS, &[]).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(received(plane.server(1), CONFIG_MAPS), 0);
}

#[tokio::test]
async fn what_a_front_proxy_has_forwarded_is_not_forwarded_again() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let proxy = ClientAuth::Certificate(plane.pki().front_proxy_client().unwrap());
    let proxy = agent.http2(&plane, proxy).await.unwrap();
    let user = [
        ("x-remote-user", "kubernetes-admin"),
        ("x-remote-group", "system:masters"),
    ];
    let marked = [user[0], user[1], ("x-kubernetes-peer-proxied", "true")];
    assert_eq!(proxy.get(ONLY_36, &user).await.unwrap().status, 200);
    assert_eq!(proxy.get(ONLY_36, &marked).await.unwrap().status, 404);
    assert_eq!(received(plane.server(0), ONLY_36), 1);
    // Nor when the local server is gone.
    plane.server(0).kill().await;
    assert_eq!(proxy.get(CONFIG_MAPS, &marked).await.unwrap().status, 503);
    assert_eq!(proxy.get(CONFIG_MAPS, &user).await.unwrap().status, 200);
    // From anybody else the mark means nothing.
    let forger = agent.http2(&plane, admin(&plane)).await.unwrap();
    let forged = [("x-kubernetes-peer-proxied", "true")];
    assert_eq!(forger.get(ONLY_36, &forged).await.unwrap().status, 200);
    assert_eq!(
        agent.metric("mvp_hop_markers_forged_total").await.unwrap(),
        1.0
    );
}

#[tokio::test]
async fn the_admin_port_reaches_the_probes_of_every_server() {
    let plane = plane(&[35, 36]).await;
    // Metrics are not everybody's to read.
    mvp_tests::rbac::apply(&plane).unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    for (name, minor) in [("cp-a", "v1.35"), ("cp-b", "v1.36")] {
        let path = |probe: &str| format!("/mvp/servers/{name}/{probe}");
        assert_eq!(
            agent.operate("GET", &path("readyz")).await.unwrap(),
            (200, "ok".to_owned())
        );
        let (status, version) = agent.operate("GET", &path("version")).await.unwrap();
        assert!(status == 200 && version.contains(minor), "{version}");
        assert_eq!(agent.operate("GET", &path("metrics")).await.unwrap().0, 200);
        assert_eq!(
            agent
                .operate("GET", &path("api/v1/secrets"))
                .await
                .unwrap()
                .0,
            404
        );
    }
    plane.server(1).not_ready(true);
    assert_eq!(
        agent
            .operate("GET", "/mvp/servers/cp-b/readyz")
            .await
            .unwrap()
            .0,
        500
    );
    plane.server(1).kill().await;
    assert_eq!(
        agent
            .operate("GET", "/mvp/servers/cp-b/readyz")
            .await
            .unwrap()
            .0,
        502
    );
    assert_eq!(
        agent
            .operate("GET", "/mvp/servers/cp-z/readyz")
            .await
            .unwrap()
            .0,
        404
    );
}
