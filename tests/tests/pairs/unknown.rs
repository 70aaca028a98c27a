//! Types that nobody serves: a true 404 that costs little, until something is heard that could make it a false one.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use http::Method;
use mvp::config::{Endpoint, KubernetesPeers};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{NOWHERE, ONLY_36, SOON, admin, direct, plane, received, spec, unpolled};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::ports::free_on;
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::pki::KubeconfigUser;

const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const REFRESHES: &str = "mvp_discovery_refreshes_total{result=\"complete\"}";

/// Asks as often as a client that does not believe it would, and sees what it costs.
async fn remembered(pairs: &Pairs<'_>, protocol: Protocol, target: &str) {
    let asked = || {
        let servers = pairs.plane.servers().iter();
        servers
            .map(|server| received(server, "/apis"))
            .sum::<usize>()
    };
    let auth = admin(pairs.plane);
    let first = pairs
        .through(&Case::get(&auth, target), protocol)
        .await
        .unwrap();
    assert_eq!(first.status, 404, "{protocol:?}: {}", first.body);
    let before = (pairs.agent.metric(REFRESHES).await.unwrap(), asked());
    for method in [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
    ] {
        for _ in 0..3 {
            let case = Case::new(&auth, method.clone(), target);
            let (straight, through) = pairs.run(&case, protocol).await.unwrap();
            assert_eq!(straight.status, 404, "{case} over {protocol:?}");
            assert_eq!(through, straight, "{case} over {protocol:?}");
            assert_eq!(through.received.len(), 1, "{case} over {protocol:?}");
        }
    }
    let after = (pairs.agent.metric(REFRESHES).await.unwrap(), asked());
    assert_eq!(after, before, "nobody was asked again, over {protocol:?}");
}

#[tokio::test]
async fn all_who_ask_share_one_refresh() {
    for protocol in Protocol::BOTH {
        let plane = plane(&[35, 36]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", unpolled)
            .await
            .unwrap();
        let pairs = Pairs {
            plane: &plane,
            server: plane.server(0),
            agent: &agent,
        };
        let asked = |index: usize| received(plane.server(index), "/apis");
        let before = [asked(0), asked(1)];
        let case = Case::get(&admin(&plane), NOWHERE);
        // Each on a connection of its own.
        let crowd = (0..20).map(|_| pairs.through(&case, protocol));
        for told in futures_util::future::join_all(crowd).await {
            let told = told.unwrap();
            assert_eq!((told.status, told.received.len()), (404, 1), "{protocol:?}");
        }
        for (index, before) in before.into_iter().enumerate() {
            // The one under way for who came first, and the one that begins next for who came meanwhile.
            let cost = asked(index) - before;
            assert!(
                (1..=3).contains(&cost),
                "{cost} of server {index}, {protocol:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_restarted_server_is_asked_again() {
    for protocol in Protocol::BOTH {
        let plane = plane(&[35, 35]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", unpolled)
            .await
            .unwrap();
        let pairs = Pairs {
            plane: &plane,
            server: plane.server(0),
            agent: &agent,
        };
        remembered(&pairs, protocol, ONLY_36).await;
        plane.server(1).restart(36).await.unwrap();
        let case = Case::get(&admin(&plane), ONLY_36);
        // From the first request on it is known that somebody serves it.
        eventually("the server is ready", SOON, || async {
            let found = pairs.through(&case, protocol).await?;
            assert!([200, 503].contains(&found.status), "{}", found.body);
            Ok(found.status == 200)
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_new_member_is_asked_too() {
    for protocol in Protocol::BOTH {
        // On addresses of their own with one port, as on real nodes.
        let hosts = [1, 2].map(|host| IpAddr::from([127, 0, 0, host]));
        let port = free_on(&hosts).unwrap();
        let specs = (b'a'..).zip(hosts).zip([35, 36]);
        let specs = specs
            .map(|((letter, host), minor)| spec(letter, minor).listen(SocketAddr::new(host, port)));
        let plane = ControlPlane::builder().nodes().servers(specs);
        let plane = plane.start().await.unwrap();
        plane.server(1).stop().await.unwrap();
        eventually("it is no member", SOON, || async {
            let slice = direct(&plane, plane.server(0))
                .await
                .get(SLICE, &[])
                .await?;
            Ok(slice.status == 200 && !slice.text().contains("127.0.0.2"))
        })
        .await
        .unwrap();
        let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
        let url = plane.server(0).url();
        let kubeconfig = plane.kubeconfig("cp-a.conf", &url, &user).unwrap();
        let agent = TestAgent::start_with(&plane, "cp-a", |config| {
            unpolled(config);
            config.peers.fixed.clear();
            config.peers.kubernetes = KubernetesPeers {
                enabled: true,
                kubeconfig: Some(kubeconfig),
            };
        })
        .await
        .unwrap();
        let pairs = Pairs {
            plane: &plane,
            server: plane.server(0),
            agent: &agent,
        };
        remembered(&pairs, protocol, ONLY_36).await;
        plane.server(1).start().await.unwrap();
        let case = Case::get(&admin(&plane), ONLY_36);
        eventually("the new member serves it", SOON, || async {
            let found = pairs.through(&case, protocol).await?;
            assert!([200, 404, 503].contains(&found.status), "{}", found.body);
            Ok(found.status == 200)
        })
        .await
        .unwrap();
    }
}

/// Behind an address of the list is nobody, and never was.
#[tokio::test]
async fn who_never_served_anything_makes_nothing_unavailable() {
    let plane = plane(&[35, 36]).await;
    let nobody = TcpListener::bind("127.0.0.77:0").unwrap();
    let silent = nobody.local_addr().unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.discovery.stale_after = Duration::from_secs(3);
        config.discovery.timeout = Duration::from_secs(1);
        config.discovery.refresh = SOON;
        config.peers.fixed.push(Endpoint {
            name: "cp-z".into(),
            host: silent.ip().to_string(),
            port: silent.port(),
        });
    })
    .await
    .unwrap();
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    let auth = admin(&plane);
    eventually("it is taken for none", SOON, || async {
        let answer = pairs
            .through(&Case::get(&auth, NOWHERE), Protocol::Http1)
            .await?;
        Ok(answer.status == 404)
    })
    .await
    .unwrap();
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let case = Case::new(&auth, method, NOWHERE);
        pairs.same(&case, 404, 1).await;
    }
    drop(nobody);
}
