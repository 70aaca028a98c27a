//! What is about this server stays with it: who asks for probes or `/version` gets this server's own answer, also from an address
//! whose connections would be relayed, and also while the server is down.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Client, NAME, tls_over};
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, SOON, admin, patient, plane};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::relaying::{AFTER, decisions, relaying, until_asked};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::pki::ClientAuth;
use serde_json::Value;
use tokio::net::TcpSocket;

const PROBES: [&str; 9] = [
    "/readyz",
    "/livez",
    "/healthz",
    "/version",
    "/readyz?verbose",
    "/livez/ping",
    "/readyz/etcd",
    "/healthz?exclude=etcd&verbose",
    "/version/",
];

/// The loopback address that [`Pairs`] asks from, and others.
const PROBER: &str = "127.0.0.1";
const USUAL: &str = "127.0.0.2";
const UNDER_OUTAGE: &str = "127.0.0.3";

/// The administrator's connection to the agent from this address, naming the server in TLS.
async fn from(
    address: &str,
    plane: &ControlPlane,
    agent: &TestAgent,
    protocol: Protocol,
) -> anyhow::Result<Client> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(address.parse()?, 0))?;
    let tcp = socket.connect(agent.address).await?;
    let tls = Arc::new(plane.pki().client_config(admin(plane), &[])?);
    match protocol {
        Protocol::Http1 => {
            let tls = tls_over(tcp, &tls, &[b"http/1.1"], NAME).await?;
            Client::http1_over(tls, agent.address).await
        }
        Protocol::Http2 => {
            let tls = tls_over(tcp, &tls, &[b"h2"], NAME).await?;
            Client::http2_over(tls, agent.address).await
        }
    }
}

/// What the agent would do with a new connection from this address.
async fn explained(agent: &TestAgent, address: &str) -> String {
    let target = format!("/explain?connection={address}&serverName={NAME}");
    let (_, explained) = agent.admin_get(&target).await.unwrap();
    let explained: Value = serde_json::from_str(&explained).unwrap();
    explained["decision"].as_str().unwrap().to_owned()
}

/// Where the agent says that probes go.
async fn probes_go_to(agent: &TestAgent, server: &str) {
    for probe in PROBES {
        let target = format!("/explain?method=GET&path={}", probe.replace('&', "%26"));
        let (_, explained) = agent.admin_get(&target).await.unwrap();
        let explained: Value = serde_json::from_str(&explained).unwrap();
        assert_eq!(explained["decision"], "probe", "{probe}: {explained}");
        assert_eq!(explained["server"], server, "{probe}: {explained}");
    }
}

/// Requests about itself that a server got from anybody but the agent.
fn asked_by_clients(plane: &ControlPlane, server: usize) -> usize {
    let requests = plane.server(server).requests();
    let ours = |user: &str| user == "kubernetes-admin" || user == "system:anonymous";
    requests
        .iter()
        .filter(|request| request.user.as_ref().is_some_and(|user| ours(&user.name)))
        .filter(|request| PROBES.iter().any(|probe| request.target == *probe))
        .count()
}

#[tokio::test]
async fn the_answer_is_this_servers_own() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let pairs = Pairs {
        plane: &plane,
        server: plane.server(0),
        agent: &agent,
    };
    for auth in [admin(&plane), ClientAuth::None] {
        for probe in PROBES {
            for method in [Method::GET, Method::HEAD] {
                pairs.same(&Case::new(&auth, method, probe), 200, 1).await;
            }
        }
    }
    let admin = admin(&plane);
    plane.server(0).not_ready(true);
    for probe in ["/readyz", "/readyz?verbose"] {
        pairs.same(&Case::get(&admin, probe), 500, 1).await;
    }
    plane.server(0).not_ready(false);
    for (target, status) in [("/readyz/nonsense", 404), ("/versions", 404)] {
        pairs.same(&Case::get(&admin, target), status, 1).await;
    }
    pairs
        .same(&Case::new(&admin, Method::POST, "/version"), 404, 1)
        .await;
    probes_go_to(&agent, "cp-a").await;
    assert_eq!(asked_by_clients(&plane, 1), 0);
}

