//! Law 1: what was proved is proved again whenever it may no longer be true. (In its time as well: `discovery::proving`.)

use std::path::Path;

use mvp::identity::proof::REVIEWS;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{NEVER, SOON, plane, received};
use mvp_tests::sim::ControlPlane;

/// An agent that asks nothing again by the clock, with a copy of the CA file that a test may replace.
async fn agent(plane: &ControlPlane, ca: &Path) -> TestAgent {
    std::fs::copy(plane.pki().path("ca.crt"), ca).unwrap();
    TestAgent::start_with(plane, "cp-a", |config| {
        config.discovery.interval = NEVER;
        config.discovery.idle_interval = NEVER;
        config.discovery.stale_after = NEVER;
        config.upstream.ca_file = ca.to_owned();
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_restarted_server_is_proved_before_anything_is_asked_of_it() {
    let plane = plane(&[35, 36]).await;
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(&plane, &dir.path().join("ca.crt")).await;
    let peer = plane.server(1);
    eventually("the peer is proved", SOON, || async {
        let sample = "mvp_server_proved{server=\"cp-b\",class=\"asserted\"}";
        Ok(agent.metric(sample).await? == 1.0 && received(peer, "/apis") > 0)
    })
    .await
    .unwrap();
    peer.stop().await.unwrap();
    peer.clear_requests();
    peer.start().await.unwrap();
    eventually("it is proved and asked anew", SOON, || async {
        Ok(received(peer, REVIEWS) >= 2 && received(peer, "/apis") > 0)
    })
    .await
    .unwrap();
    let requests = peer.requests();
    let first = |wanted: &dyn Fn(&str) -> bool| requests.iter().position(|r| wanted(&r.target));
    let review = first(&|target| target == REVIEWS).expect("a proof");
    let asked = first(&|target| target == "/apis" || target == "/api").expect("it is asked");
    assert!(review < asked, "{requests:?}");
}

#[tokio::test]
async fn servers_are_proved_again_with_a_changed_ca() {
    let plane = plane(&[35, 36]).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.crt");
    let agent = agent(&plane, &ca).await;
    let proofs = || {
        let servers = plane.servers().iter();
        servers
            .map(|server| received(server, REVIEWS))
            .collect::<Vec<_>>()
    };
    eventually("both are proved", SOON, || async {
        Ok(proofs().iter().all(|proofs| *proofs >= 2))
    })
    .await
    .unwrap();
    let before = proofs();
    // Another CA beside the one that counts.
    let other = tempfile::tempdir().unwrap();
    let other = mvp_tests::sim::pki::Pki::generate(other.path()).unwrap();
    let both = plane.pki().read("ca.crt").unwrap() + &other.read("ca.crt").unwrap();
    let new = dir.path().join("new");
    std::fs::write(&new, both).unwrap();
    std::fs::rename(&new, &ca).unwrap();
    eventually("both are proved again", SOON, || async {
        let now = proofs();
        Ok(now
            .iter()
            .zip(&before)
            .all(|(now, before)| *now >= before + 2))
    })
    .await
    .unwrap();
    // With one that cannot be verified by what the file says now, nobody is asserted to it, over connections that are open either.
    std::fs::write(&new, other.read("ca.crt").unwrap()).unwrap();
    std::fs::rename(&new, &ca).unwrap();
    eventually("neither is proved", SOON, || async {
        let mut sum = 0.0;
        for server in ["cp-a", "cp-b"] {
            let sample = format!("mvp_server_proved{{server=\"{server}\",class=\"asserted\"}}");
            sum += agent.metric(&sample).await?;
        }
        Ok(sum == 0.0)
    })
    .await
    .unwrap();
}
