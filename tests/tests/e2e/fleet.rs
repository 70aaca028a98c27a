//! The agents of all nodes: `mvp check upgrade`, `mvp check canary` and `mvp top` with `--cluster`, by a `kubectl` that runs the agent's
//! program as one would in its pod, and by the agents' sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::fixtures::SOON;
use mvp_tests::kubectl::Kubectl;
use mvp_tests::rbac;
use mvp_tests::sim::api::kubelet::{Program, provide};
use mvp_tests::sim::pki::KubeconfigUser;
use mvp_tests::sim::store::Key;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");

/// A control plane of two nodes, each with its agent.
struct Nodes {
    plane: ControlPlane,
    agents: Vec<ChildAgent>,
    dir: TempDir,
}

impl Nodes {
    async fn start(versions: [u8; 2]) -> Self {
        let specs = ["cp-a", "cp-b"].into_iter().zip(versions);
        let specs = specs.map(|(name, minor)| ServerSpec::new(name, minor));
        let plane = ControlPlane::builder()
            .servers(specs)
            .start()
            .await
            .unwrap();
        rbac::apply(&plane).unwrap();
        let mut agents = Vec::new();
        for name in ["cp-a", "cp-b"] {
            let agent = ChildAgent::start(AGENT, &plane, name, |_| {}).await;
            agents.push(agent.unwrap());
        }
        let dir = tempfile::tempdir().unwrap();
        Self { plane, agents, dir }
    }

    /// What stands in for `kubectl`: it lists a pod for each node, and runs in each what it is told to.
    fn kubectl(&self) -> PathBuf {
        let pod = |name: &str| {
            json!({
                "metadata": {"name": format!("mvp-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"nodeName": name}, "status": {"phase": "Running"},
            })
        };
        let pods = json!({"items": [pod("cp-a"), pod("cp-b")]});
        std::fs::write(self.dir.path().join("pods"), pods.to_string()).unwrap();
        for (agent, name) in self.agents.iter().zip(["cp-a", "cp-b"]) {
            let link = self.dir.path().join(format!("mvp-{name}"));
            if !link.exists() {
                std::os::unix::fs::symlink(&agent.socket, &link).unwrap();
            }
        }
        let folder = self.dir.path().display();
        let script = format!(
            "#!/bin/sh\nset -e\ncase \"$*\" in\n\
             '--request-timeout=10s -n kube-system get pods -o json -l app.kubernetes.io/name=mvp') exec cat {folder}/pods ;;\n\
             '-n kube-system exec mvp-cp-'?' -c mvp -- /mvp '*) pod=$4; shift 8; exec {AGENT} \"$@\" --admin unix:{folder}/$pod ;;\n\
             *) echo \"what is $*\" >&2; exit 1 ;;\nesac\n"
        );
        let path = self.dir.path().join("kubectl");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// The real kubectl with a kubeconfig of these servers, which run the agents' pods: each has the agent's program, as its image does.
    /// `None` where there is none.
    async fn real_kubectl(&self) -> Option<PathBuf> {
        let server = self.plane.server(0).addr();
        let user = KubeconfigUser::Certificate(self.plane.pki().admin().unwrap());
        let url = format!("https://{server}");
        let kubeconfig = self.plane.kubeconfig("fleet.conf", &url, &user).unwrap();
        let kubectl = Kubectl::find(&kubeconfig)?;
        for (agent, name) in self.agents.iter().zip(["cp-a", "cp-b"]) {
            let pod = format!("mvp-{name}");
            let object = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": pod, "namespace": "kube-system", "uid": format!("{}-{pod}", self.dir.path().display()),
                    "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app.kubernetes.io/name": "mvp"},
                },
                "spec": {"nodeName": name, "containers": [{"name": "mvp", "image": "mvp:0.1.0"}]},
                "status": {"phase": "Running"},
            });
            let socket = format!("unix:{}", agent.socket.display());
            let program = Program {
                path: AGENT.into(),
                environment: vec![("MVP_ADMIN".to_owned(), socket)],
            };
            provide(object["metadata"]["uid"].as_str().unwrap(), "/mvp", program);
            let key = Key::new("", "pods", "kube-system", &pod);
            self.plane.store().create(&key, object).await.unwrap();
        }
        // A program of one word, as an operator's is.
        let command = kubectl.command(&[]);
        let words = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        let words: Vec<_> = words
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let script = format!(
            "#!/bin/sh\nexport HOME={}\nexec {} \"$@\"\n",
            self.dir.path().display(),
            words.join(" ")
        );
        let path = self.dir.path().join("real-kubectl");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(path)
    }

    /// `mvp check upgrade` on the first node.
    async fn check(&self, kubectl: &Path, within: &str) -> (Option<i32>, Vec<Value>) {
        let mut command = mvp(&["check", "upgrade", "--manifest", "/nowhere", "-o", "json"]);
        command.args(["--within", within, "--cluster", "--kubectl"]);
        command
            .arg(kubectl)
            .arg("--admin")
            .arg(&self.agents[0].socket);
        let output = run(command).await;
        assert_eq!(text(&output.stderr), "");
        let findings = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), findings)
    }

    /// Until it ends so, with this outcome of this subject.
    async fn until_checked(&self, within: &str, code: i32, subject: &str, outcome: &str) -> String {
        let kubectl = self.kubectl();
        let detail = std::sync::Mutex::new(String::new());
        eventually(subject, SOON, || async {
            let (ended, findings) = self.check(&kubectl, within).await;
            let mut of = findings.iter();
            let found = of.find(|one| one["subject"] == subject && one["outcome"] == outcome);
            anyhow::ensure!(ended == Some(code) && found.is_some(), "{findings:#?}");
            *detail.lock().unwrap() = found.unwrap()["detail"].to_string();
            Ok(true)
        })
        .await
        .unwrap();
        detail.into_inner().unwrap()
    }
}

