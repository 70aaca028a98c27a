//! What servers publish in StorageVersion objects, where they have the gates for that: a further source of what a server serves that
//! cannot be asked itself, and nothing more than that.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use mvp::config::{Config, KubernetesPeers};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{CONFIG_MAPS, NOWHERE, ONLY_36, SOON, client, direct, patient};
use mvp_tests::ports::free_on;
use mvp_tests::rbac;
use mvp_tests::sim::identity::lease_name;
use mvp_tests::sim::pki::KubeconfigUser;
use mvp_tests::sim::store::Key;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::{Value, json};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// `cp-a` of 1.33 and `cp-b` of 1.36 with one port, as on real nodes, and the rights of `deploy/rbac.yaml`.
async fn plane(with: fn(ServerSpec) -> ServerSpec) -> ControlPlane {
    let hosts = [1u8, 2].map(|host| IpAddr::from([127, 0, 0, host]));
    let port = free_on(&hosts).unwrap();
    let specs = hosts.iter().zip([("cp-a", 33), ("cp-b", 36)]);
    let specs = specs.map(|(host, (name, minor))| {
        with(ServerSpec::new(name, minor).listen(SocketAddr::new(*host, port)))
    });
    let plane = ControlPlane::builder().nodes().servers(specs);
    let plane = plane.start().await.unwrap();
    rbac::apply(&plane).unwrap();
    plane
}

/// Beside `cp-a`, with peers from the API.
async fn agent(plane: &ControlPlane) -> TestAgent {
    let server = plane.server(0).addr();
    let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let path = plane
        .kubeconfig("cp-a.conf", &format!("https://{server}"), &user)
        .unwrap();
    let change = |config: &mut Config| {
        patient(config);
        config.discovery.stale_after = Duration::from_secs(3);
        config.peers.fixed.clear();
        config.peers.kubernetes = KubernetesPeers {
            enabled: true,
            kubeconfig: Some(path),
        };
    };
    TestAgent::start_with(plane, "cp-a", change).await.unwrap()
}

/// No answer of this server to `/api` and `/apis` is of any use; everything else is answered as before.
fn cannot_be_asked(plane: &ControlPlane, index: usize) {
    plane
        .server(index)
        .false_discovery(Some(Bytes::from_static(b"{")));
}

async fn json(agent: &TestAgent, path: &str) -> Value {
    serde_json::from_str(&agent.admin_get(path).await.unwrap().1).unwrap()
}

/// The sources of a route by server; null if there is no such route.
async fn sources(agent: &TestAgent, resource: &str) -> Value {
    let routes = json(agent, "/routes").await;
    let mut routes = routes.as_array().unwrap().iter();
    let route = routes.find(|route| {
        route["resource"] == resource && route["version"] == "v1" && route["subresource"] == ""
    });
    route.map_or(Value::Null, |route| route["sources"].clone())
}

