//! A write is sent a second time only if the first server cannot have acted on it.

use http::Method;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{CONFIG_MAPS, SOON, admin, available, config_map, patient, spec};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::sim::ControlPlane;

async fn scene(http1_only: bool) -> (ControlPlane, TestAgent) {
    let specs = [spec(b'a', 35), spec(b'b', 36)];
    let specs = specs.map(|spec| if http1_only { spec.http1_only() } else { spec });
    let plane = ControlPlane::builder()
        .servers(specs)
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        patient(config);
        // A busy machine is no server that hangs.
        config.discovery.timeout = SOON;
    })
    .await
    .unwrap();
    (plane, agent)
}

fn pairs<'a>(plane: &'a ControlPlane, agent: &'a TestAgent) -> Pairs<'a> {
    Pairs {
        plane,
        server: plane.server(0),
        agent,
    }
}

fn create(plane: &ControlPlane, name: &str) -> Case {
    Case::new(&admin(plane), Method::POST, CONFIG_MAPS)
        .body("application/json", config_map(name).to_string())
}

#[tokio::test]
async fn what_was_refused_unread_is_sent_again() {
    let (plane, agent) = scene(false).await;
    let pairs = pairs(&plane, &agent);
    for protocol in Protocol::BOTH {
        plane.server(0).faults_only_on(CONFIG_MAPS);
        plane.server(0).refuse_streams(1);
        let case = create(&plane, &format!("{protocol:?}").to_lowercase());
        let made = pairs.through(&case, protocol).await.unwrap();
        assert_eq!(made.status, 201, "{protocol:?}: {}", made.body);
        assert_eq!(made.received.len(), 2, "{protocol:?}");
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not() {
    for http1_only in [false, true] {
        let (plane, agent) = scene(http1_only).await;
        let pairs = pairs(&plane, &agent);
        for protocol in Protocol::BOTH {
            let patch = ("application/merge-patch+json", "{}");
            let one = format!("{CONFIG_MAPS}/one");
            let auth = admin(&plane);
            for case in [
                create(&plane, "m"),
                Case::new(&auth, Method::PUT, &one)
                    .body("application/json", config_map("one").to_string()),
                Case::new(&auth, Method::PATCH, &one).body(patch.0, patch.1),
                Case::new(&auth, Method::DELETE, &one),
                Case::new(&auth, Method::DELETE, CONFIG_MAPS),
            ] {
                available(&agent, "cp-a").await;
                plane.server(0).faults_only_on(CONFIG_MAPS);
                plane.server(0).reset_next(1);
                let told = pairs.through(&case, protocol).await.unwrap();
                plane.server(0).reset_next(0);
                assert_eq!(told.status, 502, "{case} over {protocol:?}: {}", told.body);
                assert_eq!(told.received.len(), 1, "{case} over {protocol:?}");
                assert!(!told.headers.contains_key("retry-after"), "{case}");
                assert!(told.goes_on, "{case} over {protocol:?}");
            }
            // A read is made again, and nobody notices.
            available(&agent, "cp-a").await;
            plane.server(0).reset_next(1);
            let read = Case::get(&auth, CONFIG_MAPS);
            let read = pairs.through(&read, protocol).await.unwrap();
            assert_eq!((read.status, read.received.len()), (200, 2), "{protocol:?}");
            plane.server(0).reset_next(0);
        }
    }
}

/// Nothing of it left: another server gets it, whole.
#[tokio::test]
async fn what_could_not_be_sent_goes_to_another_server() {
    for protocol in Protocol::BOTH {
        let (plane, agent) = scene(false).await;
        let pairs = pairs(&plane, &agent);
        plane.server(0).kill().await;
        let made = pairs.through(&create(&plane, "m"), protocol).await.unwrap();
        assert_eq!(made.status, 201, "{protocol:?}: {}", made.body);
        assert_eq!(made.received.len(), 1, "{protocol:?}");
        plane.server(0).start().await.unwrap();
        eventually("the first server has it too", SOON, || async {
            let one = format!("{CONFIG_MAPS}/m");
            let read = pairs
                .through(&Case::get(&admin(&plane), &one), protocol)
                .await?;
            Ok(read.status == 200)
        })
        .await
        .unwrap();
    }
}
