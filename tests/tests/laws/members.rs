//! Law 3: only objects that the control plane itself writes decide who is a member.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use mvp::config::{Config, KubernetesPeers};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{NOWHERE, ONLY_36, SOON, client, direct, patient};
use mvp_tests::ports::free_on;
use mvp_tests::sim::pki::KubeconfigUser;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::{Value, json};

/// Servers `cp-a`, `cp-b`, … on 127.0.0.1, 127.0.0.2, … with one port, as on real nodes: a slice has one port for all.
async fn plane(minors: &[u8]) -> ControlPlane {
    let hosts: Vec<IpAddr> = (1u8..)
        .take(minors.len())
        .map(|host| IpAddr::from([127, 0, 0, host]))
        .collect();
    let port = free_on(&hosts).unwrap();
    let specs = (1u8..).zip(minors).map(|(host, minor)| {
        let name = format!("cp-{}", char::from(b'a' + host - 1));
        ServerSpec::new(&name, *minor).listen(SocketAddr::from(([127, 0, 0, host], port)))
    });
    let plane = ControlPlane::builder().nodes().servers(specs);
    plane.start().await.unwrap()
}

/// Peers come from the API of the node's own server, and from nowhere else.
fn from_api(plane: &ControlPlane, node: &str) -> impl FnOnce(&mut Config) {
    let server = plane.named(node).unwrap().addr();
    let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let file = format!("{node}.conf");
    let path = plane
        .kubeconfig(&file, &format!("https://{server}"), &user)
        .unwrap();
    move |config| {
        patient(config);
        config.peers.fixed.clear();
        config.peers.kubernetes = KubernetesPeers {
            enabled: true,
            kubeconfig: Some(path),
        };
    }
}

async fn agent(plane: &ControlPlane, node: &str) -> TestAgent {
    TestAgent::start_with(plane, node, from_api(plane, node))
        .await
        .unwrap()
}

async fn status(agent: &TestAgent) -> Value {
    serde_json::from_str(&agent.admin_get("/status").await.unwrap().1).unwrap()
}

/// Name and URL of every server that the agent knows.
async fn servers(agent: &TestAgent) -> Vec<(String, String)> {
    let status = status(agent).await;
    let servers = status["servers"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    servers
        .map(|server| (text(&server["name"]), text(&server["url"])))
        .collect()
}

async fn knows(agent: &TestAgent, names: &[&str]) {
    eventually("the agent knows its servers", SOON, || async {
        let mut found: Vec<_> = servers(agent)
            .await
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        found.sort();
        anyhow::ensure!(found == names, "{found:?}");
        Ok(true)
    })
    .await
    .unwrap();
}

/// Writes an object as an administrator would, or anybody who may.
async fn write(plane: &ControlPlane, collection: &str, object: Value) {
    let direct = direct(plane, plane.server(0)).await;
    let answer = direct.post_json(collection, &[], &object).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
}

fn lease(host: &str, address: SocketAddr) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": "apiserver-forged",
            "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": host},
            "annotations": {"kubernetes.io/peer-advertise-address": address.to_string()},
        },
        "spec": {"holderIdentity": "forged_1", "leaseDurationSeconds": 3600},
    })
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

#[tokio::test]
async fn a_lease_with_this_nodes_name_and_a_peers_address_takes_no_peer_away() {
    let plane = plane(&[33, 36]).await;
    write(&plane, LEASES, lease("cp-a", plane.server(1).addr())).await;
    let agent = agent(&plane, "cp-a").await;
    knows(&agent, &["cp-a", "cp-b"]).await;
    // What only the peer serves is served: before, the peer had vanished and this was a false 404.
    let client = client(&plane, &agent).await;
    let answer = client.get(ONLY_36, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_slice_that_only_has_the_label_adds_nobody() {
    let plane = plane(&[33, 36]).await;
    let foreign = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes-x7k2p", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.66"]}],
        "ports": [{"name": "https", "port": plane.server(0).addr().port(), "protocol": "TCP"}],
    });
    write(&plane, SLICES, foreign).await;
    let agent = agent(&plane, "cp-a").await;
    knows(&agent, &["cp-a", "cp-b"]).await;
    let line = status(&agent).await["membership"].clone();
    assert_eq!(line, "2 servers (EndpointSlice default/kubernetes)");
}