/// Writes a Lease as an administrator would, or anybody who may.
async fn write_lease(plane: &ControlPlane, lease: Value) {
    let direct = direct(plane, plane.server(0)).await;
    let answer = direct.post_json(LEASES, &[], &lease).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Writes that a server serves one more resource, as whoever may write the status of StorageVersions could.
async fn forge(plane: &ControlPlane, name: &str, id: &str, version: &str) {
    let object = json!({
        "apiVersion": "internal.apiserver.k8s.io/v1alpha1", "kind": "StorageVersion",
        "metadata": {"name": name, "uid": name}, "spec": {},
        "status": {"storageVersions": [{
            "apiServerID": id, "encodingVersion": version,
            "decodableVersions": [version], "servedVersions": [version],
        }]},
    });
    let key = Key::new("internal.apiserver.k8s.io", "storageversions", "", name);
    plane.store().create(&key, object).await.unwrap();
}

/// Requests of the agent for StorageVersions, of all servers.
fn asked(plane: &ControlPlane) -> usize {
    let servers = plane.servers().iter();
    let requests = servers.flat_map(|server| server.requests());
    requests
        .filter(|request| request.target.contains("/storageversions"))
        .count()
}

#[tokio::test]
async fn a_peer_that_could_never_be_asked_serves_what_it_published() {
    let plane = plane(ServerSpec::all_gates).await;
    cannot_be_asked(&plane, 1);
    let agent = agent(&plane).await;
    let client = client(&plane, &agent).await;
    // Before, this was 503 for `discovery.staleAfter`, and then a false 404 for good.
    eventually("the peer is asked", SOON, || async {
        Ok(client.get(ONLY_36, &[]).await?.status == 200)
    })
    .await
    .unwrap();
    let servers = json(&agent, "/status").await["servers"].clone();
    let peer = servers.as_array().unwrap();
    let peer = peer.iter().find(|server| server["name"] == "cp-b").unwrap();
    assert_eq!(
        (&peer["source"], &peer["knowledge"]),
        (&json!("storageversion"), &json!("none"))
    );
    let only = sources(&agent, "mutatingadmissionpolicies").await;
    assert_eq!(only, json!({"cp-b": "storageversion"}));
    // What both serve is known of the local server by its own word, and goes there.
    let both = sources(&agent, "configmaps").await;
    assert_eq!(both, json!({"cp-a": "v2", "cp-b": "storageversion"}));
    let explained = json(&agent, &format!("/explain?method=GET&path={ONLY_36}")).await;
    assert_eq!(explained["decision"], "storage_version");
    assert_eq!(explained["server"], "cp-b");
    // Nothing of it stands in a document: no server said it in one.
    let group = client
        .get("/apis/admissionregistration.k8s.io/v1", &[])
        .await
        .unwrap();
    assert!(!group.text().contains("mutatingadmissionpolicies"));
}

#[tokio::test]
async fn what_a_server_says_itself_stands_alone() {
    let plane = plane(ServerSpec::all_gates).await;
    let (name, version) = ("nowhere.example.com.widgets", "nowhere.example.com/v1");
    forge(&plane, name, &lease_name("cp-b"), version).await;
    let agent = agent(&plane).await;
    let client = client(&plane, &agent).await;
    eventually("StorageVersions are read", SOON, || async {
        Ok(asked(&plane) > 0)
    })
    .await
    .unwrap();
    eventually("the peer is known", SOON, || async {
        Ok(client.get(ONLY_36, &[]).await?.status == 200)
    })
    .await
    .unwrap();
    assert_eq!(client.get(NOWHERE, &[]).await.unwrap().status, 404);
    assert_eq!(sources(&agent, "widgets").await, Value::Null);
    let only = sources(&agent, "mutatingadmissionpolicies").await;
    assert_eq!(only, json!({"cp-b": "v2"}));
}

/// The worst that a lie does: the server that it is about is asked, and says that there is no such type.
#[tokio::test]
async fn a_lie_sends_a_request_to_a_server_that_says_no() {
    let plane = plane(ServerSpec::all_gates).await;
    cannot_be_asked(&plane, 1);
    let (name, version) = ("nowhere.example.com.widgets", "nowhere.example.com/v1");
    forge(&plane, name, &lease_name("cp-b"), version).await;
    // A Lease with an address that is not listed, and what its server is said to serve.
    let address = SocketAddr::from(([127, 0, 0, 66], plane.server(0).addr().port()));
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": "apiserver-forged",
            "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": "cp-z"},
            "annotations": {"kubernetes.io/peer-advertise-address": address.to_string()},
        },
        "spec": {"holderIdentity": "apiserver-forged_1", "leaseDurationSeconds": 3600},
    });
    write_lease(&plane, lease).await;
    let (name, version) = ("gadgets.example.com.gadgets", "gadgets.example.com/v1");
    forge(&plane, name, "apiserver-forged", version).await;
    let agent = agent(&plane).await;
    let client = client(&plane, &agent).await;
    eventually("the lie is believed", SOON, || async {
        Ok(sources(&agent, "widgets").await == json!({"cp-b": "storageversion"}))
    })
    .await
    .unwrap();
    eventually("and says no", SOON, || async {
        Ok(client.get(NOWHERE, &[]).await?.status == 404)
    })
    .await
    .unwrap();
    let asked = |server: usize| {
        let requests = plane.server(server).requests();
        requests.iter().any(|request| request.target == NOWHERE)
    };
    assert!(asked(1) && !asked(0), "the peer was asked in vain");
    // What another server says itself is not touched, and nobody becomes a member.
    let answer = client.get(CONFIG_MAPS, &[]).await.unwrap();
    assert_eq!(answer.status, 200);
    let explained = json(&agent, &format!("/explain?method=GET&path={CONFIG_MAPS}")).await;
    assert_eq!(explained["decision"], "local_serves");
    let servers = json(&agent, "/status").await["servers"].clone();
    assert_eq!(servers.as_array().unwrap().len(), 2);
    assert_eq!(sources(&agent, "gadgets").await, Value::Null);
}

/// The default of every release: the API is not there, and nobody asks for it.
#[tokio::test]
async fn without_the_api_nothing_is_asked() {
    let plane = plane(|spec| spec).await;
    let agent = agent(&plane).await;
    let client = client(&plane, &agent).await;
    eventually("the peer is known", SOON, || async {
        Ok(client.get(ONLY_36, &[]).await?.status == 200)
    })
    .await
    .unwrap();
    assert_eq!(asked(&plane), 0);
}
