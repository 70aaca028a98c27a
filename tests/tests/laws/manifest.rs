//! Law 4: the agent is what kube-apiserver's manifest says now, or says that it is not.

use std::path::{Path, PathBuf};

use mvp::config::Overrides;
use mvp::identity::proof::REVIEWS;
use mvp::preflight;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::connect_tls;
use mvp_tests::fixtures::{NEVER, SOON, admin};
use mvp_tests::rbac;
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::ServerSpec;
use mvp_tests::sim::api::authn::HeaderNames;
use mvp_tests::sim::pki::{ClientAuth, KubeconfigUser, Pki};
use serde_json::{Value, json};

/// A node as kubeadm makes it, with an agent that reads the manifest.
struct Node {
    plane: ControlPlane,
    dir: tempfile::TempDir,
}

impl Node {
    async fn new() -> Self {
        Self::with(ServerSpec::new("cp-a", 36)).await
    }

    async fn with(spec: ServerSpec) -> Self {
        let plane = ControlPlane::builder().server(spec);
        let plane = plane.start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
        let url = format!("https://{}", plane.server(0).addr());
        let kubeconfig = plane.kubeconfig("admin.conf", &url, &user).unwrap();
        std::fs::copy(kubeconfig, dir.path().join("admin.conf")).unwrap();
        Self { plane, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("manifests/kube-apiserver.yaml")
    }

    /// Writes the manifest as an editor or a tool does: a new file in the old one's place.
    fn write(&self, client_ca: &Path, port: u16, more: &[&str]) {
        let pki = |name: &str| self.plane.pki().path(name).display().to_string();
        let mut command = vec![
            "kube-apiserver".to_owned(),
            format!("--bind-address={}", self.plane.server(0).addr().ip()),
            format!("--secure-port={port}"),
            format!("--client-ca-file={}", client_ca.display()),
            format!("--peer-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!(
                "--requestheader-client-ca-file={}",
                pki("front-proxy-ca.crt")
            ),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
        ];
        command.extend(more.iter().map(|flag| (*flag).to_owned()));
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube-apiserver", "namespace": "kube-system"},
            "spec": {"containers": [{"name": "kube-apiserver", "command": command}]},
        });
        let new = self.dir.path().join("manifests/.new");
        std::fs::write(&new, pod.to_string()).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    async fn agent(&self) -> TestAgent {
        let free = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            socket.local_addr().unwrap().to_string()
        };
        let mut overrides = Overrides::default();
        for (key, value) in [
            ("node", "cp-a".to_owned()),
            ("listen", free()),
            ("admin.listen", free()),
            ("relay.mode", "off".to_owned()),
            ("inspect", "always".to_owned()),
            // So that what waits is the server, and not the agent for it.
            ("discovery.timeout", "1h".to_owned()),
        ] {
            overrides.set(key, &value, "--set");
        }
        let config = preflight::from_manifest(&self.path(), &overrides).unwrap();
        let agent = TestAgent::of(config).unwrap();
        agent.wait_ready().await.unwrap();
        agent
    }

    fn port(&self) -> u16 {
        self.plane.server(0).addr().port()
    }

    fn ca(&self) -> PathBuf {
        self.plane.pki().path("ca.crt")
    }
}

async fn follows(agent: &TestAgent) -> String {
    let status: Value = serde_json::from_str(&agent.admin_get("/status").await.unwrap().1).unwrap();
    status["manifest"].as_str().unwrap().to_owned()
}

