//! Passing by, on nodes with steering: whatever makes the agent unable to serve, new connections reach kube-apiserver itself and succeed
//! as they do without an agent. A further fault is a further [`Row`].

use std::net::SocketAddr;

use mvp_tests::client::Client;
use mvp_tests::sim::control::Command;
use mvp_tests::sim::pki::{Authority, ClientAuth, Pki, Request};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::common::{Agent, Cluster, Place, eventually, on_nodes};

/// One fault.
pub(crate) struct Row {
    /// Also the test's name in what it prints.
    pub name: &'static str,
    /// Made before the agent starts: files, and the configuration that names them.
    pub before: fn(&Cluster, &mut Value),
    /// Made while the agent serves; `None`: the fault is there from the start.
    pub fault: Option<fn(&Cluster, &Agent)>,
    /// The label of `mvp_passing_by`.
    pub reason: &'static str,
    /// What the detail of the reason must hold.
    pub says: &'static str,
    /// Whether `/readyz` is 503.
    pub unready: bool,
}

/// Requests as different callers make them; what a server without an agent answers is what counts.
struct Caller {
    auth: ClientAuth,
    headers: &'static [(&'static str, &'static str)],
}

const TARGETS: [&str; 3] = [
    "/api/v1/namespaces",
    "/api/v1/namespaces/default/secrets",
    "/version",
];

/// Runs a row. The servers differ and everything is inspected: an agent that could serve would take every connection.
pub(crate) fn run(row: Row) {
    on_nodes(row.name, &[35, 36], move |cluster| {
        let node = &cluster.nodes[0];
        let callers = callers(&cluster);
        // Before there is an agent.
        let expected = answers(&cluster, &callers, &cluster.clients, node.at());
        let configure = |config: &mut Value| {
            config["inspect"] = "always".into();
            (row.before)(&cluster, config);
        };
        let (agent, kept) = match row.fault {
            None => (cluster.unready(node, configure), None),
            Some(fault) => {
                let agent = cluster.agent_with(node, configure);
                let kept = cluster.connect(&cluster.clients, node.at()).unwrap();
                let kept = std::sync::Arc::new(kept);
                let accepted = agent.accepted();
                cluster.get(&cluster.clients, node, TARGETS[0]).unwrap();
                assert!(
                    agent.accepted() > accepted,
                    "{}: it takes connections",
                    row.name
                );
                fault(&cluster, &agent);
                (agent, Some(kept))
            }
        };
        let sample = format!("mvp_passing_by{{reason=\"{}\"}}", row.reason);
        eventually("the reason is told", || {
            let scrape = agent.admin("GET", "/metrics");
            scrape.is_some_and(|(_, text)| mvp_tests::agent::sample(&text, &sample).unwrap() == 1.0)
        });
        eventually("the heartbeat is too old", || {
            let pinned = mvp::kernel::read_pinned(&cluster.bpffs.join(&node.name));
            !pinned.unwrap().guard.alive
        });
        let accepted = agent.accepted();
        let loopback = SocketAddr::from(([127, 0, 0, 1], crate::common::PORT));
        for (place, to) in [
            (&cluster.clients, node.at()),
            (&*node.place, node.at()),
            (&*node.place, loopback),
        ] {
            let got = answers(&cluster, &callers, place, to);
            assert_eq!(got, expected, "{}: from {}", row.name, place.address);
        }
        assert_eq!(
            agent.accepted(),
            accepted,
            "{}: nothing came to the agent",
            row.name
        );
        let status = agent.status().to_string();
        assert!(status.contains(row.says), "{}: {status}", row.name);
        let (code, text) = agent.admin("GET", "/readyz").unwrap();
        assert_eq!(code == 503, row.unready, "{}: {text}", row.name);
        if row.unready {
            assert!(text.contains(row.reason), "{}: {text}", row.name);
        }
        if let (Some(kept), true) = (kept, row.unready) {
            // Its requests go on until it has learned that it should reconnect.
            eventually("the connection of before is told to leave", || {
                let request = kept_get(&kept);
                cluster.clients.on(request).is_err()
            });
        }
    });
}

fn kept_get(
    client: &std::sync::Arc<Client>,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let client = std::sync::Arc::clone(client);
    async move { client.get("/version", &[]).await.map(drop) }
}

