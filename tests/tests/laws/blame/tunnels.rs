//! Upgraded connections take a connection to a server each: a quota for every client.

use std::time::Duration;

use mvp_tests::agent::eventually;
use mvp_tests::tunnel::{RawConnection, WEBSOCKET};

use super::{admin, calm_agent, nobody_is_blamed, twins};
use mvp_tests::sim::pki::{ClientAuth, Request};

const SOON: Duration = Duration::from_secs(30);
const EXEC: &str = "/api/v1/namespaces/default/services/y/proxy/exec";

#[tokio::test]
async fn a_client_has_so_many_tunnels_and_leaves_the_others_theirs() {
    let plane = twins(|spec| spec).await;
    let agent = calm_agent(&plane, |config| {
        config.limits.tunnels_per_client = 3;
    })
    .await;
    let open = |auth: ClientAuth| {
        let (plane, agent) = (&plane, &agent);
        async move {
            let mut raw = RawConnection::open(agent.address, plane, auth)
                .await
                .unwrap();
            let (status, _) = raw.exchange("GET", EXEC, WEBSOCKET).await.unwrap();
            (raw, status.as_u16())
        }
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        let (raw, status) = open(admin(&plane)).await;
        assert_eq!(status, 101);
        held.push(raw);
    }
    for _ in 0..5 {
        assert_eq!(open(admin(&plane)).await.1, 429);
    }
    let sample = "mvp_refused_total{limit=\"tunnels_per_client\"}";
    assert_eq!(agent.metric(sample).await.unwrap(), 5.0);
    // Requests that need no tunnel are not concerned, nor is another user.
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get(super::MAPS, &[]).await.unwrap().status, 200);
    let other = Request::new("other", &["system:masters"]);
    let other = ClientAuth::Certificate(plane.pki().issue(&other).unwrap());
    let (_kept, status) = open(other).await;
    assert_eq!(status, 101);
    held.pop();
    eventually("the place is given back", SOON, || async {
        Ok(open(admin(&plane)).await.1 == 101)
    })
    .await
    .unwrap();
    for raw in &mut held {
        raw.echo(b"still here").await.unwrap();
    }
    nobody_is_blamed(&plane, &agent).await;
}