async fn says(agent: &TestAgent, what: &str) {
    eventually("the status says so", SOON, || async {
        let line = follows(agent).await;
        anyhow::ensure!(line.contains(what), "{line}");
        Ok(true)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_changed_client_ca_counts_on_open_connections() {
    let node = Node::new().await;
    let other = tempfile::tempdir().unwrap();
    let other = Pki::generate(other.path()).unwrap();
    node.write(&other.path("ca.crt"), node.port(), &[]);
    let agent = node.agent().await;
    assert_eq!(follows(&agent).await, "followed");
    let http1 = async || agent.http1(&node.plane, admin(&node.plane)).await.unwrap();
    let client = http1().await;
    let answer = client.get("/api/v1/namespaces", &[]).await.unwrap();
    assert_eq!(
        answer.status, 401,
        "the administrator is of no CA that is known"
    );
    assert_eq!(answer.headers["connection"], "close", "as after every 401");

    // A connection that was made before the change, and on which nothing was asked yet.
    let open = http1().await;
    node.write(&node.ca(), node.port(), &[]);
    says(&agent, "one change was taken over").await;
    for _ in 0..2 {
        let answer = open.get("/api/v1/namespaces", &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // And back: whom the CA does not vouch for any more is nobody from the next request on, on the same connection.
    node.write(&other.path("ca.crt"), node.port(), &[]);
    says(&agent, "2 changes were taken over").await;
    let answer = open.get("/api/v1/namespaces", &[]).await.unwrap();
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(agent.metric("mvp_restart_needed").await.unwrap(), 0.0);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_used_changes_nothing() {
    let node = Node::new().await;
    node.write(&node.ca(), node.port(), &[]);
    let agent = node.agent().await;
    let client = agent.http2(&node.plane, admin(&node.plane)).await.unwrap();
    node.write(&node.dir.path().join("none.crt"), node.port(), &[]);
    says(
        &agent,
        "cannot be used, and the configuration of before stays: clientCAFile",
    )
    .await;
    let answer = client.get("/api/v1/namespaces", &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    // The file comes late: it is tried again although the manifest is the same.
    std::fs::copy(node.ca(), node.dir.path().join("none.crt")).unwrap();
    says(&agent, "one change was taken over").await;
}

#[tokio::test]
async fn what_cannot_change_while_running_is_said_until_it_is_undone() {
    let node = Node::new().await;
    node.write(&node.ca(), node.port(), &[]);
    let agent = node.agent().await;
    let client = agent.http2(&node.plane, admin(&node.plane)).await.unwrap();
    let port = if node.port() > 30_000 {
        node.port() - 1
    } else {
        node.port() + 1
    };
    node.write(&node.ca(), port, &["--request-timeout=2m"]);
    says(&agent, "a restart is needed: local.url").await;
    assert_eq!(agent.metric("mvp_restart_needed").await.unwrap(), 1.0);
    let answer = client.get("/api/v1/namespaces", &[]).await.unwrap();
    assert_eq!(
        answer.status, 200,
        "nobody else serves this agent's clients"
    );
    node.write(&node.ca(), node.port(), &["--request-timeout=2m"]);
    says(&agent, "followed").await;
    assert_eq!(agent.metric("mvp_restart_needed").await.unwrap(), 0.0);
}

#[tokio::test]
async fn a_changed_request_timeout_counts_for_new_requests() {
    const SLOW: &str = "/api/v1/namespaces/slow";
    let node = Node::new().await;
    node.write(&node.ca(), node.port(), &["--request-timeout=10m"]);
    let agent = node.agent().await;
    let client = agent.http2(&node.plane, admin(&node.plane)).await.unwrap();
    node.plane.server(0).faults_only_on(SLOW);
    node.plane.server(0).slow(NEVER);
    node.write(&node.ca(), node.port(), &["--request-timeout=1s"]);
    says(&agent, "one change was taken over").await;
    // With the timeout of before it would take ten minutes.
    let answer = tokio::time::timeout(2 * SOON, client.get(SLOW, &[])).await;
    let answer = answer.expect("the new timeout counts").unwrap();
    assert_eq!(answer.status, 504, "{}", answer.text());
}

#[tokio::test]
async fn a_changed_serving_certificate_is_shown_to_new_connections() {
    let node = Node::new().await;
    node.write(&node.ca(), node.port(), &[]);
    let agent = node.agent().await;
    let client = agent.http2(&node.plane, admin(&node.plane)).await.unwrap();
    let other = tempfile::tempdir().unwrap();
    let other = Pki::generate(other.path()).unwrap();
    let flags = ["crt", "key"].map(|end| other.path(&format!("apiserver.{end}")));
    let [cert, key] = flags.each_ref().map(|path| path.display());
    let (cert, key) = (
        format!("--tls-cert-file={cert}"),
        format!("--tls-private-key-file={key}"),
    );
    node.write(&node.ca(), node.port(), &[&cert, &key]);
    says(&agent, "one change was taken over").await;
    let shows = async |pki: &Pki| {
        let tls = pki.client_config(ClientAuth::None, &[]).unwrap().into();
        connect_tls(agent.address, &tls, &[b"h2"], "kubernetes").await
    };
    assert!(shows(&other).await.is_ok());
    assert!(shows(node.plane.pki()).await.is_err());
    let answer = client.get("/api/v1/namespaces", &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(agent.metric("mvp_restart_needed").await.unwrap(), 0.0);
}

/// The server believes both; the manifest first names the one, then the other.
#[tokio::test]
async fn changed_header_names_count_for_users_and_for_the_agent_itself() {
    let names = |one: &str, other: &str| vec![one.to_owned(), other.to_owned()];
    let both = HeaderNames {
        users: names("X-Remote-User", "X-Corp-User"),
        groups: names("X-Remote-Group", "X-Corp-Group"),
        extra_prefixes: names("X-Remote-Extra-", "X-Corp-Extra-"),
        ..HeaderNames::default()
    };
    let node = Node::with(ServerSpec::new("cp-a", 36).header_names(both)).await;
    node.write(&node.ca(), node.port(), &[]);
    let agent = node.agent().await;
    let client = agent.http2(&node.plane, admin(&node.plane)).await.unwrap();
    let server = node.plane.server(0);
    let asserted_by = |header: &str, target: &str| {
        let requests = server.requests();
        let mut of = requests.iter().filter(|request| request.target == target);
        of.any(|request| request.headers.contains_key(header))
    };
    let namespaces = "/api/v1/namespaces";
    assert_eq!(client.get(namespaces, &[]).await.unwrap().status, 200);
    assert!(asserted_by("x-remote-user", namespaces) && !asserted_by("x-corp-user", namespaces));
    let changed = [
        "--requestheader-username-headers=X-Corp-User",
        "--requestheader-group-headers=X-Corp-Group",
        "--requestheader-extra-headers-prefix=X-Corp-Extra-",
    ];
    node.write(&node.ca(), node.port(), &changed);
    says(&agent, "one change was taken over").await;
    assert_eq!(client.get(namespaces, &[]).await.unwrap().status, 200);
    assert!(asserted_by("x-corp-user", namespaces));
    // What it asks for itself, and proves with: a server that believes the new names only must not be held to refuse the agent.
    for target in [REVIEWS, "/apis"] {
        eventually(
            "the agent speaks of itself by the new names",
            SOON,
            || async { Ok(asserted_by("x-corp-user", target)) },
        )
        .await
        .unwrap();
    }
    assert_eq!(agent.admin_get("/readyz").await.unwrap().0, 200);
}

/// A header that only a server believes is deleted from requests after any change of the manifest as before it, and not only once the
/// server was asked again.
#[tokio::test]
async fn what_servers_believe_is_not_forgotten_with_a_change() {
    const PUBLISHED: &str =
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let custom = HeaderNames {
        groups: vec!["X-Remote-Group".to_owned(), "X-Custom-Group".to_owned()],
        ..HeaderNames::default()
    };
    let node = Node::with(ServerSpec::new("cp-a", 36).header_names(custom)).await;
    rbac::apply(&node.plane).unwrap();
    node.write(&node.ca(), node.port(), &[]);
    let agent = node.agent().await;
    let alice = ClientAuth::Certificate(node.plane.pki().alice().unwrap());
    let client = agent.http2(&node.plane, alice).await.unwrap();
    let secrets = "/api/v1/namespaces/default/secrets";
    let sent = [("x-custom-group", "system:masters")];
    let answer = client.get(secrets, &sent).await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    // A proof that is under way tells nothing new.
    node.plane.server(0).faults_only_on(PUBLISHED);
    node.plane.server(0).slow(NEVER);
    node.write(&node.ca(), node.port(), &["--request-timeout=2m"]);
    says(&agent, "one change was taken over").await;
    let answer = client.get(secrets, &sent).await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    let requests = node.plane.server(0).requests();
    let mut received = requests.iter().filter(|r| r.target == secrets);
    assert!(received.all(|request| !request.headers.contains_key("x-custom-group")));
}
