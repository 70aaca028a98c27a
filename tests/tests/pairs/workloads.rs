//! Answers that a workload gave, passed on by a server: the agent draws no conclusion from them.

use http::Method;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{
    DEFINITIONS, NOWHERE, SOON, admin, definition, direct, patient, plane, received,
};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::sim::api::authn::User;
use mvp_tests::sim::pki::ClientAuth;
use serde_json::json;

/// Endpoints of workloads that answer as Go's default handler does, and as an API server that has no such type.
const MISSING: [&str; 8] = [
    "/api/v1/namespaces/default/pods/http:p:8080/proxy/missing/page",
    "/api/v1/namespaces/default/pods/http:p:8080/proxy/missing/status",
    "/api/v1/namespaces/default/services/https:s:web/proxy/missing/page",
    "/api/v1/namespaces/default/services/s/proxy/missing/status",
    "/api/v1/nodes/n/proxy/missing/page",
    "/api/v1/nodes/n:10250/proxy/missing/status",
    "/api/v1/namespaces/default/pods/missing/log",
    "/api/v1/namespaces/default/pods/missing/log?follow=true",
];
/// What only POST and upgrades use in real life; a kubelet that does not know the pod answers with its page.
const STREAMS: [&str; 3] = ["exec?command=ls", "attach", "portforward"];

#[tokio::test]
async fn a_workloads_404_is_final_unchanged_and_asked_for_once() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    let admin = admin(&plane);
    let refreshes = "mvp_discovery_refreshes_total{result=\"complete\"}";
    for target in MISSING {
        for method in [Method::GET, Method::HEAD] {
            pairs.same(&Case::new(&admin, method, target), 404, 1).await;
        }
        if target.contains("/proxy/") {
            for method in [Method::POST, Method::PUT, Method::DELETE] {
                let case = Case::new(&admin, method, target).body("text/plain", "one");
                pairs.same(&case, 404, 1).await;
            }
            // More than the agent keeps for a second try.
            let large =
                Case::new(&admin, Method::POST, target).body("text/plain", vec![b'x'; 300_000]);
            pairs.same(&large, 404, 1).await;
        }
    }
    for stream in STREAMS {
        let target = format!("/api/v1/namespaces/default/pods/missing/{stream}");
        pairs
            .same(&Case::new(&admin, Method::POST, &target), 404, 1)
            .await;
    }
    assert_eq!(
        agent.metric(refreshes).await.unwrap(),
        0.0,
        "nobody else was asked"
    );
}

/// Whom a workload does not know, the server does: the client's connection goes on.
#[tokio::test]
async fn a_workloads_401_says_nothing_about_the_client() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let groups = vec!["system:masters".to_owned()];
    let name = "carol".to_owned();
    plane.add_token(
        "t0ken",
        User {
            name,
            groups,
            ..User::default()
        },
    );
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    for target in [
        "/api/v1/namespaces/default/pods/p/proxy/status/401",
        "/api/v1/namespaces/default/services/s/proxy/status/401",
        "/api/v1/nodes/n/proxy/status/401",
    ] {
        let token = Case::get(&ClientAuth::None, target).header("authorization", "Bearer t0ken");
        for case in [Case::get(&admin(&plane), target), token] {
            for protocol in Protocol::BOTH {
                let (straight, through) = pairs.run(&case, protocol).await.unwrap();
                assert_eq!((straight.status, straight.goes_on), (401, true), "{case}");
                assert_eq!(through, straight, "{case} over {protocol:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_workloads_404_waits_for_no_other_server() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    // Were it asked for anything, there would be no answer, or a 503.
    plane.server(1).hang(true);
    let admin = admin(&plane);
    for target in MISSING {
        pairs.same(&Case::get(&admin, target), 404, 1).await;
    }
    plane.server(1).hang(false);
}

/// A type that the asked server lists and confirmed just now: its 404 is about the object, in whatever words.
#[tokio::test]
async fn a_404_for_a_type_that_the_server_lists_is_final() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let admin = admin(&plane);
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    for target in [
        "/api/v1/namespaces/default/configmaps/none",
        "/api/v1/namespaces/none/configmaps/none",
        "/apis/apps/v1/namespaces/default/deployments/none/scale",
        // Only a namespaced object has this path; the resource itself is listed.
        "/apis/apps/v1/deployments/none",
    ] {
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            let case = Case::new(&admin, method, target);
            let (straight, _) = pairs.run(&case, Protocol::Http2).await.unwrap();
            pairs.same(&case, straight.status, 1).await;
        }
    }
    let create = Case::new(&admin, Method::POST, "/apis/apps/v1/deployments").body(
        "application/json",
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}})
            .to_string(),
    );
    let (straight, _) = pairs.run(&create, Protocol::Http1).await.unwrap();
    pairs.same(&create, straight.status, 1).await;
    let refreshes = "mvp_discovery_refreshes_total{result=\"complete\"}";
    assert_eq!(agent.metric(refreshes).await.unwrap(), 0.0);
}

#[tokio::test]
async fn a_type_that_nobody_serves_costs_one_refresh() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        mvp_tests::fixtures::unpolled(config);
    })
    .await
    .unwrap();
    let client = mvp_tests::fixtures::client(&plane, &agent).await;
    let refreshes = "mvp_discovery_refreshes_total{result=\"complete\"}";
    let asked = |index: usize| received(plane.server(index), "/apis");
    assert_eq!(client.get(NOWHERE, &[]).await.unwrap().status, 404);
    let (begun, before) = (agent.metric(refreshes).await.unwrap(), [asked(0), asked(1)]);
    for _ in 0..20 {
        assert_eq!(client.get(NOWHERE, &[]).await.unwrap().status, 404);
    }
    assert_eq!(agent.metric(refreshes).await.unwrap(), begun);
    assert_eq!([asked(0), asked(1)], before, "nobody was asked again");
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    let admin = admin(&plane);
    for method in [Method::GET, Method::POST, Method::DELETE] {
        pairs
            .same(&Case::new(&admin, method, NOWHERE), 404, 1)
            .await;
    }
    assert_eq!(agent.metric(refreshes).await.unwrap(), begun, "remembered");
    // The definition makes an event, and the event ends what is remembered.
    let cp_b = direct(&plane, plane.server(1)).await;
    let crd = definition("nowhere.example.com", "widgets", "Widget", json!({}));
    let made = cp_b.post_json(DEFINITIONS, &[], &crd).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    eventually("the new type is served", SOON, || async {
        Ok(client.get(NOWHERE, &[]).await?.status == 200)
    })
    .await
    .unwrap();
}
