//! Options of a query that only a newer server knows: a read that the old one refuses for them is answered by the newer one.

use http::Method;
use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, admin, patient, plane, spec};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::sim::ControlPlane;
use serde_json::Value;

const PODS: &str = "/api/v1/namespaces/default/pods";
/// What kube-rs and client-go ask with; the watch ends by itself.
const STREAMING: &str = "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
const ASKED_AGAIN: &str = "mvp_retries_total{reason=\"query\"}";

/// `cp-a` judges queries as this old release, `cp-b` is new.
async fn scene(old: u8) -> (ControlPlane, TestAgent) {
    let plane = ControlPlane::builder()
        .servers([spec(b'a', 31).reads_queries_as(old), spec(b'b', 36)])
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    (plane, agent)
}

/// Runs the case straight to server `like`, and through the agent, which must ask so many.
async fn same_as(
    scene: &(ControlPlane, TestAgent),
    like: usize,
    case: &Case,
    status: u16,
    asked: usize,
) {
    let pairs = Pairs {
        plane: &scene.0,
        server: scene.0.server(like),
        agent: &scene.1,
    };
    for protocol in Protocol::BOTH {
        let (straight, through) = pairs.run(case, protocol).await.unwrap();
        assert_eq!(straight.status, status, "{case} over {protocol:?}");
        assert_eq!(through.received.len(), asked, "{case} over {protocol:?}");
        for received in &through.received {
            let sent = &straight.received[0];
            assert_eq!(
                (&received.target, &received.user),
                (&sent.target, &sent.user)
            );
        }
        let seen = |outcome: mvp_tests::pair::Outcome| {
            (
                outcome.status,
                outcome.headers,
                outcome.body,
                outcome.goes_on,
            )
        };
        assert_eq!(seen(through), seen(straight), "{case} over {protocol:?}");
    }
}

#[tokio::test]
async fn a_newer_server_answers_what_the_old_one_does_not_know() {
    for old in [26, 31] {
        let scene = scene(old).await;
        let admin = admin(&scene.0);
        let streaming = format!("{CONFIG_MAPS}?{STREAMING}");
        let protobuf = "application/vnd.kubernetes.protobuf;stream=watch,application/json";
        for case in [
            Case::get(&admin, &streaming),
            Case::get(&admin, &streaming).header("accept", protobuf),
            Case::get(
                &admin,
                &format!("/api/v1/watch/namespaces/default/configmaps?{STREAMING}"),
            ),
        ] {
            same_as(&scene, 1, &case, 200, 2).await;
        }
        let again = scene.1.metric(ASKED_AGAIN).await.unwrap();
        let requests =
            "mvp_requests_total{decision=\"query_on_peer\",server=\"cp-b\",code=\"200\"}";
        assert!(again >= 6.0, "{again}");
        assert_eq!(scene.1.metric(requests).await.unwrap(), again);
    }
    let scene = scene(26).await;
    let admin = admin(&scene.0);
    let selected = format!("{PODS}?fieldSelector=spec.nodeName%3Dn,spec.hostNetwork%3Dtrue");
    for case in [
        Case::get(&admin, &selected),
        Case::get(&admin, &selected).header(
            "accept",
            "application/vnd.kubernetes.protobuf,application/json",
        ),
        Case::get(
            &admin,
            &format!("{selected}&watch=1&timeoutSeconds=1&resourceVersion=0"),
        ),
    ] {
        same_as(&scene, 1, &case, 200, 2).await;
    }
    let (status, explained) = scene
        .1
        .admin_get(&format!(
            "/explain?method=GET&path={}",
            selected.replace('%', "%25").replace('?', "%3F")
        ))
        .await
        .unwrap();
    assert_eq!(status, 200, "{explained}");
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained["server"], "cp-a");
    let line = explained["line"].as_str().unwrap();
    assert!(
        line.contains("cp-b, which is newer, if cp-a refuses"),
        "{line}"
    );
}

#[tokio::test]
async fn what_no_server_knows_and_what_is_no_read_stays_the_first_servers() {
    let scene = scene(26).await;
    let admin = admin(&scene.0);
    let nobody = format!("{PODS}?fieldSelector=spec.nowhere%3Dx");
    // Both were asked, and neither knows it.
    same_as(&scene, 0, &Case::get(&admin, &nobody), 400, 2).await;
    let collection = format!("{PODS}?fieldSelector=spec.hostNetwork%3Dtrue");
    for case in [
        Case::new(&admin, Method::DELETE, &collection),
        Case::new(&admin, Method::HEAD, &collection),
    ] {
        same_as(&scene, 0, &case, 400, 1).await;
    }
    // Refused for other reasons, with such an option and without.
    for (query, status) in [
        ("labelSelector=app%20in%20web", 400),
        (
            "fieldSelector=metadata.name%3Dx&labelSelector=app%20in%20web",
            400,
        ),
    ] {
        let case = Case::get(&admin, &format!("{PODS}?{query}"));
        same_as(&scene, 0, &case, status, 1).await;
    }
}

#[tokio::test]
async fn nobody_else_is_asked_if_none_is_newer_or_can_be_used() {
    let plane = plane(&[31, 31]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let same_age = (plane, agent);
    let auth = admin(&same_age.0);
    let streaming = format!("{CONFIG_MAPS}?{STREAMING}");
    same_as(&same_age, 0, &Case::get(&auth, &streaming), 422, 1).await;

    let scene = scene(31).await;
    let auth = admin(&scene.0);
    scene.0.server(1).kill().await;
    mvp_tests::agent::eventually("it is missed", mvp_tests::fixtures::SOON, || async {
        Ok(scene
            .1
            .metric("mvp_server_available{server=\"cp-b\"}")
            .await?
            == 0.0)
    })
    .await
    .unwrap();
    same_as(&scene, 0, &Case::get(&auth, &streaming), 422, 1).await;
    assert_eq!(scene.1.metric(ASKED_AGAIN).await.unwrap(), 0.0);
}
