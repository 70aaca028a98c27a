//! The admin port of a running agent: readiness, liveness, metrics that count what happened, views, limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use http::Method;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Client, empty};
use mvp_tests::scrape::Scrape;
use mvp_tests::sim::pki::{ClientAuth, Request};
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(30);
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Servers cp-a (1.35) and cp-b (1.36).
async fn plane() -> ControlPlane {
    ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap()
}

fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

async fn scrape(agent: &TestAgent) -> Scrape {
    let (status, text) = agent.admin_get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    Scrape::parse(&text).unwrap()
}

async fn json_of(agent: &TestAgent, path: &str) -> Value {
    let (status, text) = agent.admin_get(path).await.unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Asks `times` times and expects this status.
async fn repeat(client: &Client, times: usize, target: &str, status: u16) {
    for _ in 0..times {
        assert_eq!(client.get(target, &[]).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn readyz_names_the_peer_that_hangs() {
    let plane = plane().await;
    let peer = plane.named("cp-b").unwrap();
    peer.hang(true);
    let agent = TestAgent::start_unready(&plane, "cp-a", |config| {
        config.upstream.connect_timeout = Duration::from_secs(600);
        config.discovery.timeout = Duration::from_secs(600);
    })
    .unwrap();
    let expected = "[+]discovery: first round of cp-a ok\n\
        [-]discovery: first round of all servers awaited\n\
        [-]discovery: first round of cp-b awaited\n\
        readyz check failed\n";
    eventually("cp-a is asked, cp-b awaited", LIMIT, || async {
        Ok(agent.admin_get("/readyz?verbose").await? == (503, expected.to_owned()))
    })
    .await
    .unwrap();
    let (status, short) = agent.admin_get("/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(!short.contains("cp-a") && short.contains("cp-b"), "{short}");
    let view = json_of(&agent, "/status").await;
    assert_eq!(view["ready"], false);
    assert_eq!(view["awaiting"][1], "discovery: first round of cp-b");
    // It is alive all the same, and serves what it can.
    assert_eq!(
        agent.admin_get("/livez").await.unwrap(),
        (200, "ok\n".to_owned())
    );
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    repeat(&client, 1, MAPS, 200).await;

    peer.hang(false);
    eventually("the agent is ready", LIMIT, || async {
        Ok(agent.admin_get("/readyz").await? == (200, "ok\n".to_owned()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_peer_that_goes_on_hanging_does_not_hold_readiness_up() {
    let plane = plane().await;
    plane.named("cp-b").unwrap().hang(true);
    // Ready once the peer's first round has failed.
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let servers = json_of(&agent, "/servers").await;
    let peer = servers
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == "cp-b")
        .unwrap();
    assert_eq!(peer["knowledge"], "none");
    assert!(peer["lastError"].is_string(), "{peer}");
    plane.named("cp-b").unwrap().hang(false);
}

#[tokio::test]
async fn every_request_is_counted_once_by_what_became_of_it() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    repeat(&client, 7, MAPS, 200).await;
    repeat(&client, 2, &format!("{MAPS}/nope"), 404).await;
    repeat(&client, 5, POLICIES, 200).await;
    repeat(&client, 3, &format!("{POLICIES}/nope"), 404).await;
    repeat(&client, 4, "/version", 200).await;
    let mut expired = Request::new("mallory", &[]);
    expired.not_before -= time::Duration::days(3);
    expired.not_after -= time::Duration::days(3);
    let expired = ClientAuth::Certificate(plane.pki().issue(&expired).unwrap());
    let mallory = agent.http2(&plane, expired).await.unwrap().returning();
    repeat(&mallory, 6, MAPS, 401).await;

    let before = scrape(&agent).await;
    plane.named("cp-b").unwrap().kill().await;
    eventually("cp-b is known to be down", LIMIT, || async {
        let sample = r#"mvp_server_available{server="cp-b"}"#;
        Ok(scrape(&agent).await.get(sample) == 0.0)
    })
    .await
    .unwrap();
    repeat(&client, 8, POLICIES, 503).await;

    let after = scrape(&agent).await;
    let requests = |decision: &str, server: &str, code: u16| {
        after.get(&format!(
            r#"mvp_requests_total{{decision="{decision}",server="{server}",code="{code}"}}"#
        ))
    };
    assert_eq!(requests("local_serves", "cp-a", 200), 7.0);
    assert_eq!(requests("local_serves", "cp-a", 404), 2.0);
    assert_eq!(requests("peer_serves", "cp-b", 200), 5.0);
    assert_eq!(requests("peer_serves", "cp-b", 404), 3.0);
    assert_eq!(requests("probe", "cp-a", 200), 4.0);
    assert_eq!(requests("refused_unauthorized", "", 401), 6.0);
    assert_eq!(requests("capable_server_unreachable", "", 503), 8.0);
    // That is all, and every one of them is in the histogram.
    assert_eq!(after.sum("mvp_requests_total"), 35.0);
    assert_eq!(after.get("mvp_added_seconds_count"), 35.0);
    assert_eq!(after.get(r#"mvp_added_seconds_bucket{le="+Inf"}"#), 35.0);
    assert_eq!(
        after.get(r#"mvp_server_seconds_count{server="cp-a"}"#),
        13.0
    );
    assert_eq!(after.get(r#"mvp_server_seconds_count{server="cp-b"}"#), 8.0);

    // The native feature's names and labels.
    let of = |name: &str, label: &str| {
        after.get(&format!(
            r#"{name}{{{label},group="admissionregistration.k8s.io",version="v1",resource="mutatingadmissionpolicies"}}"#
        ))
    };
    let rerouted = "apiserver_rerouted_request_total";
    assert_eq!(of(rerouted, r#"code="200""#), 5.0);
    assert_eq!(of(rerouted, r#"code="404""#), 3.0);
    assert_eq!(after.sum(rerouted), 8.0);
    let errors = "apiserver_peer_proxy_errors_total";
    assert_eq!(of(errors, r#"type="endpoint_resolution""#), 8.0);
    assert_eq!(after.sum(errors), 8.0);
    let sync = r#"apiserver_peer_discovery_sync_errors_total{type="fetch_discovery"}"#;
    assert_eq!(before.get(sync), 0.0);
    eventually("the pollers' errors are counted", LIMIT, || async {
        Ok(scrape(&agent).await.get(sync) > 0.0)
    })
    .await
    .unwrap();
    eventually("the ejection is counted", LIMIT, || async {
        let sample = r#"mvp_ejections_total{server="cp-b"}"#;
        Ok(scrape(&agent).await.get(sample) == 1.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_failure_of_the_local_server_is_no_failure_of_a_peer() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    plane.named("cp-a").unwrap().kill().await;
    // Probes stay local. Nothing asks the client to repeat the request, since client-go would, ten times, before it gives up.
    let version = client.get("/version", &[]).await.unwrap();
    assert_eq!(version.status, 503);
    assert!(!version.headers.contains_key("retry-after"));
    assert_eq!(client.get(MAPS, &[]).await.unwrap().status, 200);
    let after = scrape(&agent).await;
    assert_eq!(after.sum("apiserver_peer_proxy_errors_total"), 0.0);
    let probe = r#"mvp_requests_total{decision="server_failed",server="",code="503"}"#;
    assert_eq!(after.get(probe), 1.0);
}

#[tokio::test]
async fn what_clients_may_not_do_is_counted() {
    let plane = plane().await;
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.limits.header_count = 40;
    })
    .await
    .unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let forged = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-a", "b"),
        ("x-kubernetes-peer-proxied", "true"),
    ];
    assert_eq!(client.get(MAPS, &forged).await.unwrap().status, 200);
    let names: Vec<String> = (0..50).map(|i| format!("x-many-{i}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(client.get(MAPS, &many).await.unwrap().status, 431);
    let mut garbage = TcpStream::connect(agent.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = garbage.read_to_end(&mut Vec::new()).await;

    let after = scrape(&agent).await;
    for kind in ["username", "group", "extra"] {
        let sample = format!(r#"mvp_headers_stripped_total{{kind="{kind}"}}"#);
        assert_eq!(after.get(&sample), 1.0, "{kind}");
    }
    assert_eq!(after.get("mvp_hop_markers_forged_total"), 1.0);
    assert_eq!(after.get(r#"mvp_refused_total{limit="header_count"}"#), 1.0);
    let refused = r#"mvp_requests_total{decision="refused_header",server="",code="431"}"#;
    assert_eq!(after.get(refused), 1.0);
    eventually("the failed handshake is counted", LIMIT, || async {
        let sample = r#"mvp_tls_handshake_failures_total{reason="error"}"#;
        Ok(scrape(&agent).await.get(sample) == 1.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn gauges_say_what_is_open_now() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let target = format!("{POLICIES}?watch=true");
    let request = client.request(Method::GET, &target, &[], empty()).unwrap();
    let watch = client.send(request).await.unwrap();

    let during = scrape(&agent).await;
    assert_eq!(
        during.get(r#"mvp_outstanding_requests{server="cp-b"}"#),
        1.0
    );
    assert_eq!(
        during.get(r#"mvp_outstanding_requests{server="cp-a"}"#),
        0.0
    );
    assert_eq!(during.get("mvp_client_connections_open"), 1.0);
    assert_eq!(during.get("mvp_client_connections_total"), 1.0);
    assert!(during.get(r#"mvp_pool_connections{server="cp-b",class="front_proxy"}"#) >= 1.0);
    for server in ["cp-a", "cp-b"] {
        let of = |name: &str| format!(r#"{name}{{server="{server}"}}"#);
        assert_eq!(during.get(&of("mvp_server_available")), 1.0);
        assert!(during.has(&of("mvp_discovery_age_seconds")));
    }
    let version = format!(
        r#"mvp_build_info{{version="{}"}}"#,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(during.get(&version), 1.0);

    // One certificate file each, also where two keys name the same: the CA is both the clients' and the servers'.
    let expiry = |file: &str| {
        let path = plane.pki().path(file).display().to_string();
        during.get(&format!(
            r#"mvp_certificate_expiry_seconds{{file="{path}"}}"#
        ))
    };
    let (hour, day) = (3600.0, 86400.0);
    for leaf in ["apiserver.crt", "front-proxy-client.crt"] {
        assert!(expiry(leaf) > 20.0 * hour && expiry(leaf) <= day, "{leaf}");
    }
    for ca in ["ca.crt", "front-proxy-ca.crt"] {
        assert!(
            expiry(ca) > 3640.0 * day && expiry(ca) < 3651.0 * day,
            "{ca}"
        );
    }
    let files: Vec<_> = during.of("mvp_certificate_expiry_seconds").collect();
    assert_eq!(files.len(), 4, "{files:?}");

    drop(watch);
    drop(client);
    eventually("nothing is open", LIMIT, || async {
        let now = scrape(&agent).await;
        Ok(now.get(r#"mvp_outstanding_requests{server="cp-b"}"#) == 0.0
            && now.get("mvp_client_connections_open") == 0.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_bad_certificate_is_counted_once_and_shown_until_it_is_mended() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let file = plane.pki().path("ca.crt");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "no certificate").unwrap();
    let errors = async || {
        let view = json_of(&agent, "/status").await;
        let certificates = view["certificates"].as_array().unwrap().iter();
        certificates
            .filter(|c| c["lastError"].is_string())
            .map(|c| c["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    eventually("both users of the file refuse it", LIMIT, || async {
        Ok(errors().await == ["upstream.caFile", "clientCAFile"])
    })
    .await
    .unwrap();
    let sample = format!(
        r#"mvp_certificate_reload_failures_total{{file="{}"}}"#,
        file.display()
    );
    eventually("the failures are counted", LIMIT, || async {
        Ok(scrape(&agent).await.get(&sample) == 2.0)
    })
    .await
    .unwrap();
    // The old one stays in use.
    let admin = ClientAuth::Certificate(plane.pki().admin().unwrap());
    std::fs::write(&file, good).unwrap();
    let client = agent.http2(&plane, admin).await.unwrap();
    repeat(&client, 1, POLICIES, 200).await;
    eventually("the error is gone", LIMIT, || async {
        Ok(errors().await.is_empty())
    })
    .await
    .unwrap();
    // What did not grow is not counted again.
    assert_eq!(scrape(&agent).await.get(&sample), 2.0);
}

#[tokio::test]
async fn views_show_servers_routes_and_decisions() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let status = json_of(&agent, "/status").await;
    assert_eq!(status["node"], "cp-a");
    assert_eq!(status["ready"], true);
    assert_eq!(status["drain"], "running");
    assert_eq!(status["listen"], agent.address.to_string());
    assert_eq!(status["threads"].as_array().unwrap().len(), 2);
    assert_eq!(status["servers"].as_array().unwrap().len(), 2);

    let servers = json_of(&agent, "/servers").await;
    for (index, (name, version)) in [("cp-a", "v1.35."), ("cp-b", "v1.36.")].iter().enumerate() {
        let server = &servers[index];
        assert_eq!(server["name"], *name);
        assert_eq!(server["local"], index == 0);
        assert_eq!(server["url"], plane.named(name).unwrap().url());
        assert!(server["version"].as_str().unwrap().starts_with(version));
        assert_eq!(server["ready"], true);
        assert_eq!(server["available"], true);
        assert_eq!(server["knowledge"], "fresh");
        assert_eq!(server["source"], "v2");
        assert!(server["keys"].as_u64().unwrap() > 100);
    }

    let routes = json_of(&agent, "/routes").await;
    let routes = routes.as_array().unwrap();
    let served_by = |resource: &str| -> Vec<&String> {
        let route = routes.iter().find(|r| r["resource"] == resource).unwrap();
        route["verbs"].as_object().unwrap().keys().collect()
    };
    assert_eq!(served_by("configmaps"), ["cp-a", "cp-b"]);
    assert_eq!(served_by("mutatingadmissionpolicies"), ["cp-b"]);

    let explain = json_of(&agent, &format!("/explain?method=POST&path={POLICIES}")).await;
    let expected = json!({
        "method": "POST",
        "isResource": true,
        "verb": "create",
        "group": "admissionregistration.k8s.io",
        "version": "v1",
        "resource": "mutatingadmissionpolicies",
        "decision": "peer_serves",
        "server": "cp-b",
        "candidates": ["cp-b"],
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&explain[name], value, "{name}");
    }
    let (status, problem) = agent.admin_get("/explain?path=pods").await.unwrap();
    assert_eq!(status, 400, "{problem}");

    // A server's own word, through the agent.
    let probe = |path: &'static str| agent.operate("GET", path);
    let ready = probe("/mvp/servers/cp-b/readyz").await.unwrap();
    assert_eq!(ready, (200, "ok".to_owned()));
    let (_, version) = probe("/mvp/servers/cp-b/version").await.unwrap();
    assert!(version.contains("v1.36."), "{version}");
    assert_eq!(probe("/mvp/servers/no/readyz").await.unwrap().0, 404);
    // To the network the agent is nobody's way to a server.
    let refused = agent.admin_get("/mvp/servers/cp-b/readyz").await.unwrap();
    assert_eq!(refused.0, 403);
}

#[tokio::test]
async fn idle_connections_to_the_admin_port_harm_nobody() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..80 {
        idle.push(TcpStream::connect(agent.admin).await.unwrap());
    }
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    repeat(&client, 3, POLICIES, 200).await;
    drop(idle);
    eventually("the admin port answers again", LIMIT, || async {
        Ok(agent.admin_get("/livez").await?.0 == 200)
    })
    .await
    .unwrap();
}
