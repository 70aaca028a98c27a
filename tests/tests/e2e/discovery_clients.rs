//! What people use for discovery, through a rolling upgrade of three servers with an agent each: whatever any server had,
//! once it was seen everywhere, no client ever misses again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::Discovery;
use mvp_tests::agent::eventually;
use mvp_tests::client::Client;
use mvp_tests::facts::{self, Facts, V2};
use mvp_tests::fixtures::{SOON, admin, spec};
use mvp_tests::fleet::Fleet;
use mvp_tests::kubectl::Kubectl;
use mvp_tests::python::Python;
use mvp_tests::sim::pki::KubeconfigUser;
use serde_json::Value;
use tokio::task::JoinSet;

const POLICIES: &str = "mutatingadmissionpolicies.admissionregistration.k8s.io";
const AGGREGATED: [(&str, &str); 1] = [("accept", V2)];

/// What all clients must see by now, and how far they are.
#[derive(Default)]
struct Run {
    confirmed: Mutex<Facts>,
    stop: AtomicBool,
    /// Rounds of each client.
    rounds: Mutex<Vec<Arc<AtomicUsize>>>,
}

impl Run {
    /// Runs rounds of one client until the end, each against what was confirmed before it began.
    fn repeat(&self, mut round: impl FnMut(&Facts)) {
        let count = Arc::new(AtomicUsize::new(0));
        self.rounds.lock().unwrap().push(count.clone());
        while !self.stop.load(Ordering::Relaxed) {
            let confirmed = self.confirmed.lock().unwrap().clone();
            round(&confirmed);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until every client has done a whole round that began after this call.
    async fn whole_round(&self, clients: usize) {
        let counts = || -> Vec<usize> {
            let rounds = self.rounds.lock().unwrap();
            rounds
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .collect()
        };
        eventually("all clients are at work", 4 * SOON, || async {
            Ok(counts().len() == clients)
        })
        .await
        .unwrap();
        let before = counts();
        eventually("a round of every client", 4 * SOON, || async {
            Ok(counts()
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + 2))
        })
        .await
        .unwrap();
    }
}

/// Lets the clients go when the test fails: threads cannot be cancelled, and the runtime waits for them.
struct StopWhenDropped(Arc<Run>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// `GROUP/VERSION RESOURCE` of everything, without subresources.
fn resources(facts: &Facts) -> BTreeSet<String> {
    let kinds = facts
        .iter()
        .filter_map(|fact| Some(fact.split_once(" is ")?.0));
    let main = kinds.filter(|one| {
        one.split_once(' ')
            .is_some_and(|(_, name)| !name.contains('/'))
    });
    main.map(str::to_owned).collect()
}

/// `RESOURCE.GROUP`, as kubectl names them.
fn qualified(facts: &Facts) -> BTreeSet<String> {
    let names = resources(facts);
    let names = names.iter().filter_map(|one| one.split_once(' '));
    names
        .map(|(version, name)| match version.split_once('/') {
            Some((group, _)) => format!("{name}.{group}"),
            None => name.to_owned(),
        })
        .collect()
}

fn assert_holds(seen: &BTreeSet<String>, wanted: &BTreeSet<String>, who: &str) {
    let missing: Vec<_> = wanted.difference(seen).collect();
    assert!(missing.is_empty(), "{who} misses {missing:?}");
}

async fn get(client: &Client, target: &str, headers: &[(&str, &str)]) -> Value {
    let answer = client.get(target, headers).await.unwrap();
    assert_eq!(answer.status, 200, "GET {target}: {}", answer.text());
    answer.json()
}

async fn aggregated(client: &Client) -> Facts {
    let mut facts = Facts::new();
    for root in ["/api", "/apis"] {
        facts.extend(facts::facts(&get(client, root, &AGGREGATED).await).unwrap());
    }
    facts
}

/// As client-go's legacy ServerGroupsAndResources: every group, then every version of it.
async fn legacy(client: &Client) -> Facts {
    let mut facts = facts::facts(&get(client, "/api/v1", &[]).await).unwrap();
    for group_version in facts::facts(&get(client, "/apis", &[]).await).unwrap() {
        let list = get(client, &format!("/apis/{group_version}"), &[]).await;
        facts.extend(facts::facts(&list).unwrap());
        facts.insert(group_version);
    }
    facts.insert("v1".to_owned());
    facts
}

/// Lists what can be deleted in a namespace, as its deletion does before it believes that nothing is left.
async fn list_deletable(client: &Client, found: &Facts) {
    for fact in found.iter().filter(|fact| fact.ends_with(" Namespaced")) {
        let (version, rest) = fact.split_once(' ').unwrap();
        let name = rest.split_once(' ').unwrap().0;
        let has = |verb: &str| found.contains(&format!("{version} {name} {verb}"));
        if name.contains('/') || !has("delete") || !has("list") {
            continue;
        }
        let root = if version.contains('/') { "apis" } else { "api" };
        get(
            client,
            &format!("/{root}/{version}/namespaces/default/{name}?limit=1"),
            &[],
        )
        .await;
    }
}

/// The set that deletion of a namespace finds, in both forms.
async fn controller(client: &Client, confirmed: &Facts, node: &str) {
    let wanted: BTreeSet<_> = resources(confirmed);
    for (form, found) in [
        ("aggregated", aggregated(client).await),
        ("legacy", legacy(client).await),
    ] {
        assert_holds(
            &resources(&found),
            &wanted,
            &format!("{form} discovery through {node}"),
        );
        list_deletable(client, &found).await;
    }
}

async fn kube_discovery(client: &kube::Client, confirmed: &Facts, node: &str) {
    let names = |discovery: Discovery| -> BTreeSet<String> {
        let groups = discovery.groups();
        groups
            .flat_map(|group| {
                group
                    .versions()
                    .flat_map(|version| group.versioned_resources(version))
                    .collect::<Vec<_>>()
            })
            .map(|(resource, _)| format!("{} {}", resource.api_version, resource.plural))
            .collect()
    };
    let wanted = resources(confirmed);
    let run = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .unwrap();
    assert_holds(
        &names(run),
        &wanted,
        &format!("kube's run_aggregated through {node}"),
    );
    let run = Discovery::new(client.clone()).run().await.unwrap();
    assert_holds(&names(run), &wanted, &format!("kube's run through {node}"));
}

fn kubectl_round(kubectl: &Kubectl, confirmed: &Facts, node: &str) {
    let lines = |args: &[&str]| -> BTreeSet<String> {
        kubectl.run(args, "").lines().map(str::to_owned).collect()
    };
    let who = |command: &str| format!("kubectl {command} through {node}");
    assert_holds(
        &lines(&["api-resources", "-o", "name"]),
        &qualified(confirmed),
        &who("api-resources"),
    );
    let versions = confirmed
        .iter()
        .filter(|fact| !fact.contains(' '))
        .cloned()
        .collect();
    assert_holds(&lines(&["api-versions"]), &versions, &who("api-versions"));
    kubectl.run(&["get", "cm,deploy"], "");
    kubectl.run(&["get", "deployments.v1.apps"], "");
    assert!(
        kubectl
            .run(&["explain", "deployments"], "")
            .contains("Deployment")
    );
    if qualified(confirmed).contains(POLICIES) {
        assert!(
            kubectl
                .run(&["explain", POLICIES], "")
                .contains("MutatingAdmissionPolicy")
        );
        let policy = format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicy\nmetadata: {{name: {node}}}\n\
             spec: {{reinvocationPolicy: Never}}\n"
        );
        kubectl.run(&["apply", "-f", "-"], &policy);
        kubectl.run(&["get", "mutatingadmissionpolicies", node], "");
        kubectl.run(&["delete", POLICIES, node], "");
    }
}

/// The administrator's, for the agent of a server.
fn kubeconfig(fleet: &Fleet, number: usize) -> PathBuf {
    let user = KubeconfigUser::Certificate(fleet.plane.pki().admin().unwrap());
    let url = format!("https://{}", fleet.agents[number].address);
    let name = format!("{}.kubeconfig", fleet.plane.server(number).name());
    fleet.plane.kubeconfig(&name, &url, &user).unwrap()
}

async fn kube_client(file: &Path) -> kube::Client {
    let config = Kubeconfig::read_from(file).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await;
    kube::Client::try_from(config.unwrap()).unwrap()
}

/// Starts the clients of one agent and says how many they are.
async fn start_clients(
    fleet: &Fleet,
    number: usize,
    run: &Arc<Run>,
    tasks: &mut JoinSet<()>,
) -> usize {
    let (agent, node) = (
        &fleet.agents[number],
        fleet.plane.server(number).name().to_owned(),
    );
    let file = kubeconfig(fleet, number);
    let kube = kube_client(&file).await;
    let client = agent
        .http2(&fleet.plane, admin(&fleet.plane))
        .await
        .unwrap();
    let runtime = tokio::runtime::Handle::current();
    let mut start = |mut round: Box<dyn FnMut(&Facts) + Send>| {
        let shared = run.clone();
        tasks.spawn_blocking(move || shared.repeat(&mut round));
    };
    let (name, handle) = (node.clone(), runtime.clone());
    start(Box::new(move |confirmed| {
        handle.block_on(controller(&client, confirmed, &name))
    }));
    let name = node.clone();
    start(Box::new(move |confirmed| {
        runtime.block_on(kube_discovery(&kube, confirmed, &name))
    }));
    let mut clients = 2;
    if let Some(kubectl) = Kubectl::find(&file) {
        let name = node.clone();
        start(Box::new(move |confirmed| {
            kubectl_round(&kubectl, confirmed, &name)
        }));
        clients += 1;
    }
    let python = tokio::task::spawn_blocking(move || Python::start("discover.py", &file))
        .await
        .unwrap();
    if let Some(mut python) = python {
        start(Box::new(move |confirmed| {
            let seen = python.discover().unwrap().into_iter().collect();
            assert_holds(
                &seen,
                &resources(confirmed),
                &format!("Python's dynamic client through {node}"),
            );
        }));
        clients += 1;
    }
    clients
}

/// Waits until every agent shows what all servers together have; from then on nobody may miss it.
async fn confirm(fleet: &Fleet, run: &Run) {
    let mut union = Facts::new();
    for root in ["/api", "/apis"] {
        union.extend(fleet.union(root, &AGGREGATED).await.unwrap());
    }
    eventually("every agent shows it", SOON, || async {
        for client in &fleet.clients {
            if !aggregated(client).await.is_superset(&union) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
    .unwrap();
    run.confirmed.lock().unwrap().extend(union);
}

async fn upgrade(fleet: &Fleet, run: &Run, clients: usize) {
    confirm(fleet, run).await;
    run.whole_round(clients).await;
    for (number, server) in fleet.plane.servers().iter().enumerate() {
        server.restart(36).await.unwrap();
        fleet.knows(server).await;
        if number == 0 {
            confirm(fleet, run).await;
            let confirmed = run.confirmed.lock().unwrap().clone();
            assert!(qualified(&confirmed).contains(POLICIES));
        }
        run.whole_round(clients).await;
    }
    run.stop.store(true, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_misses_a_type_in_a_rolling_upgrade() {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 35), spec(b'c', 35)]).await;
    let run = Arc::new(Run::default());
    let _stop = StopWhenDropped(run.clone());
    let mut tasks = JoinSet::new();
    let mut clients = 0;
    for number in 0..fleet.agents.len() {
        clients += start_clients(&fleet, number, &run, &mut tasks).await;
    }
    // A client that fails ends the test at once.
    let failure = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                return error;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        error = failure => std::panic::resume_unwind(error.into_panic()),
        () = upgrade(&fleet, &run, clients) => {}
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn kube_resolves_the_types_of_every_server_through_every_agent() {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 36)]).await;
    for number in 0..2 {
        let client = kube_client(&kubeconfig(&fleet, number)).await;
        let aggregated = Discovery::new(client.clone()).run_aggregated();
        let legacy = Discovery::new(client).run();
        for discovery in [aggregated.await.unwrap(), legacy.await.unwrap()] {
            for (group, kind, plural) in [
                ("apps", "Deployment", "deployments"),
                // Only 1.36 has it.
                (
                    "admissionregistration.k8s.io",
                    "MutatingAdmissionPolicy",
                    "mutatingadmissionpolicies",
                ),
            ] {
                let gvk = GroupVersionKind::gvk(group, "v1", kind);
                let (resource, capabilities) = discovery.resolve_gvk(&gvk).unwrap();
                assert_eq!(resource.plural, plural);
                assert!(capabilities.supports_operation("watch"));
            }
        }
    }
}