#[tokio::test]
async fn an_address_that_is_relayed_otherwise_gets_this_servers_answers() {
    for protocol in Protocol::BOTH {
        let plane = plane(&[35, 36]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", relaying)
            .await
            .unwrap();
        let pairs = Pairs {
            plane: &plane,
            server: plane.server(0),
            agent: &agent,
        };
        let admin = admin(&plane);
        // Who asks for types alone is relayed after a while.
        let usual = from(USUAL, &plane, &agent, protocol).await.unwrap();
        until_asked(&agent, &usual, &[]).await;
        assert_eq!(explained(&agent, USUAL).await, "relayed");
        let whole = from(USUAL, &plane, &agent, protocol).await.unwrap();
        assert_eq!(whole.get(ONLY_36, &[]).await.unwrap().status, 200);
        assert_eq!(decisions(&agent, "relayed").await.unwrap(), 1.0);

        // Who asks about the server beside it is not, however much else it asks for.
        for probe in PROBES {
            let (straight, through) = pairs
                .run(&Case::get(&admin, probe), protocol)
                .await
                .unwrap();
            assert_eq!(straight.status, 200);
            assert_eq!(through, straight, "{probe} over {protocol:?}");
            let prober = from(PROBER, &plane, &agent, protocol).await.unwrap();
            for _ in 0..=AFTER {
                let answer = prober.get(ONLY_36, &[]).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        }
        assert_eq!(explained(&agent, PROBER).await, "asks_about_server");
        probes_go_to(&agent, "cp-a").await;
        for probe in PROBES {
            let prober = from(PROBER, &plane, &agent, protocol).await.unwrap();
            let answer = prober.get(probe, &[]).await.unwrap();
            assert_eq!(answer.status, 200, "{probe}");
            if probe.starts_with("/version") {
                assert_eq!(answer.json()["minor"], "35", "over {protocol:?}");
            }
        }
        assert!(decisions(&agent, "asks_about_server").await.unwrap() > 0.0);
        assert_eq!(decisions(&agent, "relayed").await.unwrap(), 1.0);

        // Nor while the server is down: its load balancer must learn of it.
        plane.server(0).kill().await;
        for probe in PROBES {
            let case = Case::get(&admin, probe);
            let down = pairs.through(&case, protocol).await.unwrap();
            assert_eq!(down.status, 503, "{probe} over {protocol:?}: {}", down.body);
            assert_eq!(down.received, [], "{probe} over {protocol:?}");
            // Nobody else can answer, and client-go would wait here.
            assert!(!down.headers.contains_key("retry-after"), "{probe}");
            let status: Value = serde_json::from_str(&down.body).unwrap();
            assert_eq!(status["reason"], "ServiceUnavailable", "{probe}");
            assert!(
                status["message"].as_str().unwrap().contains("cp-a"),
                "{status}"
            );
        }
        assert_eq!(explained(&agent, PROBER).await, "asks_about_server");
        probes_go_to(&agent, "cp-a").await;
        assert_eq!(decisions(&agent, "relayed").await.unwrap(), 1.0);

        // And nobody is relayed because of that alone.
        for _ in 0..3 * AFTER {
            let client = from(UNDER_OUTAGE, &plane, &agent, protocol).await.unwrap();
            for _ in 0..2 {
                let answer = client.get(CONFIG_MAPS, &[]).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(
                    !answer.headers.contains_key("connection"),
                    "over {protocol:?}"
                );
            }
        }
        assert_eq!(explained(&agent, UNDER_OUTAGE).await, "not_hot");
        let client = from(UNDER_OUTAGE, &plane, &agent, protocol).await.unwrap();
        assert_eq!(client.get("/readyz", &[]).await.unwrap().status, 503);
        assert_eq!(decisions(&agent, "relayed").await.unwrap(), 1.0);
        assert_eq!(agent.metric("mvp_relay_asked_total").await.unwrap(), 1.0);
        assert_eq!(asked_by_clients(&plane, 1), 0, "of the wrong server");

        plane.server(0).start().await.unwrap();
        eventually("it answers for itself again", SOON, || async {
            let again = pairs
                .through(&Case::get(&admin, "/readyz"), protocol)
                .await?;
            Ok(again.status == 200)
        })
        .await
        .unwrap();
    }
}
