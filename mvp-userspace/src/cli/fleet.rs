//! The agents of all nodes, and how each of them is reached: by `kubectl exec` into its pod, or by its own port or socket.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{self, AdminAt, Question};
use crate::admin::{CanaryView, StatusView};
use crate::text::table::clean;

/// How long `kubectl` may take.
const TIME: Duration = Duration::from_secs(20);
/// The most bytes of an answer of `kubectl`; a status takes some kilobytes.
const MOST: u64 = 64 << 20;
/// The agent's program in its image.
const PROGRAM: &str = "/mvp";
/// The name of its container, in the DaemonSet and in the static pod.
const CONTAINER: &str = "mvp";

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Fleet {
    /// Ask the agents of all nodes, each by kubectl exec into its pod.
    #[arg(long)]
    pub cluster: bool,
    /// Ask this agent too, by its read-only port (http://host:port) or a socket (unix:/path). May be repeated.
    #[arg(long = "agent", value_name = "NAME=URL", value_parser = named)]
    agents: Vec<Member>,
    /// The namespace of the agents' pods.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// The label of the agents' pods.
    #[arg(
        long,
        value_name = "LABEL",
        default_value = "app.kubernetes.io/name=mvp"
    )]
    selector: String,
    /// The kubectl to run, with the kubeconfig that it finds.
    #[arg(long, value_name = "PROGRAM", default_value = "kubectl")]
    kubectl: PathBuf,
}

/// An agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Member {
    /// The name of its node, or the name that the user gave it.
    pub name: String,
    way: AgentAccess,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum AgentAccess {
    At(AdminAt),
    Pod {
        kubectl: PathBuf,
        namespace: String,
        pod: String,
    },
}

impl Fleet {
    /// Whether more agents than the one of this node are meant.
    pub(super) fn is_asked(&self) -> bool {
        self.cluster || !self.agents.is_empty()
    }

    /// Every agent, by name.
    ///
    /// # Errors
    /// Why the pods are not known.
    pub(super) fn members(&self) -> Result<Vec<Member>, String> {
        let mut all: BTreeMap<String, Member> = BTreeMap::new();
        if self.cluster {
            let mut list = Command::new(&self.kubectl);
            list.args(["--request-timeout=10s", "-n", &self.namespace])
                .args(["get", "pods", "-o", "json", "-l", &self.selector]);
            let pods = output(list, TIME)?.success()?;
            let pods: Pods = serde_json::from_slice(&pods)
                .map_err(|error| format!("what kubectl says of the pods: {error}"))?;
            for (node, pod) in pods.running() {
                let way = AgentAccess::Pod {
                    kubectl: self.kubectl.clone(),
                    namespace: self.namespace.clone(),
                    pod,
                };
                all.insert(node.clone(), Member { name: node, way });
            }
            if all.is_empty() {
                let Self {
                    namespace,
                    selector,
                    ..
                } = self;
                return Err(format!(
                    "no pod with the label {selector} runs in the namespace {namespace}"
                ));
            }
        }
        let named = self.agents.iter().cloned();
        all.extend(named.map(|member| (member.name.clone(), member)));
        Ok(all.into_values().collect())
    }
}

impl Member {
    /// The answer of `mvp status` there. `-o json` has the same form in all versions of the agent.
    pub(super) fn status(&self) -> Result<StatusView, String> {
        match &self.way {
            AgentAccess::At(at) => ask(at, "/status"),
            AgentAccess::Pod { .. } => parse(&self.exec(&["status", "-o", "json"])?.success()?),
        }
    }

    /// Has the agent send its canary requests.
    pub(super) fn canary(&self) -> Result<CanaryView, String> {
        match &self.way {
            AgentAccess::At(AdminAt::Address(_)) => Err(
                "its read-only port sends no requests: name its socket, or use --cluster"
                    .to_owned(),
            ),
            AgentAccess::At(at) => ask(at, "/mvp/canary"),
            AgentAccess::Pod { .. } => {
                let done = self.exec(&["check", "canary", "-o", "json"])?;
                // A canary that failed has an exit code of its own, and its answer says what failed.
                parse(&done.stdout).or_else(|_| parse(&done.success()?))
            }
        }
    }

    /// Runs the agent's program in its pod.
    fn exec(&self, arguments: &[&str]) -> Result<Done, String> {
        let AgentAccess::Pod {
            kubectl,
            namespace,
            pod,
        } = &self.way
        else {
            return Err("it is in no pod that is known".to_owned());
        };
        let mut command = Command::new(kubectl);
        command
            .args(["-n", namespace, "exec", pod, "-c", CONTAINER, "--", PROGRAM])
            .args(arguments);
        output(command, TIME)
    }
}

/// Asks all agents at once, since each may take its time; the answers are in the order of the members.
pub(super) fn each<T: Send>(members: &[Member], ask: impl Fn(&Member) -> T + Sync) -> Vec<T> {
    let ask = &ask;
    std::thread::scope(|scope| {
        let asked: Vec<_> = members
            .iter()
            .map(|member| scope.spawn(move || ask(member)))
            .collect();
        let told = asked.into_iter().filter_map(|thread| thread.join().ok());
        told.collect()
    })
}

