//! kubectl, whichever there is: since 1.31 it speaks WebSocket where an older one speaks SPDY, unless it is told not to.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use mvp_tests::kubectl::Kubectl;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Day, Way, compare};

const MAP: &str =
    r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"k":"one"}}"#;
const OTHER: &str =
    r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"k":"two"}}"#;
const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: o}
spec: {reinvocationPolicy: Never, failurePolicy: Fail, mutations: []}
"#;
const CLAIM: &str = r#"
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: r}
spec: {devices: {requests: []}}
"#;
const PAGE: &str = "/api/v1/namespaces/default/pods/p/proxy/missing/page";

/// Name, arguments and standard input.
type Step = (&'static str, &'static str, &'static str);

/// What finds and writes objects.
const OBJECTS: [Step; 32] = [
    ("api-versions", "api-versions", ""),
    (
        "api-resources, wide",
        "api-resources --no-headers -o wide",
        "",
    ),
    ("create", "create -o json -f -", MAP),
    ("create again", "create -f -", MAP),
    ("get", "get configmap m -o json", ""),
    ("list", "get configmaps,pods -o name", ""),
    (
        "list as JSON",
        "get configmaps --field-selector metadata.name=m -o json",
        "",
    ),
    ("diff", "apply --dry-run=server -o json -f -", OTHER),
    ("apply", "apply -o json -f -", OTHER),
    (
        "apply, server-side",
        "apply --server-side --force-conflicts -f -",
        MAP,
    ),
    (
        "patch",
        "patch configmap m -o json -p {\"data\":{\"k\":\"three\"}}",
        "",
    ),
    (
        "create MutatingAdmissionPolicy",
        "create -o json -f -",
        POLICY,
    ),
    (
        "create MutatingAdmissionPolicy again",
        "create -f -",
        POLICY,
    ),
    (
        "get by its kind",
        "get MutatingAdmissionPolicy o -o json",
        "",
    ),
    (
        "get by its group",
        "get mutatingadmissionpolicies.v1.admissionregistration.k8s.io o -o jsonpath={.spec}",
        "",
    ),
    (
        "apply a policy",
        "apply --server-side --force-conflicts -o json -f -",
        POLICY,
    ),
    (
        "patch a policy",
        "patch mutatingadmissionpolicy o --type=merge -o json -p {\"metadata\":{\"labels\":{\"a\":\"b\"}}}",
        "",
    ),
    (
        "select policies",
        "get mutatingadmissionpolicies -l a=b -o name",
        "",
    ),
    ("explain policies", "explain mutatingadmissionpolicies", ""),
    ("create ResourceClaim", "create -o json -f -", CLAIM),
    (
        "get claims",
        "get resourceclaims.v1.resource.k8s.io -o json",
        "",
    ),
    (
        "apply a claim",
        "apply --server-side --force-conflicts -f -",
        CLAIM,
    ),
    (
        "explain claims",
        "explain resourceclaims.spec --api-version=resource.k8s.io/v1",
        "",
    ),
    (
        "get raw",
        "get --raw /apis/resource.k8s.io/v1/namespaces/default/resourceclaims/r",
        "",
    ),
    ("a workload's page that is gone", "get --raw PAGE", ""),
    (
        "can-i of a later type",
        "auth can-i create mutatingadmissionpolicies",
        "",
    ),
    (
        "delete MutatingAdmissionPolicy",
        "delete mutatingadmissionpolicy o",
        "",
    ),
    (
        "get a policy that is gone",
        "get mutatingadmissionpolicy o",
        "",
    ),
    (
        "delete ResourceClaim",
        "delete resourceclaims.v1.resource.k8s.io r",
        "",
    ),
    (
        "get a claim that is gone",
        "get resourceclaims.v1.resource.k8s.io r",
        "",
    ),
    ("delete", "delete configmap m", ""),
    ("get what is gone", "get configmap m", ""),
];

/// What reaches into the pod.
const POD: [Step; 7] = [
    ("logs", "logs p --tail=2", ""),
    ("logs of another container", "logs p -c other", ""),
    ("exec", "exec p -- echo out", ""),
    (
        "exec that complains of nothing",
        "exec p -- sh -c SCRIPT",
        "",
    ),
    ("exec with input", "exec -i p -- cat", "said"),
    ("exec of nothing", "exec p -- nano", ""),
    ("attach", "attach -i p", "said"),
];

/// Makes kubectl speak SPDY.
const SPDY: [&str; 2] = [
    "KUBECTL_REMOTE_COMMAND_WEBSOCKETS",
    "KUBECTL_PORT_FORWARD_WEBSOCKETS",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_kubectl_is_the_same() {
    compare("kubectl", async |kubeconfig, way| {
        tokio::task::block_in_place(|| day(kubeconfig, way))
    })
    .await;
}

fn day(kubeconfig: &Path, way: Way) -> Option<Day> {
    let kubectl = Kubectl::find(kubeconfig)?;
    let mut day: Day = Vec::new();
    let mut took = |name: String, outcome: Value| day.push((name, outcome));
    for step in OBJECTS {
        took(step.0.to_owned(), run(&kubectl, step, false));
    }
    for (name, resource, object, path) in [
        ("watch", "configmaps", MAP, "configmap/m"),
        (
            "watch policies",
            "mutatingadmissionpolicies",
            POLICY,
            "mutatingadmissionpolicy/o",
        ),
    ] {
        took(name.to_owned(), watched(&kubectl, resource, object, path));
    }
    // Every server can do the rest, and each kubectl takes its time.
    if way == Way::Without {
        return Some(day);
    }
    took("follow logs".to_owned(), followed(&kubectl));
    for spdy in [false, true] {
        let named = |name: &str| format!("{name}{}", if spdy { " over SPDY" } else { "" });
        for step in POD {
            took(named(step.0), run(&kubectl, step, spdy));
        }
        took(named("cp"), copied(&kubectl, spdy));
        took(named("port-forward"), forwarded(&kubectl, 80, spdy));
        took(
            named("port-forward to nothing"),
            forwarded(&kubectl, 81, spdy),
        );
    }
    Some(day)
}

fn command(kubectl: &Kubectl, args: &[&str], spdy: bool) -> Command {
    let mut command = kubectl.command(args);
    for variable in SPDY.iter().filter(|_| spdy) {
        command.env(variable, "false");
    }
    command
}

fn run(kubectl: &Kubectl, (_, line, input): Step, spdy: bool) -> Value {
    let words = line.split(' ').map(|word| match word {
        "PAGE" => PAGE,
        "SCRIPT" => "echo out; echo err >&2; exit 3",
        word => word,
    });
    ran(kubectl, &words.collect::<Vec<_>>(), input, spdy)
}

/// What kubectl wrote, as JSON where it is JSON.
fn ran(kubectl: &Kubectl, args: &[&str], input: &str, spdy: bool) -> Value {
    let mut command = command(kubectl, args, spdy);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have failed before it read anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
    let stdout = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| text(&output.stdout));
    let mut outcome = json!({"stdout": stdout, "stderr": text(&output.stderr)});
    if !output.status.success() {
        outcome["refused"] = json!(output.status.code());
    }
    outcome
}

/// A kubectl that runs until it is dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// `None` after the last one.
    fn line(&mut self) -> Option<String> {
        self.lines.next().transpose().unwrap()
    }

    /// The text of standard error until a word appears in it.
    fn complaint(&mut self, word: &str) -> Option<String> {
        let stderr = self.child.stderr.take()?;
        let lines = BufReader::new(stderr).lines();
        let mut lines = lines.map_while(Result::ok);
        let line = lines.find(|line| line.contains(word))?;
        line.find(word).map(|at| line[at..].to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The events of an object that is made, changed and deleted.
fn watched(kubectl: &Kubectl, resource: &str, object: &str, path: &str) -> Value {
    let format = r#"jsonpath={.type} {.object.metadata.name} {.object.metadata.labels}{"\n"}"#;
    let made = ran(kubectl, &["create", "-f", "-"], object, false);
    if made.get("refused").is_some() {
        // No watch would ever see it.
        return made;
    }
    let args = ["get", resource, "-w", "--output-watch-events", "-o", format];
    let name = path.split('/').next_back().unwrap();
    let selector = format!("--field-selector=metadata.name={name}");
    let mut args = args.to_vec();
    args.push(&selector);
    let mut watch = Running::start(command(kubectl, &args, false));
    let mut seen = vec![watch.line()];
    ran(kubectl, &["label", path, "a=b"], "", false);
    seen.push(watch.line());
    ran(kubectl, &["delete", path], "", false);
    seen.push(watch.line());
    json!([made, seen])
}

fn followed(kubectl: &Kubectl) -> Value {
    let mut logs = Running::start(command(kubectl, &["logs", "-f", "p"], false));
    let lines: Vec<_> = (0..5).map(|_| logs.line()).collect();
    json!(lines)
}

/// A file there and back.
fn copied(kubectl: &Kubectl, spdy: bool) -> Value {
    let content: Vec<u8> = (0..256_000u32).map(|at| at as u8).collect();
    let folder = TempDir::new().unwrap();
    let here = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(here("to"), &content).unwrap();
    let there = if spdy {
        "p:/tmp/spdy"
    } else {
        "p:/tmp/websocket"
    };
    let to = ran(kubectl, &["cp", &here("to"), there], "", spdy);
    let from = ran(kubectl, &["cp", there, &here("from")], "", spdy);
    let same = std::fs::read(here("from")).is_ok_and(|back| back == content);
    let mut outcome = json!({"to": to, "from": from});
    if !same {
        outcome["refused"] = json!("other content came back");
    }
    outcome
}

/// What comes back from a port.
fn forwarded(kubectl: &Kubectl, port: u16, spdy: bool) -> Value {
    let ports = format!(":{port}");
    let args = ["port-forward", "--address=127.0.0.1", "pod/p", &ports];
    let mut forward = Running::start(command(kubectl, &args, spdy));
    let Some(line) = forward.line() else {
        return json!({"refused": "no address"});
    };
    let (address, to) = line.split_once(" -> ").unwrap();
    let address = address.split_whitespace().next_back().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let hello = "hello ".repeat(10_000);
    // Where nothing listens, the connection ends at once.
    let _ = stream.write_all(hello.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let mut back = String::new();
    let _ = stream.read_to_string(&mut back);
    let complaint = (port != 80).then(|| forward.complaint("error forwarding port"));
    json!({"to": to, "back": back, "complaint": complaint})
}
