//! The only server of a type restarts: discovery goes on as before, and requests for the type are asked to come again.

use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Answer;
use mvp_tests::facts::{V2, assert_well_formed};
use mvp_tests::fixtures::{ONLY_36, SOON, client, plane};

#[tokio::test]
async fn a_restart_is_no_discovery_error() {
    let plane = plane(&[33, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    let document = || async {
        let answer = client.get("/apis", &[("accept", V2)]).await.unwrap();
        assert_eq!(answer.status, 200);
        answer
    };
    let before = document().await;
    // A group version that only cp-b has.
    let only = |answer: &Answer| {
        let groups = answer.json();
        let groups = groups["items"].as_array().unwrap();
        let group = groups
            .iter()
            .find(|g| g["metadata"]["name"] == "resource.k8s.io")
            .unwrap()
            .clone();
        let versions = group["versions"].as_array().unwrap();
        let v1 = versions.iter().find(|v| v["version"] == "v1");
        v1.map(|v1| (v1["freshness"].clone(), v1["resources"].clone()))
    };
    let listed = only(&before).unwrap();
    assert_eq!(listed.0, "Current");
    plane.server(1).kill().await;
    eventually("the server is missed", SOON, || async {
        let answer = client.get(ONLY_36, &[]).await?;
        Ok(answer.status == 503 && answer.headers.contains_key("retry-after"))
    })
    .await
    .unwrap();
    eventually("its poller knows as well", SOON, || async {
        let servers = agent.admin_get("/servers").await?.1;
        Ok(servers.contains("\"down\"") || servers.contains("\"stale\""))
    })
    .await
    .unwrap();
    let during = document().await;
    assert_eq!(only(&during), Some(listed));
    assert_well_formed(&during.json());
    plane.server(1).start().await.unwrap();
    eventually("it serves again", SOON, || async {
        Ok(client.get(ONLY_36, &[]).await?.status == 200)
    })
    .await
    .unwrap();
}
