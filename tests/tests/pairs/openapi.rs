//! `/openapi/v3`: `kubectl explain` asks for the index and then for the document of one group version by its hash, other clients
//! ask for the document alone. Whoever describes most of it answers, from an agent's first request on.

use std::time::Duration;

use http::Method;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{SOON, admin, patient, plane, spec};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::sim::ControlPlane;
use serde_json::Value;

const INDEX: &str = "/openapi/v3";
/// 1.36 serves more of it than 1.33.
const LARGER: &str = "apis/admissionregistration.k8s.io/v1";
/// 1.33 serves nothing of it.
const ONLY_NEWER: &str = "apis/resource.k8s.io/v1";
/// Every server serves the same of it, and the newest describes it.
const SAME: &str = "apis/apps/v1";

fn document(path: &str) -> String {
    format!("{INDEX}/{path}")
}

fn url(index: &str, path: &str) -> String {
    let index: Value = serde_json::from_str(index).unwrap();
    let url = &index["paths"][path]["serverRelativeURL"];
    url.as_str()
        .unwrap_or_else(|| panic!("no {path}: {index}"))
        .to_owned()
}

async fn agent(plane: &ControlPlane) -> TestAgent {
    TestAgent::start_with(plane, "cp-a", |config| {
        patient(config);
        // The simulated servers make their documents when they are asked for; a busy machine is no server that hangs.
        config.discovery.timeout = SOON;
    })
    .await
    .unwrap()
}

fn newer<'a>(plane: &'a ControlPlane, agent: &'a TestAgent) -> Pairs<'a> {
    Pairs {
        plane,
        server: plane.server(1),
        agent,
    }
}

#[tokio::test]
async fn the_first_request_gets_what_the_capable_server_says() {
    // A peer whose index takes its time: the agent cannot have it before the first client asks.
    let plane = plane(&[33, 36]).await;
    plane.server(1).slow(Duration::from_millis(400));
    plane.server(1).faults_only_on(INDEX);
    let admin = admin(&plane);
    for protocol in Protocol::BOTH {
        for path in [LARGER, ONLY_NEWER, SAME, "apis/resource.k8s.io", "apis"] {
            let agent = agent(&plane).await;
            let case = Case::get(&admin, &document(path)).header("accept", "application/json");
            let (straight, through) = newer(&plane, &agent).run(&case, protocol).await.unwrap();
            assert_eq!(straight.status, 200, "{case}");
            assert_eq!(through, straight, "{case} over {protocol:?}");
        }
        let agent = agent(&plane).await;
        let case = Case::get(&admin, INDEX);
        let (straight, through) = newer(&plane, &agent).run(&case, protocol).await.unwrap();
        for path in [LARGER, ONLY_NEWER, SAME] {
            assert_eq!(
                url(&through.body, path),
                url(&straight.body, path),
                "{protocol:?}"
            );
        }
        assert_eq!(through.received.len(), 1, "over {protocol:?}");
    }
}

#[tokio::test]
async fn whatever_is_asked_of_a_document_its_server_answers() {
    let servers = [spec(b'a', 35), spec(b'b', 36)].map(|spec| spec.all_gates());
    let plane = ControlPlane::builder()
        .servers(servers)
        .start()
        .await
        .unwrap();
    let agent = agent(&plane).await;
    let admin = admin(&plane);
    for (server, path, newest) in [
        (1, LARGER, true),
        (1, "apis/scheduling.k8s.io/v1alpha2", true),
        (1, "api/v1", true),
        // No server but the local one serves it.
        (0, "apis/scheduling.k8s.io/v1alpha1", false),
    ] {
        let pairs = Pairs {
            plane: &plane,
            server: plane.server(server),
            agent: &agent,
        };
        let target = document(path);
        let get = |target: &str| Case::get(&admin, target).header("accept", "application/json");
        pairs.same(&get(&target), 200, 1).await;
        let first = pairs.run(&get(&target), Protocol::Http2).await.unwrap().0;
        let etag = first.headers["etag"][0].clone();
        let hash = etag.trim_matches('"');
        for (case, status) in [
            (get(&format!("{target}?hash={hash}")), 200),
            (get(&format!("{target}?hash=")), 200),
            (get(&format!("{target}?hash=0&timeout=32s")), 301),
            (get(&format!("{target}?timeout=32s&hash={hash}")), 200),
            (get(&target).header("if-none-match", &etag), 304),
            (get(&target).header("accept-encoding", "gzip"), 200),
            (
                Case::get(&admin, &target).header("accept", "application/yaml"),
                406,
            ),
            (
                Case::new(&admin, Method::HEAD, &target).header("accept", "application/json"),
                200,
            ),
        ] {
            // Expires is a year from now, to the second.
            for protocol in Protocol::BOTH {
                let (mut straight, mut through) = pairs.run(&case, protocol).await.unwrap();
                for outcome in [&mut straight, &mut through] {
                    outcome.headers.remove("expires");
                    // A HEAD is asked for as a GET.
                    outcome
                        .received
                        .iter_mut()
                        .for_each(|r| r.method = Method::GET);
                }
                assert_eq!(straight.status, status, "{case} over {protocol:?}");
                assert_eq!(through, straight, "{case} over {protocol:?}");
            }
        }
        let explain = format!("/explain?method=GET&path={target}");
        let explained = agent.admin_get(&explain).await.unwrap().1;
        let explained: Value = serde_json::from_str(&explained).unwrap();
        assert_eq!(
            explained["server"],
            plane.server(server).name(),
            "{explained}"
        );
        let decision = if newest {
            "openapi_on_peer"
        } else {
            "non_resource"
        };
        let decided = explained["decision"].as_str().unwrap();
        assert!(
            [decision, "discovery_on_peer"].contains(&decided),
            "{explained}"
        );
    }
}

#[tokio::test]
async fn while_the_newest_server_is_down_the_next_one_describes() {
    let plane = plane(&[33, 35, 36]).await;
    let agent = agent(&plane).await;
    let admin = admin(&plane);
    let pairs = |server: usize| Pairs {
        plane: &plane,
        server: plane.server(server),
        agent: &agent,
    };
    let get = |path: &str| Case::get(&admin, &document(path)).header("accept", "application/json");
    pairs(2).same(&get(ONLY_NEWER), 200, 1).await;
    let index = Case::get(&admin, INDEX);
    let index = pairs(2)
        .through(&index, Protocol::Http1)
        .await
        .unwrap()
        .body;
    plane.server(2).kill().await;
    eventually("it is missed", SOON, || async {
        let available = agent
            .metric("mvp_server_available{server=\"cp-c\"}")
            .await?;
        Ok(available == 0.0)
    })
    .await
    .unwrap();
    for path in [ONLY_NEWER, SAME, LARGER] {
        pairs(1).same(&get(path), 200, 1).await;
        // What the index named before leads to what there is.
        let named = Case::get(&admin, &url(&index, path)).header("accept", "application/json");
        pairs(1).same(&named, 301, 1).await;
    }
    plane.server(1).kill().await;
    for protocol in Protocol::BOTH {
        let case = get(ONLY_NEWER);
        eventually("nobody is left", SOON, || async {
            let through = pairs(0).through(&case, protocol).await?;
            Ok(through.status == 503 && through.headers.contains_key("retry-after"))
        })
        .await
        .unwrap();
    }
    pairs(0).same(&get(SAME), 200, 1).await;
}