/// Names are the Nodes', on every node, whatever the servers' releases and whatever is under way.
#[tokio::test]
async fn a_server_has_one_name_on_every_node_and_through_an_upgrade() {
    let plane = plane(&[33, 33]).await;
    let agents = [agent(&plane, "cp-a").await, agent(&plane, "cp-b").await];
    let port = plane.server(0).addr().port();
    let expected: Vec<_> = [("cp-a", 1), ("cp-b", 2)]
        .map(|(name, host)| (name.to_owned(), format!("https://127.0.0.{host}:{port}")))
        .into();
    let same = |what: &'static str| {
        let (agents, expected) = (&agents, &expected);
        async move {
            eventually(what, SOON, || async {
                for agent in agents {
                    let mut found = servers(agent).await;
                    found.sort();
                    anyhow::ensure!(found == *expected, "{what}: {found:?}");
                }
                Ok(true)
            })
            .await
            .unwrap();
        }
    };
    same("before").await;
    plane.server(1).stop().await.unwrap();
    same("while it is away").await;
    plane.server(1).restart(36).await.unwrap();
    same("after").await;
    let version = || async {
        let status = status(&agents[0]).await;
        let servers = status["servers"].as_array().unwrap().clone();
        let b = servers.iter().find(|server| server["name"] == "cp-b");
        Ok(b.is_some_and(|b| {
            b["version"]
                .as_str()
                .is_some_and(|v| v.starts_with("v1.36"))
        }))
    };
    eventually("the upgrade is seen", SOON, version)
        .await
        .unwrap();
    same("with the new release").await;
}

/// An address at which nobody ever answered: unknown types are 503 for `discovery.staleAfter`, and then what they are.
#[tokio::test]
async fn who_never_answered_does_not_make_unknown_types_unavailable_for_long() {
    let plane = plane(&[36]).await;
    let nobody = TcpListener::bind("127.0.0.77:0").unwrap();
    let silent = nobody.local_addr().unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.discovery.stale_after = Duration::from_secs(3);
        config.discovery.timeout = Duration::from_secs(1);
        config.discovery.refresh = Duration::from_secs(2);
        config.peers.fixed.push(mvp::config::Endpoint {
            name: "cp-z".into(),
            host: silent.ip().to_string(),
            port: silent.port(),
        });
    })
    .await
    .unwrap();
    let client = client(&plane, &agent).await;
    eventually("the 404 passes", SOON, || async {
        let answer = client.get(NOWHERE, &[]).await?;
        Ok(answer.status == 404)
    })
    .await
    .unwrap();
    // And from then on always.
    for _ in 0..3 {
        assert_eq!(client.get(NOWHERE, &[]).await.unwrap().status, 404);
    }
    drop(nobody);
}

/// One that did answer is another matter: what it serves is a 503 while it is away, never a 404.
#[tokio::test]
async fn who_answered_once_lingers_when_it_leaves_the_list() {
    let plane = plane(&[33, 36]).await;
    let agent = agent(&plane, "cp-a").await;
    knows(&agent, &["cp-a", "cp-b"]).await;
    let client = client(&plane, &agent).await;
    eventually("the peer serves", SOON, || async {
        Ok(client.get(ONLY_36, &[]).await?.status == 200)
    })
    .await
    .unwrap();
    plane.server(1).stop().await.unwrap();
    eventually("it left the list", SOON, || async {
        let direct = direct(&plane, plane.server(0)).await;
        let slice = direct.get(&format!("{SLICES}/kubernetes"), &[]).await?;
        Ok(!slice.text().contains("127.0.0.2"))
    })
    .await
    .unwrap();
    for _ in 0..5 {
        let answer = client.get(ONLY_36, &[]).await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    knows(&agent, &["cp-a", "cp-b"]).await;
}

#[tokio::test]
async fn a_single_server_is_said_to_be_alone() {
    let plane = plane(&[36]).await;
    let agent = agent(&plane, "cp-a").await;
    eventually("it says so", SOON, || async {
        let line = status(&agent).await["membership"].clone();
        Ok(line.as_str().is_some_and(|line| {
            line.starts_with("only the local server is known: the EndpointSlice")
        }))
    })
    .await
    .unwrap();
}