/// `NAME=URL`.
fn named(text: &str) -> Result<Member, String> {
    let (name, url) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("not of the form NAME=URL")?;
    Ok(Member {
        name: name.to_owned(),
        way: AgentAccess::At(client::parse_admin(url)?),
    })
}

fn ask<T: DeserializeOwned>(at: &AdminAt, target: &str) -> Result<T, String> {
    let question = Question {
        method: "GET",
        target,
        body: "",
    };
    let reply = client::ask(Some(at), question).and_then(client::Reply::success);
    parse(&reply.map_err(|error| error.to_string())?)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("not the answer of an mvp agent: {error}"))
}

/// What is read of the answer of `kubectl get pods`.
#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    /// In the one form that Kubernetes has, so that sorting the texts sorts the times.
    #[serde(default)]
    creation_timestamp: String,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: String,
}

#[derive(Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: String,
}

impl Pods {
    /// The running pods by node. If a node has two because one takes over from the other, the newer one counts.
    fn running(self) -> BTreeMap<String, String> {
        let mut running: Vec<Pod> = self
            .items
            .into_iter()
            .filter(|pod| {
                pod.status.phase == "Running" && pod.metadata.deletion_timestamp.is_none()
            })
            .collect();
        running.sort_by(|a, b| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.clone();
            created(a).cmp(&created(b))
        });
        running
            .into_iter()
            .map(|pod| (pod.spec.node_name, pod.metadata.name))
            .collect()
    }
}

/// A program that has ended.
#[derive(Debug)]
struct Done {
    succeeded: bool,
    stdout: Vec<u8>,
    /// The last line of its standard error.
    complaint: String,
}

impl Done {
    fn success(self) -> Result<Vec<u8>, String> {
        match self.succeeded {
            true => Ok(self.stdout),
            false => Err(self.complaint),
        }
    }
}

/// Runs a program without input, for at most this time.
fn output(mut command: Command, time: Duration) -> Result<Done, String> {
    let program = Path::new(command.get_program()).display().to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let (sender, ended) = mpsc::channel();
    let stderr = child
        .stderr
        .take()
        .map(|pipe| std::thread::spawn(move || all(pipe)));
    if let Some(pipe) = child.stdout.take() {
        std::thread::spawn(move || sender.send(all(pipe)));
    }
    // It ends when the program has closed its output.
    let stdout = ended.recv_timeout(time);
    if stdout.is_err() {
        // An error means that it has ended already.
        let _ = child.kill();
    }
    let status = child
        .wait()
        .map_err(|error| format!("{program}: {error}"))?;
    let stdout = stdout.map_err(|_| format!("{program}: no answer within {time:?}"))?;
    let stderr = stderr
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let complaint = String::from_utf8_lossy(&stderr);
    let last = complaint.lines().rev().find(|line| !line.trim().is_empty());
    Ok(Done {
        succeeded: status.success(),
        stdout,
        complaint: match last {
            Some(line) => clean(line),
            None => format!("{program}: {status}"),
        },
    })
}

fn all(pipe: impl Read) -> Vec<u8> {
    let mut read = Vec::new();
    // If reading fails, what came before the error is used.
    let _ = pipe.take(MOST).read_to_end(&mut read);
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn agents_have_names_and_ways() {
        let member = named("cp-b=unix:/run/b.sock").unwrap();
        assert_eq!(member.name, "cp-b");
        assert_eq!(
            member.way,
            AgentAccess::At(AdminAt::Socket("/run/b.sock".into()))
        );
        assert!(named("cp-b=http://10.0.0.2:9440").is_ok());
        for text in ["", "cp-b", "=http://10.0.0.2:9440", "cp-b=10.0.0.2:9440"] {
            assert!(named(text).is_err(), "{text}");
        }
    }

    #[test]
    fn of_a_node_the_newest_pod_that_runs_is_asked() {
        let pods = r#"{"items": [
            {"metadata": {"name": "mvp-new", "creationTimestamp": "2026-01-02T00:00:00Z"}, "spec": {"nodeName": "cp-a"}, "status": {"phase": "Running"}},
            {"metadata": {"name": "mvp-old", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "cp-a"}, "status": {"phase": "Running"}},
            {"metadata": {"name": "mvp-b", "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-03T00:00:00Z"}, "spec": {"nodeName": "cp-b"}, "status": {"phase": "Running"}},
            {"metadata": {"name": "mvp-c"}, "spec": {}, "status": {"phase": "Pending"}}
        ]}"#;
        let pods: Pods = serde_json::from_str(pods).unwrap();
        let expected = BTreeMap::from([("cp-a".to_owned(), "mvp-new".to_owned())]);
        assert_eq!(pods.running(), expected);
    }

    #[test]
    fn a_program_says_what_it_says_and_why_not() {
        let done = output(shell("echo out; echo one >&2; echo two >&2; exit 3"), TIME).unwrap();
        assert_eq!(done.stdout, b"out\n");
        assert_eq!(done.success().unwrap_err(), "two");
        let done = output(shell("exit 3"), TIME).unwrap();
        assert!(done.success().unwrap_err().contains("exit status: 3"));
        let missing = output(Command::new("/nowhere/kubectl"), TIME).unwrap_err();
        assert!(missing.contains("/nowhere/kubectl"), "{missing}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let hangs = output(shell("exec sleep 600"), Duration::from_millis(10));
        assert!(hangs.unwrap_err().contains("no answer within"));
    }
}