fn callers(cluster: &Cluster) -> Vec<Caller> {
    let pki = cluster.plane.pki();
    vec![
        Caller {
            auth: ClientAuth::Certificate(pki.admin().unwrap()),
            headers: &[],
        },
        Caller {
            auth: ClientAuth::Certificate(pki.alice().unwrap()),
            headers: &[],
        },
        Caller {
            auth: ClientAuth::None,
            headers: &[("authorization", "Bearer admin-token")],
        },
        Caller {
            auth: ClientAuth::None,
            headers: &[("authorization", "Bearer nonsense")],
        },
        Caller {
            auth: ClientAuth::None,
            headers: &[],
        },
    ]
}

/// The status of every target for every caller, over a new connection each.
fn answers(cluster: &Cluster, callers: &[Caller], place: &Place, to: SocketAddr) -> Vec<u16> {
    let mut all = Vec::new();
    for caller in callers {
        for target in TARGETS {
            let tls = cluster
                .plane
                .pki()
                .client_config(caller.auth.clone(), &[])
                .unwrap();
            let headers = caller.headers;
            let answer = place.on(async move {
                let client = Client::http2(to, &tls.into()).await?;
                client.get(target, headers).await
            });
            all.push(answer.unwrap().status.as_u16());
        }
    }
    all
}

/// Writes `NAME.crt` and `NAME.key` beside the key material, and has the agent assert users with them.
fn pair(cluster: &Cluster, config: &mut Value, name: &str, request: &Request) {
    let pki = cluster.plane.pki();
    let identity = pki.issue(request).unwrap();
    std::fs::write(pki.path(&format!("{name}.crt")), identity.cert_pem).unwrap();
    std::fs::write(pki.path(&format!("{name}.key")), identity.key_pem).unwrap();
    config["upstream"]["clientCertFile"] = json!(pki.path(&format!("{name}.crt")));
    config["upstream"]["clientKeyFile"] = json!(pki.path(&format!("{name}.key")));
}

/// The key material of another control plane.
fn other(cluster: &Cluster) -> Pki {
    Pki::generate(&cluster.plane.pki().path("other")).unwrap()
}

#[test]
fn expired_pair() {
    run(Row {
        name: "expired-pair",
        before: |cluster, config| {
            let now = OffsetDateTime::now_utc();
            let request = Request {
                authority: Authority::FrontProxy,
                not_before: now - Duration::minutes(50),
                not_after: now - Duration::minutes(10),
                ..Request::new("front-proxy-client", &[])
            };
            pair(cluster, config, "expired", &request);
        },
        fault: None,
        reason: "local_unproved",
        says: "expired 0 hours ago",
        unready: true,
    });
}

#[test]
fn no_pair() {
    run(Row {
        name: "no-pair",
        before: |_, config| {
            let upstream = config["upstream"].as_object_mut().unwrap();
            upstream.remove("clientCertFile");
            upstream.remove("clientKeyFile");
        },
        fault: None,
        reason: "local_unproved",
        says: "no front-proxy certificate",
        unready: true,
    });
}

#[test]
fn wrong_pair() {
    run(Row {
        name: "wrong-pair",
        before: |cluster, config| {
            let other = other(cluster);
            config["upstream"]["clientCertFile"] = json!(other.path("front-proxy-client.crt"));
            config["upstream"]["clientKeyFile"] = json!(other.path("front-proxy-client.key"));
            // Else the start is refused, and there is no agent at all.
            config["requestHeader"]["clientCAFile"] = json!(other.path("front-proxy-ca.crt"));
        },
        fault: None,
        reason: "local_unproved",
        says: "answered 401 to an asserted user",
        unready: true,
    });
}

#[test]
fn wrong_ca() {
    run(Row {
        name: "wrong-ca",
        before: |cluster, config| {
            config["upstream"]["caFile"] = json!(other(cluster).path("ca.crt"));
        },
        fault: None,
        reason: "local_unproved",
        says: "does not verify",
        unready: true,
    });
}

#[test]
fn local_server_refuses_the_agent() {
    run(Row {
        name: "local-refuses",
        before: |_, _| {},
        fault: Some(|cluster, _| {
            cluster.nodes[0].command(Command::RefuseFrontProxy { on: true });
        }),
        reason: "local_unproved",
        says: "answered 401 to an asserted user",
        unready: true,
    });
}

#[test]
fn discovery_is_denied() {
    run(Row {
        name: "discovery-403",
        before: |_, _| {},
        fault: Some(|cluster, _| {
            let mut policy = (*cluster.plane.policy()).clone();
            policy.without_discovery.push("system:mvp".to_owned());
            cluster.nodes[0].command(Command::Policy(policy));
        }),
        reason: "local_unproved",
        says: "system:discovery",
        unready: true,
    });
}
