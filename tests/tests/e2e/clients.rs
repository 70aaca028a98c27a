//! The clients people use, kubectl and the kube crate, through the agent of a server that is one version behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::kubectl::Kubectl;
use mvp_tests::sim::api::authn::User;
use mvp_tests::sim::pki::KubeconfigUser;
use mvp_tests::sim::{ControlPlane, ServerSpec};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const LIMIT: Duration = Duration::from_secs(30);

/// A local server cp-a of 1.35, peers of 1.36.
async fn mixed(peers: &[&str]) -> (ControlPlane, TestAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .servers(peers.iter().map(|name| ServerSpec::new(name, 36)))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    (plane, agent)
}

fn admin(plane: &ControlPlane) -> KubeconfigUser {
    KubeconfigUser::Certificate(plane.pki().admin().unwrap())
}

/// kubectl through the agent.
fn kubectl(
    plane: &ControlPlane,
    agent: &TestAgent,
    file: &str,
    user: &KubeconfigUser,
) -> Option<Kubectl> {
    let url = format!("https://{}", agent.address);
    Kubectl::find(&plane.kubeconfig(file, &url, user).unwrap())
}

/// kubectl waits for its server, which runs on this runtime's other threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn config_map(name: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata: {{k: {value}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_writes_and_reads_objects() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let Some(kubectl) = kubectl(&plane, &agent, "admin.kubeconfig", &admin(&plane)) else {
        return;
    };
    blocking(move || {
        let value = |expected: &str| {
            let path = ["get", "configmap", "m", "-o", "jsonpath={.data.k}"];
            assert_eq!(kubectl.run(&path, ""), expected);
        };
        let created = kubectl.run(&["create", "-f", "-"], &config_map("m", "one"));
        assert_eq!(created, "configmap/m created\n");
        value("one");
        let list = kubectl.run(&["get", "configmaps"], "");
        assert!(list.starts_with("NAME") && list.contains("\nm "), "{list}");
        let yaml = kubectl.run(&["get", "configmap", "m", "-o", "yaml"], "");
        assert!(
            yaml.contains("\nkind: ConfigMap\n") && yaml.contains("  k: one\n"),
            "{yaml}"
        );

        // The first client-side apply of a created object warns that it lacks the last-applied annotation, and adds it.
        let apply = ["apply", "-f", "-"];
        assert_eq!(
            kubectl.run(&apply, &config_map("m", "two")),
            "configmap/m configured\n"
        );
        assert_eq!(
            kubectl.run(&apply, &config_map("m", "two")),
            "configmap/m unchanged\n"
        );
        value("two");
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        assert_eq!(
            kubectl.run(&apply, &config_map("m", "three")),
            "configmap/m serverside-applied\n"
        );
        value("three");
        let patch = ["patch", "configmap", "m", "-p", r#"{"data":{"k":"four"}}"#];
        assert_eq!(kubectl.run(&patch, ""), "configmap/m patched\n");
        value("four");

        let delete = ["delete", "configmap", "m"];
        assert_eq!(kubectl.run(&delete, ""), "configmap \"m\" deleted\n");
        assert_eq!(
            kubectl.refused(&["get", "configmap", "m"], ""),
            "Error from server (NotFound): configmaps \"m\" not found\n"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches_one_event() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let Some(kubectl) = kubectl(&plane, &agent, "admin.kubeconfig", &admin(&plane)) else {
        return;
    };
    blocking(move || {
        kubectl.run(&["create", "-f", "-"], &config_map("first", "1"));
        let mut watch = kubectl.command(&["get", "configmaps", "-w", "-o", "name"]);
        let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "configmap/first");
        kubectl.run(&["create", "-f", "-"], &config_map("later", "1"));
        assert_eq!(lines.next().unwrap().unwrap(), "configmap/later");
        watch.kill().unwrap();
        watch.wait().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_discovers_and_explains() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let Some(kubectl) = kubectl(&plane, &agent, "admin.kubeconfig", &admin(&plane)) else {
        return;
    };
    blocking(move || {
        let resources = kubectl.run(&["api-resources"], "");
        let has = |name: &str| resources.lines().any(|line| line.starts_with(name));
        assert!(has("configmaps ") && has("deployments "), "{resources}");
        let versions = kubectl.run(&["api-versions"], "");
        assert!(versions.lines().any(|line| line == "apps/v1"), "{versions}");
        let explained = kubectl.run(&["explain", "configmap"], "");
        assert!(
            explained.contains("KIND:       ConfigMap") && explained.contains("VERSION:    v1"),
            "{explained}"
        );
        // The version is that of the server whose node the client talks to.
        let version = kubectl.run(&["version"], "");
        assert!(version.contains("Server Version: v1.35."), "{version}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_a_type_only_the_peer_has_by_its_path_and_by_its_names() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let Some(kubectl) = kubectl(&plane, &agent, "admin.kubeconfig", &admin(&plane)) else {
        return;
    };
    blocking(move || {
        let raw = kubectl.run(&["get", "--raw", POLICIES], "");
        assert!(
            raw.contains(r#""kind":"MutatingAdmissionPolicyList""#),
            "{raw}"
        );
        let policy = r#"{"apiVersion":"admissionregistration.k8s.io/v1","kind":"MutatingAdmissionPolicy","metadata":{"name":"p"}}"#;
        kubectl.run(&["create", "--raw", POLICIES, "-f", "-"], policy);
        let one = kubectl.run(&["get", "--raw", &format!("{POLICIES}/p")], "");
        assert!(one.contains(r#""name":"p""#), "{one}");

        let resources = kubectl.run(&["api-resources", "-o", "name"], "");
        let group_name = "mutatingadmissionpolicies.admissionregistration.k8s.io";
        assert!(resources.lines().any(|line| line == group_name), "{resources}");
        for name in [
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
            "MutatingAdmissionPolicy",
            group_name,
            "mutatingadmissionpolicies.v1.admissionregistration.k8s.io",
        ] {
            let found = kubectl.run(&["get", name, "-o", "name"], "");
            assert_eq!(found, format!("{}/p\n", group_name.replacen("policies", "policy", 1)));
        }
        let explained = kubectl.run(&["explain", "mutatingadmissionpolicies"], "");
        assert!(explained.contains("KIND:       MutatingAdmissionPolicy"), "{explained}");
        let other = policy.replace(r#""name":"p""#, r#""name":"q""#);
        for said in ["created", "unchanged"] {
            let applied = kubectl.run(&["apply", "-f", "-"], &other);
            assert!(applied.ends_with(&format!("/q {said}\n")), "{applied}");
        }
        kubectl.run(&["delete", "mutatingadmissionpolicies", "p", "q"], "");
        assert_eq!(kubectl.run(&["get", group_name, "-o", "name"], ""), "");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_the_same_user_on_whichever_server_answers() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let user = User {
        name: "carol".into(),
        uid: "u-17".into(),
        groups: vec!["devs".into(), "ops".into()],
        ..User::default()
    };
    plane.add_token("secret-token", user);
    let token = KubeconfigUser::Token("secret-token".into());
    let files = [
        ("admin.kubeconfig", admin(&plane)),
        ("carol.kubeconfig", token),
    ];
    let mut users = Vec::new();
    for (file, user) in &files {
        match kubectl(&plane, &agent, file, user) {
            Some(kubectl) => users.push(kubectl),
            None => return,
        }
    }
    let expected = [
        ("kubernetes-admin", &["system:masters"][..]),
        ("carol", &["devs", "ops"][..]),
    ];
    let whoami = move |users: Vec<Kubectl>| {
        for (kubectl, (name, groups)) in users.iter().zip(expected) {
            let text = kubectl.run(&["auth", "whoami"], "");
            assert!(text.contains(name), "{text}");
            for group in groups {
                assert!(text.contains(group), "{text}");
            }
        }
        users
    };
    let users = blocking(move || whoami(users)).await;
    plane.named("cp-a").unwrap().kill().await;
    blocking(move || whoami(users)).await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let asked = |server: &str| {
        let requests = plane.named(server).unwrap().requests();
        // The agent asks the same to prove its servers.
        let own = |name: &str| name == "system:mvp";
        let users = requests.iter().filter(|r| {
            let mut names = r.headers.get_all("x-remote-user").iter();
            !names.any(|name| name.to_str().is_ok_and(own))
        });
        users.filter(|r| r.path() == path).count()
    };
    assert_eq!((asked("cp-a"), asked("cp-b")), (2, 2));
}

async fn client(plane: &ControlPlane, agent: &TestAgent) -> Client {
    let url = format!("https://{}", agent.address);
    let file = plane
        .kubeconfig("kube.kubeconfig", &url, &admin(plane))
        .unwrap();
    let kubeconfig = Kubeconfig::read_from(&file).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

fn map(name: &str, value: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.into());
    map.data = Some([("k".to_owned(), value.to_owned())].into());
    map
}

fn policy_type() -> ApiResource {
    let gvk = GroupVersionKind::gvk(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingAdmissionPolicy",
    );
    ApiResource::from_gvk_with_plural(&gvk, "mutatingadmissionpolicies")
}

#[tokio::test]
async fn kube_creates_reads_updates_patches_and_deletes() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&plane, &agent).await);
    let created = maps
        .create(&PostParams::default(), &map("m", "one"))
        .await
        .unwrap();
    let mut got = maps.get("m").await.unwrap();
    assert_eq!(got, created);
    got.data = map("m", "two").data;
    let updated = maps
        .replace("m", &PostParams::default(), &got)
        .await
        .unwrap();
    assert_ne!(
        updated.metadata.resource_version,
        created.metadata.resource_version
    );
    let stale = maps.replace("m", &PostParams::default(), &got).await;
    assert!(matches!(stale, Err(kube::Error::Api(status)) if status.code == 409));
    let patch = serde_json::json!({"data": {"k": "three"}});
    let patched = maps
        .patch("m", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(patched.data.unwrap()["k"], "three");
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("m").await.unwrap().is_none());
}

#[tokio::test]
async fn kube_lists_in_pages() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let client = client(&plane, &agent).await;
    // Both the local server's type and one that only the peer has: a continue token goes back to where it is understood.
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let policies: Api<DynamicObject> = Api::all_with(client, &policy_type());
    for name in ["a", "b", "c", "d", "e"] {
        maps.create(&PostParams::default(), &map(name, "1"))
            .await
            .unwrap();
        policies
            .create(
                &PostParams::default(),
                &DynamicObject::new(name, &policy_type()),
            )
            .await
            .unwrap();
    }
    let mut pages = Vec::new();
    let mut params = ListParams::default().limit(2);
    loop {
        let list = maps.list(&params).await.unwrap();
        pages.push(list.items.len());
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(pages, [2, 2, 1]);
    let first = policies
        .list(&ListParams::default().limit(3))
        .await
        .unwrap();
    let rest = ListParams::default()
        .limit(3)
        .continue_token(&first.metadata.continue_.unwrap());
    let rest = policies.list(&rest).await.unwrap();
    let names: Vec<_> = first
        .items
        .into_iter()
        .chain(rest.items)
        .map(|p| p.metadata.name.unwrap())
        .collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

/// Names from a watcher's stream until `wanted` comes.
async fn wait_for<K>(
    events: &mut (impl futures_util::Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin),
    wanted: &str,
) where
    K: kube::Resource,
{
    let found = async {
        while let Some(event) = events.next().await {
            // The watcher reports a broken connection, backs off and resumes by itself.
            let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event
            else {
                continue;
            };
            if object.meta().name.as_deref() == Some(wanted) {
                return;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(LIMIT, found)
        .await
        .unwrap_or_else(|_| panic!("{wanted} did not come"));
}

/// The server with an open watch of this path.
fn watched_by<'a>(plane: &'a ControlPlane, path: &str) -> Option<&'a str> {
    let watches = |server: &&mvp_tests::sim::Server| {
        server
            .requests()
            .iter()
            .any(|r| r.path() == path && r.target.contains("watch=true"))
    };
    Some(plane.servers().iter().find(watches)?.name())
}

#[tokio::test]
async fn kube_watcher_survives_the_death_of_the_peer_that_served_it() {
    let (plane, agent) = mixed(&["cp-b", "cp-c"]).await;
    let client = client(&plane, &agent).await;
    let policies: Api<DynamicObject> = Api::all_with(client, &policy_type());
    let create = async |name: &str| {
        policies
            .create(
                &PostParams::default(),
                &DynamicObject::new(name, &policy_type()),
            )
            .await
            .unwrap()
    };
    create("before").await;
    let mut events = watcher(policies.clone(), watcher::Config::default())
        .default_backoff()
        .boxed();
    wait_for(&mut events, "before").await;
    create("during").await;
    wait_for(&mut events, "during").await;

    let server = watched_by(&plane, POLICIES).unwrap();
    plane.named(server).unwrap().kill().await;
    let other = plane
        .servers()
        .iter()
        .find(|s| s.name() != server && s.name() != "cp-a")
        .unwrap();
    create("after").await;
    wait_for(&mut events, "after").await;
    assert!(
        other
            .requests()
            .iter()
            .any(|r| r.path() == POLICIES && r.target.contains("watch=true"))
    );
}

#[tokio::test]
async fn kube_watcher_survives_the_death_of_the_local_server() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&plane, &agent).await);
    let create = async |name: &str| {
        maps.create(&PostParams::default(), &map(name, "1"))
            .await
            .unwrap()
    };
    create("before").await;
    let mut events = watcher(maps.clone(), watcher::Config::default())
        .default_backoff()
        .boxed();
    wait_for(&mut events, "before").await;
    let path = "/api/v1/namespaces/default/configmaps";
    let local = plane.named("cp-a").unwrap();
    // The stream is polled meanwhile, since only then the watcher opens its watch.
    tokio::select! {
        opened = eventually("the watch is open", LIMIT, || async {
            Ok(watched_by(&plane, path) == Some("cp-a"))
        }) => opened.unwrap(),
        event = async { loop { events.try_next().await.unwrap(); } } => event,
    }
    local.kill().await;
    create("after").await;
    wait_for(&mut events, "after").await;
}

#[tokio::test]
async fn kube_uses_a_type_only_the_new_version_has() {
    let (plane, agent) = mixed(&["cp-b"]).await;
    let client = client(&plane, &agent).await;
    let policies: Api<DynamicObject> = Api::all_with(client, &policy_type());
    let mut policy = DynamicObject::new("p", &policy_type());
    policy.data = serde_json::json!({"spec": {"reinvocationPolicy": "Never"}});
    policies
        .create(&PostParams::default(), &policy)
        .await
        .unwrap();
    let got = policies.get("p").await.unwrap();
    assert_eq!(got.data["spec"]["reinvocationPolicy"], "Never");
    policies
        .delete("p", &DeleteParams::default())
        .await
        .unwrap();
    let list = policies.list(&ListParams::default()).await.unwrap();
    assert!(list.items.is_empty());
    let local = plane.named("cp-a").unwrap().requests();
    assert!(local.iter().all(|r| !r.path().starts_with(POLICIES)));
}