fn mvp(args: &[&str]) -> Command {
    let mut command = Command::new(AGENT);
    command
        .args(args)
        .env_remove("RUST_LOG")
        .env_remove("MVP_ADMIN");
    command
}

/// Off this runtime, which has the servers to run.
async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn check_upgrade_asks_the_agents_of_all_nodes() {
    let mut nodes = Nodes::start([35, 35]).await;
    nodes.until_checked("1h", 0, "agent on cp-b", "ok").await;
    let detail = nodes.until_checked("1h", 0, "canary on cp-b", "ok").await;
    assert!(detail.contains("to each server"), "{detail}");
    // A test's certificates are valid for a day: those of every node, and those that the servers show.
    let file = nodes.plane.pki().path("apiserver.crt");
    let subject = format!("cp-b: {}", file.display());
    nodes.until_checked("168h", 2, &subject, "mend").await;
    let detail = nodes.until_checked("168h", 2, "cp-b", "mend").await;
    assert!(detail.contains("the certificate that it shows"), "{detail}");
    nodes.kubectl();
    drop(nodes.agents.pop());
    let detail = nodes.until_checked("1h", 2, "agent on cp-b", "mend").await;
    assert!(detail.contains("it cannot be asked: "), "{detail}");
    nodes.until_checked("1h", 2, "cp-b", "look").await;
}

#[tokio::test]
async fn a_canary_goes_through_the_agent_to_a_server_and_says_where_it_does_not() {
    let nodes = Nodes::start([35, 36]).await;
    let until = |code: i32, way: &'static str, state: &'static str| {
        let nodes = &nodes;
        async move {
            eventually(way, SOON, || async {
                let mut command = mvp(&["check", "canary", "--admin"]);
                command.arg(&nodes.agents[0].socket);
                let output = run(command).await;
                let shown = text(&output.stdout);
                anyhow::ensure!(output.status.code() == Some(code), "{output:?}");
                let mut rows = shown.lines().filter_map(|line| line.strip_prefix(way));
                let row = rows.find(|rest| rest.trim_start().starts_with(state));
                anyhow::ensure!(row.is_some(), "{shown}");
                Ok(true)
            })
            .await
            .unwrap();
        }
    };
    const THROUGH: &str = "client -> agent -> a server ";
    until(0, THROUGH, "ok").await;
    until(0, "agent -> cp-b ", "ok").await;
    // It was a client's request: the server beside the agent says who asked, and was asked by the agent.
    let reviews = mvp::identity::proof::REVIEWS;
    let asked = |name: &str| {
        let requests = nodes.plane.named(name).unwrap().requests();
        let mut of = requests.iter().filter(|one| one.target == reviews);
        of.any(|one| one.headers.contains_key("x-forwarded-for"))
    };
    assert!(asked("cp-a") || asked("cp-b"));
    nodes.plane.server(0).refuse_front_proxy(true);
    until(2, THROUGH, "failed").await;
    nodes.plane.server(0).refuse_front_proxy(false);
    until(0, THROUGH, "ok").await;
}

