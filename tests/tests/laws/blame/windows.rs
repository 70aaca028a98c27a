//! Uploads that nobody reads leave room for the others.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use mvp_tests::agent::eventually;
use mvp_tests::client::{Client, full};
use mvp_tests::sim::ServerSpec;
use serde_json::json;

use super::{MAPS, admin, calm_agent, nobody_is_blamed, twins};

const SOON: Duration = Duration::from_secs(30);
const STALLED: &str = "/api/v1/namespaces/default/services/y/proxy/stalled";
const UPLOADS: usize = 30;

async fn stall(change: impl Fn(ServerSpec) -> ServerSpec) {
    let plane = twins(change).await;
    let agent = calm_agent(&plane, |_| {}).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let uploads = (0..UPLOADS).map(|_| {
        let body = full(vec![b'x'; 600 << 10]);
        client.call(Method::POST, STALLED, &[], body)
    });
    let others = others(&client, &plane);
    tokio::select! {
        ended = join_all(uploads) => panic!("a backend answered that never does: {ended:?}"),
        () = others => {}
    }
    nobody_is_blamed(&plane, &agent).await;
}

async fn others(client: &Client, plane: &mvp_tests::sim::ControlPlane) {
    eventually("the uploads are under way", SOON, || async {
        Ok(plane.server(0).streams() >= UPLOADS)
    })
    .await
    .unwrap();
    for n in 0..50 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{n}")}});
        let post = client.post_json(MAPS, &[], &map);
        let made = tokio::time::timeout(SOON, post)
            .await
            .expect("served beside the uploads");
        let made = made.unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
    }
}

#[tokio::test]
async fn stalled_uploads_do_not_stop_their_neighbours() {
    stall(|spec| spec).await;
}

/// A server whose connections hold fewer windows than it allows streams, as Go's default is.
#[tokio::test]
async fn nor_towards_a_server_with_a_small_connection_window() {
    stall(|spec| spec.connection_window(1 << 20)).await;
}
