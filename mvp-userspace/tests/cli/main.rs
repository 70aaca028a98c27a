//! The `mvp` command as a process: exit codes, texts, and the admin client against a real admin port.

// The helpers of an integration test are no #[test] functions for clippy.
#![allow(clippy::unwrap_used)]

mod deploy;

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mvp::admin::{
    Admin, ConnectionView, ExplainView, RouteView, ServerResponse, ServerView, SkewServer,
    SkewView, StatusView, Views,
};
use mvp::drain::{Drain, DrainSignal, DrainState};
use mvp::history::{HistoryView, Report};
use mvp::readiness::Readiness;

fn mvp(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mvp"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

struct Node {
    dir: tempfile::TempDir,
    /// Holds the ports of the configuration: an agent that tried to bind would say so.
    taken: [TcpListener; 2],
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            std::fs::write(dir.path().join(format!("{name}.crt")), made.cert.pem()).unwrap();
            std::fs::write(
                dir.path().join(format!("{name}.key")),
                made.signing_key.serialize_pem(),
            )
            .unwrap();
        }
        let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        Self { dir, taken }
    }

    fn address(&self, which: usize) -> SocketAddr {
        self.taken[which].local_addr().unwrap()
    }

    fn file(&self, key: &str, more: &str) -> String {
        let path = self.dir.path().join("mvp.yaml");
        let text = format!(
            "apiVersion: mvp/v1\nnode: cp-a\nlisten: {}\nadmin: {{listen: '{}'}}\nserving: {{certFile: a.crt, keyFile: {key}}}\nupstream: {{caFile: a.crt}}\nlocal: {{url: 'https://127.0.0.2:1'}}\n{more}\n",
            self.address(0),
            self.address(1)
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_bad_configuration_is_one_line_and_64_and_nothing_is_bound() {
    let node = Node::new();
    let dir = node.dir.path().display().to_string();
    for (key, more, line) in [
        (
            "a.key",
            "limits: {conections: 1}",
            "limits.conections: unknown key (is limits.connections meant?)".to_owned(),
        ),
        (
            "none.key",
            "",
            format!("serving.keyFile: {dir}/none.key: No such file or directory (os error 2)"),
        ),
        (
            "b.key",
            "",
            format!("serving.keyFile: {dir}/b.key: does not match the certificate in {dir}/a.crt"),
        ),
        (
            "a.key",
            "threads: 0",
            "threads: 0 is no number within 1 to 1024".to_owned(),
        ),
    ] {
        let output = mvp(&["agent", "--config", &node.file(key, more)]);
        assert_eq!(stderr(&output), format!("mvp: {line}\n"));
        assert_eq!(code(&output), 64, "{line}");
        assert_eq!(stdout(&output), "");
    }
    let missing = mvp(&["agent", "--from-manifest", "/none.yaml"]);
    assert_eq!(code(&missing), 64);
    assert_eq!(
        stderr(&missing),
        "mvp: /none.yaml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn bad_flags_are_64() {
    let node = Node::new();
    let file = node.file("a.key", "");
    for (flags, text) in [
        (
            vec!["--feature-gates=Nothing=true"],
            "--feature-gates: unknown gate \"Nothing\"",
        ),
        (
            vec!["--peer-advertise-ip=10.0.0.1"],
            "--peer-advertise-port: missing",
        ),
        (
            vec!["--peer-advertise-address=10.0.0.1"],
            "--peer-advertise-port: missing",
        ),
        (
            vec!["--peer-ca-file=/none.crt"],
            "upstream.caFile (--peer-ca-file): /none.crt: No such file",
        ),
        (vec!["--peer=x"], "--peer: \"x\" is not NAME=URL"),
        (vec!["--log-level=loud"], "--log-level: \"loud\" is neither"),
        (vec!["--set=node"], "--set: \"node\" is not KEY=VALUE"),
        (
            vec!["--nonsense"],
            "error: unexpected argument '--nonsense'",
        ),
    ] {
        let mut arguments = vec!["agent", "--config", &file];
        arguments.extend(flags);
        let output = mvp(&arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(stderr(&output).contains(text), "{}", stderr(&output));
    }
    for arguments in [
        &["agent"][..],
        &[],
        &["nonsense"],
        &["status", "--admin", "ftp://x"],
    ] {
        assert_eq!(code(&mvp(arguments)), 64, "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_0() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["agent", "--help"],
        &["routes", "--help"],
    ] {
        let output = mvp(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(!stdout(&output).is_empty());
    }
}

#[test]
fn no_agent_is_69() {
    // A port nobody listens on: it was free a moment ago and is not used here again.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let admin = format!("http://{free}");
    for command in [
        &["status"][..],
        &["servers"],
        &["routes"],
        &["explain", "GET", "/api"],
        &["drain"],
    ] {
        let mut arguments = command.to_vec();
        arguments.extend(["--admin", &admin]);
        let output = mvp(&arguments);
        assert_eq!(code(&output), 69, "{arguments:?}");
        let line = stderr(&output);
        assert!(
            line.starts_with(&format!("mvp: no agent answers at {free}: ")),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
    }
}

/// An admin port on a thread of its own.
fn admin() -> (String, DrainSignal) {
    let (trigger, signal) = Drain::new();
    let server = ServerView {
        name: "cp-b".into(),
        url: "https://127.0.0.3:6443".into(),
        version: Some("v1.36.3".into()),
        ready: true,
        available: true,
        knowledge: "fresh".into(),
        age_ms: Some(1500),
        source: "v2".into(),
        keys: 3,
        ..ServerView::default()
    };
    let all = server.clone();
    let views = Views {
        status: Box::new(move || StatusView {
            node: "cp-a".into(),
            version: "0.1.0".into(),
            stance: mvp::admin::StanceView {
                word: "standing by".into(),
                reasons: Vec::new(),
                line: "standing by (settled)".into(),
            },
            servers: vec![server.clone()],
            ..StatusView::default()
        }),
        servers: Box::new(move || vec![all.clone()]),
        routes: Box::new(|| {
            let route = |resource: &str, servers: &[&str]| RouteView {
                version: "v1".into(),
                resource: resource.into(),
                verbs: servers
                    .iter()
                    .map(|s| ((*s).to_owned(), vec!["get".to_owned()]))
                    .collect(),
                ..RouteView::default()
            };
            vec![
                route("pods", &["cp-a", "cp-b"]),
                route("widgets", &["cp-b"]),
            ]
        }),
        history: Box::new(|_| HistoryView::default()),
        report: Box::new(|since| Report {
            node: "cp-a".into(),
            requests: since.as_secs(),
            ..Report::default()
        }),
        canary: Box::new(|| Box::pin(async { mvp::admin::CanaryView::default() })),
        skew: Box::new(|| SkewView {
            servers: vec![SkewServer {
                name: "cp-b".into(),
                knowledge: "fresh".into(),
                ..SkewServer::default()
            }],
            rows: Vec::new(),
        }),
        explain_connection: Box::new(|address, name| ConnectionView {
            line: format!(
                "{address} asking for {} -> inspected",
                name.unwrap_or("nothing")
            ),
            ..ConnectionView::default()
        }),
        explain: Box::new(|method, path| match path {
            "/bad" => Err("this path is bad".into()),
            _ => Ok(ExplainView {
                line: format!("{method} {path} -> cp-b"),
                ..ExplainView::default()
            }),
        }),
        metrics: Box::new(|| ("text/plain", String::new())),
        stalled: Box::new(Vec::new),
        probe: Box::new(|_, _| {
            Box::pin(async {
                Ok(ServerResponse {
                    status: 200,
                    content_type: "text/plain".into(),
                    body: "ok".into(),
                })
            })
        }),
        set_log_level: Box::new(|_| Ok(())),
        guard: Box::new(|_| mvp::steering::GuardView::default()),
        cluster: Box::new(|_| Box::pin(async { Err("nobody to tell".to_owned()) })),
        retire: Box::new(|| Some(mvp::steering::RetireView::default())),
    };
    let folder = tempfile::tempdir().unwrap().keep();
    let path = folder.join("admin.sock");
    let url = format!("unix:{}", path.display());
    let admin = Admin {
        views,
        readiness: Readiness::new(),
        standing: mvp::readiness::PassingReasons::new(),
        drain: trigger,
        drain_deadline: Duration::from_secs(30),
        answer_timeout: Duration::from_secs(10),
    };
    let (bound, when_bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let socket = mvp::admin::OperatorSocket::bind(&path).unwrap();
            let door = mvp::admin::Door::Operator(socket.publish().unwrap());
            bound.send(()).unwrap();
            mvp::admin::serve(door, Arc::new(admin)).await;
        });
    });
    when_bound.recv().unwrap();
    (url, signal)
}

#[test]
fn a_running_agent_is_asked() {
    let (url, drain) = admin();
    let ask = |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--admin", &url]);
        let output = mvp(&all);
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        stdout(&output).to_owned()
    };
    assert!(ask(&["status"]).starts_with(
        "standing by (settled)\nnode    cp-a\nagent   0.1.0, up 0ms\nstate   ready\n"
    ));
    let status: StatusView = serde_json::from_str(&ask(&["status", "-o", "json"])).unwrap();
    assert_eq!((status.node.as_str(), status.ready), ("cp-a", true));
    let diff = "SERVER  VERSION  KNOWLEDGE  AGE\ncp-b    -        fresh      -\n\nno differences among 1 server\n";
    assert_eq!(ask(&["routes", "--diff"]), diff);
    let skew: SkewView = serde_json::from_str(&ask(&["routes", "--diff", "-o", "json"])).unwrap();
    assert_eq!(skew.text(), diff);
    assert_eq!(code(&mvp(&["routes", "--diff", "--differences"])), 64);
    assert_eq!(
        ask(&["servers"]),
        "\
NAME  ROLE  URL                     VERSION  READY  AVAILABLE  PROVED  KNOWLEDGE  AGE  SOURCE  KEYS  OUTSTANDING  LAST ERROR
cp-b  peer  https://127.0.0.3:6443  v1.36.3  yes    yes        no      fresh      1s   v2      3     0
"
    );
    assert_eq!(
        ask(&["routes", "--differences"]),
        "GROUP/VERSION  RESOURCE  SERVERS (VERBS)\nv1             widgets   cp-b (get)\n"
    );
    let routes: Vec<RouteView> = serde_json::from_str(&ask(&["routes", "-o", "json"])).unwrap();
    assert_eq!(routes.len(), 2);
    assert_eq!(
        ask(&["explain", "GET", "/api/v1/pods?watch=1&labelSelector=a=b"]),
        "GET /api/v1/pods?watch=1&labelSelector=a=b -> cp-b\n"
    );
    assert_eq!(
        ask(&[
            "explain",
            "--connection",
            "10.0.0.9",
            "--server-name",
            "kubernetes"
        ]),
        "10.0.0.9 asking for kubernetes -> inspected\n"
    );
    let none =
        "no retirement is under way; 0 ended so far, 0 of them where a request may have been cut\n";
    assert_eq!(ask(&["retire"]), format!("{none}\n"));
    assert_eq!(ask(&["retire", "--now"]), none);
    assert!(ask(&["arm", "--for", "30m"]).starts_with("nothing is steered"));
    assert_eq!(code(&mvp(&["arm", "--for", "soon"])), 64);
    assert_eq!(drain.state(), DrainState::Running);
    assert_eq!(
        ask(&["drain", "--deadline", "1h"]),
        "draining, at most 3600s\n"
    );
    assert!(matches!(drain.state(), DrainState::Draining(_)));
}

#[test]
fn a_refusal_is_1_with_its_reason() {
    let (url, _drain) = admin();
    let output = mvp(&["explain", "GET", "/bad", "--admin", &url]);
    assert_eq!(code(&output), 1);
    assert_eq!(
        stderr(&output),
        "mvp: the agent says 400 Bad Request: this path is bad\n"
    );
}

/// Something else listens on the port.
#[test]
fn an_answer_that_is_no_agents_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let thread = std::thread::spawn({
        let seen = seen.clone();
        move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).unwrap();
            seen.lock().unwrap().extend(&buffer[..length]);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                .unwrap();
        }
    });
    let output = mvp(&["servers", "--admin", &url]);
    thread.join().unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).starts_with("mvp: the answer is not that of an mvp agent"));
    assert!(
        seen.lock()
            .unwrap()
            .starts_with(b"GET /servers HTTP/1.1\r\n")
    );
}
