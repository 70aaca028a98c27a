//! Law 4: the agent is what kube-apiserver's manifest says now, or says that it is not.

use std::path::{Path, PathBuf};

use mvp::config::{self, Overrides};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{SOON, admin};
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::ServerSpec;
use mvp_tests::sim::pki::{KubeconfigUser, Pki};
use serde_json::{Value, json};

/// A node as kubeadm makes it, with an agent that reads the manifest.
struct Node {
    plane: ControlPlane,
    dir: tempfile::TempDir,
}

impl Node {
    async fn new() -> Self {
        let plane = ControlPlane::builder().server(ServerSpec::new("cp-a", 36));
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
        ] {
            overrides.set(key, &value, "--set");
        }
        let config = config::from_manifest(&self.path(), &overrides).unwrap();
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
    let client = agent.http1(&node.plane, admin(&node.plane)).await.unwrap();
    let answer = client.get("/api/v1/namespaces", &[]).await.unwrap();
    assert_eq!(
        answer.status, 401,
        "the administrator is of no CA that is known"
    );

    node.write(&node.ca(), node.port(), &[]);
    eventually("the new CA counts", SOON, || async {
        let client = agent.http1(&node.plane, admin(&node.plane)).await?;
        Ok(client.get("/api/v1/namespaces", &[]).await?.status == 200)
    })
    .await
    .unwrap();
    says(&agent, "one change was taken over").await;
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