#[tokio::test]
async fn a_canary_is_sent_for_operators_only() {
    let nodes = Nodes::start([35, 35]).await;
    let (status, body) = nodes.agents[0].admin_get("/mvp/canary").await.unwrap();
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("admin.socket"), "{body}");
}

#[tokio::test]
async fn top_shows_the_agents_of_all_nodes() {
    let mut nodes = Nodes::start([35, 36]).await;
    let kubectl = nodes.kubectl();
    let mut sockets = Vec::new();
    for (agent, name) in nodes.agents.iter().zip(["cp-a", "cp-b"]) {
        sockets.push(format!("{name}=unix:{}", agent.socket.display()));
    }
    let by_kubectl = || {
        let mut command = mvp(&["top", "--once", "--cluster", "--kubectl"]);
        command.arg(&kubectl);
        command
    };
    let by_socket = || {
        let mut command = mvp(&["top", "--once"]);
        for socket in &sockets {
            command.args(["--agent", socket]);
        }
        command
    };
    let until = |command: Command, parts: [&'static str; 3]| {
        let command = std::sync::Mutex::new(command);
        async move {
            eventually("both are shown", SOON, || async {
                let mut again = {
                    let command = command.lock().unwrap();
                    let mut again = Command::new(command.get_program());
                    again.args(command.get_args()).env_remove("MVP_ADMIN");
                    again
                };
                again.env_remove("RUST_LOG");
                let output = run(again).await;
                let shown = text(&output.stdout);
                anyhow::ensure!(output.status.success(), "{output:?}");
                for part in parts {
                    anyhow::ensure!(shown.contains(part), "{part} is not in\n{shown}");
                }
                Ok(true)
            })
            .await
            .unwrap();
        }
    };
    let all = ["2 agents, 0 silent; servers v1.35", "\ncp-a  ", "\ncp-b  "];
    until(by_kubectl(), all).await;
    until(by_socket(), all).await;
    drop(nodes.agents.pop());
    let one = ["2 agents, 1 silent", "\ncp-a  ", "no agent answers at"];
    until(by_kubectl(), one).await;
    until(by_socket(), one).await;
}

/// No stand-in: kubectl itself lists the pods and runs the agent's program in each, by whatever protocol it speaks with the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_kubectl_asks_every_agent() {
    let nodes = Nodes::start([35, 36]).await;
    let Some(kubectl) = nodes.real_kubectl().await else {
        return;
    };
    eventually("both are shown", SOON, || async {
        let mut top = mvp(&["top", "--once", "--cluster", "--kubectl"]);
        top.arg(&kubectl);
        let output = run(top).await;
        let shown = text(&output.stdout);
        anyhow::ensure!(output.status.success(), "{output:?}");
        for part in ["2 agents, 0 silent; servers v1.35", "\ncp-a  ", "\ncp-b  "] {
            anyhow::ensure!(shown.contains(part), "{part} is not in\n{shown}");
        }
        Ok(true)
    })
    .await
    .unwrap();
    let (code, findings) = nodes.check(&kubectl, "1h").await;
    let outcome = |subject: &str| {
        let mut of = findings.iter();
        of.find(|one| one["subject"] == subject)
            .map(|one| one["outcome"].clone())
    };
    for subject in ["agent on cp-b", "canary on cp-b"] {
        assert_eq!(
            outcome(subject),
            Some(json!("ok")),
            "{code:?}: {findings:#?}"
        );
    }
    // What the server saw of it: pods/exec of every pod, as the administrator.
    let requests = nodes.plane.server(0).requests();
    let mut of = requests.iter();
    assert!(of.any(|one| one.target.contains("/pods/mvp-cp-b/exec?")));
}
