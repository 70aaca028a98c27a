//! The `mvp` command as people are used to such commands: forms of output, watching, waiting, the environment, completion, colours.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mvp::metrics::{ALL, MetricKind};
use mvp::steering::GuardReason;
use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::sim::pki::Pki;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
const LIMIT: Duration = Duration::from_secs(30);

async fn setup() -> (ControlPlane, ChildAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let agent = ChildAgent::start(AGENT, &plane, "cp-a", |_| {})
        .await
        .unwrap();
    (plane, agent)
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
async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

async fn said(agent: &ChildAgent, args: &[&str]) -> String {
    let mut command = mvp(args);
    command.arg("--admin").arg(&agent.socket);
    let output = output(command).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    text(&output.stdout).to_owned()
}

#[tokio::test]
async fn yaml_says_what_json_says_and_wide_says_more() {
    let (_plane, agent) = setup().await;
    let yaml: Vec<Value> =
        serde_saphyr::from_str(&said(&agent, &["routes", "-o", "yaml"]).await).unwrap();
    let json: Vec<Value> =
        serde_json::from_str(&said(&agent, &["routes", "-o", "json"]).await).unwrap();
    assert_eq!(yaml, json);
    let heading = |text: &str| text.lines().next().unwrap().to_owned();
    let (usual, wide) = (
        said(&agent, &["servers"]).await,
        said(&agent, &["servers", "-o", "wide"]).await,
    );
    assert!(!heading(&usual).contains("HEADER NAMES"), "{usual}");
    assert!(heading(&wide).contains("HEADER NAMES"), "{wide}");
    let wide = said(&agent, &["routes", "-o", "wide"]).await;
    assert!(wide.lines().count() > json.len() + 1, "{wide}");
    let told: Value =
        serde_saphyr::from_str(&said(&agent, &["loglevel", "warn", "-o", "yaml"]).await).unwrap();
    assert_eq!(told["message"], "the log level is warn");
}

#[tokio::test]
async fn the_environment_names_the_agent_and_a_flag_another() {
    let (_plane, agent) = setup().await;
    let mut named = mvp(&["status"]);
    named.env("MVP_ADMIN", &agent.socket);
    let status = output(named).await;
    assert!(status.status.success(), "{status:?}");
    assert!(text(&status.stdout).contains("node    cp-a\n"));
    let mut other = mvp(&["status", "--admin", "unix:/nowhere"]);
    other.env("MVP_ADMIN", &agent.socket);
    assert_eq!(output(other).await.status.code(), Some(69));
    let mut wrong = mvp(&["status"]);
    wrong.env("MVP_ADMIN", "here");
    assert_eq!(output(wrong).await.status.code(), Some(64));
}

#[tokio::test]
async fn a_watch_shows_what_changes() {
    let (_plane, agent) = setup().await;
    let mut command = mvp(&["status", "--watch", "--admin"]);
    command.arg(&agent.socket).stdout(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let output = BufReader::new(watch.stdout.take().unwrap());
    let (shown, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in output.lines() {
            if shown.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    let until = |part: &str| loop {
        let line = seen.recv_timeout(LIMIT).expect(part);
        if line.contains(part) {
            return;
        }
    };
    until("guard   ");
    // Answers are divided by an empty line, as are the tables in one.
    said(&agent, &["arm"]).await;
    until("operator");
    watch.kill().unwrap();
    watch.wait().unwrap();
    drop(seen);
    reader.join().unwrap();
}

#[tokio::test]
async fn a_watch_ends_with_its_reader() {
    let (_plane, agent) = setup().await;
    let mut command = mvp(&["servers", "--watch", "--admin"]);
    command.arg(&agent.socket).stdout(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    let mut first = [0; 4];
    watch.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"NAME");
    // Its output is closed now.
    let ended = tokio::task::spawn_blocking(move || watch.wait().unwrap());
    let ended = tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn drain_waits_until_nothing_is_left() {
    let (_plane, mut agent) = setup().await;
    let drained = said(&agent, &["drain", "--deadline", "10s", "--wait"]).await;
    assert_eq!(drained, "draining, at most 10s\ndrained\n");
    assert!(agent.wait_exit(LIMIT).await.unwrap().success());
    let mut again = mvp(&["drain", "--wait", "--admin"]);
    again.arg(&agent.socket);
    assert_eq!(output(again).await.status.code(), Some(69));
}

#[test]
fn what_the_program_says_of_itself() {
    let version = |args: &[&str]| {
        let output = mvp(args).output().unwrap();
        assert!(output.status.success());
        text(&output.stdout).to_owned()
    };
    let part = match mvp::kernel::object() {
        Some(_) => "with its kernel part",
        None => "without its kernel part",
    };
    let line = version(&["version"]);
    assert!(
        line.starts_with(&format!("mvp {} ", env!("CARGO_PKG_VERSION"))),
        "{line}"
    );
    assert!(line.contains(part), "{line}");
    let yaml: Value = serde_saphyr::from_str(&version(&["version", "-o", "yaml"])).unwrap();
    assert_eq!(yaml["kernelPart"], mvp::kernel::object().is_some());
}

#[test]
fn completion_is_a_script_that_the_shell_reads() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = mvp(&["completion", shell]).output().unwrap();
        assert!(
            script.status.success() && text(&script.stdout).contains("loglevel"),
            "{shell}"
        );
        std::fs::write(dir.path().join(shell), script.stdout).unwrap();
    }
    let complete = "source \"$0\"; COMP_WORDS=(mvp serv); COMP_CWORD=1; _mvp mvp serv mvp; echo \"${COMPREPLY[@]}\"";
    let bash = Command::new("bash")
        .args(["-c", complete])
        .arg(dir.path().join("bash"))
        .output()
        .unwrap();
    assert_eq!(text(&bash.stdout), "servers\n", "{bash:?}");
    let pages = mvp(&["man", dir.path().join("man").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(pages.status.success());
    assert!(dir.path().join("man/mvp-explain.1").exists());
}

/// A configuration of which the agent has something to say before it fails.
fn noisy(dir: &Path, taken: &str) -> String {
    Pki::generate(dir).unwrap();
    let config = format!(
        "{{apiVersion: mvp/v1, node: cp-a, listen: '{taken}', serving: {{certFile: apiserver.crt, keyFile: apiserver.key}}, \
         upstream: {{caFile: ca.crt}}, local: {{url: 'https://127.0.0.1:6443'}}, limits: {{connections: 10000000}}}}"
    );
    let file = dir.join("config.yaml");
    std::fs::write(&file, config).unwrap();
    file.display().to_string()
}

#[test]
fn colours_are_for_terminals_of_people_who_want_them() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = noisy(dir.path(), &port.local_addr().unwrap().to_string());
    let coloured = |output: Output| {
        let all = [output.stdout, output.stderr].concat();
        assert!(
            text(&all).contains("limits.connections is lowered"),
            "{}",
            text(&all)
        );
        all.contains(&0x1b)
    };
    // script(1) gives a terminal to what it runs.
    let on_terminal = |unwanted: Option<&str>| {
        let mut script = Command::new("script");
        script.args([
            "--quiet",
            "--command",
            &format!("{AGENT} agent --config {config}"),
            "/dev/null",
        ]);
        script
            .env_remove("RUST_LOG")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        if let Some(value) = unwanted {
            script.env("NO_COLOR", value);
        }
        coloured(script.output().unwrap())
    };
    assert!(on_terminal(None));
    assert!(
        on_terminal(Some("")),
        "an empty value says nothing (no-color.org)"
    );
    assert!(!on_terminal(Some("1")));
    assert!(!coloured(
        mvp(&["agent", "--config", &config]).output().unwrap()
    ));
}

#[tokio::test]
async fn what_config_shows_is_a_configuration_that_says_the_same() {
    let (_plane, agent) = setup().await;
    let config = agent.dir().join("agent.yaml");
    let shown = output(mvp(&[
        "config",
        "show",
        "--config",
        config.to_str().unwrap(),
    ]))
    .await;
    assert!(shown.status.success(), "{shown:?}");
    let shown = text(&shown.stdout);
    assert!(
        !shown.contains("PRIVATE KEY") && shown.contains("tunnelsPerClient: 64"),
        "{shown}"
    );
    let again = agent.dir().join("again.yaml");
    std::fs::write(&again, shown).unwrap();
    let twice = output(mvp(&[
        "config",
        "show",
        "--config",
        again.to_str().unwrap(),
    ]))
    .await;
    assert_eq!(text(&twice.stdout), shown);
    let overridden = output(mvp(&[
        "config",
        "show",
        "-o",
        "json",
        "--config",
        again.to_str().unwrap(),
        "--threads",
        "3",
    ]))
    .await;
    let overridden: Value = serde_json::from_slice(&overridden.stdout).unwrap();
    assert_eq!(overridden["threads"], 3);
}

/// The table of metrics and an agent that has just started, compared both ways. The rate of a series that begins with 1 is nothing: so
/// every counter is there with its zero.
#[tokio::test]
async fn a_new_agent_exposes_the_table_of_metrics() {
    let (_plane, agent) = setup().await;
    // What it says of servers follows their first answers.
    eventually("the servers are there", LIMIT, || async {
        let (_, scrape) = agent.admin_get("/metrics").await?;
        Ok(scrape.contains("mvp_ejections_total{server=\"cp-b\"} "))
    })
    .await
    .unwrap();
    let (_, scrape) = agent.admin_get("/metrics").await.unwrap();
    let types = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let exposed: BTreeMap<&str, &str> = types.filter_map(|line| line.split_once(' ')).collect();
    let table: BTreeMap<&str, &str> = ALL
        .iter()
        .map(|spec| (spec.base(), spec.kind.as_str()))
        .collect();
    for (name, kind) in &exposed {
        assert_eq!(table.get(name), Some(kind), "{name} is not in the table");
    }
    for spec in ALL {
        let suffix = match spec.kind {
            MetricKind::Histogram => "_count",
            MetricKind::Counter | MetricKind::Gauge => "",
        };
        let name = format!("{}{suffix}", spec.name);
        let samples: Vec<_> = scrape
            .lines()
            .filter_map(|line| line.strip_prefix(&name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .collect();
        // Gauges of what is not there yet: connections, and with steering whether connections of before can be ended.
        let later = [
            "mvp_pool_connections",
            "mvp_relayed_connections",
            "mvp_retiring_available",
        ];
        let later = later.contains(&spec.name);
        assert!(!samples.is_empty() || later, "{name}");
        for sample in samples {
            let labels: Vec<_> = match sample.strip_prefix('{') {
                None => Vec::new(),
                Some(rest) => rest
                    .split("=\"")
                    .map(|part| part.rsplit(['"', ',']).next().unwrap())
                    .collect(),
            };
            let named = labels.len().saturating_sub(1);
            assert_eq!(labels[..named], *spec.labels, "{name}{sample}");
        }
    }
    let zero = |sample: &str| {
        let line = scrape
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        assert_eq!(line.map(|value| value.parse()), Some(Ok(0.0)), "{sample}");
    };
    for (to, reason) in GuardReason::transitions() {
        let reason = reason.as_str();
        zero(&format!(
            "mvp_guard_transitions_total{{to=\"{to}\",reason=\"{reason}\"}}"
        ));
    }
    for sample in [
        "mvp_watches_let_go_total{server=\"cp-b\"}",
        "mvp_server_seconds_count{server=\"cp-b\"}",
        "mvp_refused_total{limit=\"tunnels_per_client\"}",
        "mvp_relay_decisions_total{decision=\"relayed\"}",
        "mvp_requests_total{decision=\"server_failed\",server=\"\",code=\"503\"}",
        "mvp_kernel_events_total{event=\"steered\"}",
        "mvp_kernel_heartbeats_withheld_total{reason=\"full\"}",
        "mvp_retired_connections_total{outcome=\"late\"}",
        "mvp_cluster_words_total{kind=\"failed\"}",
    ] {
        zero(sample);
    }
    let files = "mvp_certificate_reload_failures_total{file=";
    assert!(scrape.matches(files).count() >= 4, "{scrape}");
    assert!(scrape.contains("\nmvp_ready 1"), "{scrape}");
}

#[tokio::test]
async fn the_metric_of_readiness_is_what_readyz_says() {
    let (plane, agent) = setup().await;
    let says = |ready: bool| {
        let agent = &agent;
        async move {
            let code = if ready { 200 } else { 503 };
            eventually("both say so", LIMIT, || async {
                let (readyz, text) = agent.admin_get("/readyz").await?;
                let value = agent.metric("mvp_ready").await?;
                anyhow::ensure!(readyz == code, "{text}");
                Ok(value == f64::from(u8::from(ready)))
            })
            .await
            .unwrap();
        }
    };
    says(true).await;
    plane.server(0).refuse_front_proxy(true);
    says(false).await;
    plane.server(0).refuse_front_proxy(false);
    says(true).await;
}

async fn checked(agent: &ChildAgent, args: &[&str]) -> (Option<i32>, String) {
    let mut command = mvp(&["check", "upgrade", "--manifest", "/nowhere"]);
    if !args.contains(&"--within") {
        command.args(["--within", "1h"]);
    }
    command.args(args).arg("--admin").arg(&agent.socket);
    let output = output(command).await;
    assert_eq!(text(&output.stderr), "");
    (output.status.code(), text(&output.stdout).to_owned())
}

/// The agent of a plane whose servers let `system:mvp` read what deploy/rbac.yaml grants.
async fn with_rights(versions: [u8; 2]) -> (ControlPlane, ChildAgent) {
    let [a, b] = versions;
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", a))
        .server(ServerSpec::new("cp-b", b))
        .start()
        .await
        .unwrap();
    mvp_tests::rbac::apply(&plane).unwrap();
    let agent = ChildAgent::start(AGENT, &plane, "cp-a", |_| {})
        .await
        .unwrap();
    (plane, agent)
}

/// Until the check ends so: on a busy machine a server may be found silent for a moment, and the check says what is.
async fn until_checked(agent: &ChildAgent, args: &[&str], code: i32) -> String {
    let shown = std::sync::Mutex::new(String::new());
    let reached = eventually("the check", LIMIT, || async {
        let (now, text) = checked(agent, args).await;
        *shown.lock().unwrap() = text;
        Ok(now == Some(code))
    })
    .await;
    let shown = shown.into_inner().unwrap();
    assert!(reached.is_ok(), "{code} {args:?}: {shown}");
    shown
}

#[tokio::test]
async fn check_upgrade_says_what_is_to_be_done_before() {
    let (_plane, agent) = with_rights([35, 36]).await;
    // cp-a is at 1.35 and cp-b at 1.36: an upgrade is under way.
    let shown = until_checked(&agent, &["--to", "v1.36"], 1).await;
    assert!(
        shown.contains("it is there already") && shown.contains("mvp routes --diff"),
        "{shown}"
    );
    let shown = until_checked(&agent, &["--to", "v1.37", "-o", "json"], 2).await;
    let findings: Vec<Value> = serde_json::from_str(&shown).unwrap();
    let skips = |finding: &&Value| finding["subject"] == "cp-a" && finding["outcome"] == "mend";
    assert!(findings.iter().any(|finding| skips(&finding)), "{shown}");
    // A test's certificates are valid for a day.
    let shown = until_checked(&agent, &["--to", "v1.36", "--within", "168h"], 2).await;
    assert!(shown.contains("apiserver.crt"), "{shown}");
    let wrong = output(mvp(&["check", "upgrade", "--to", "soon"])).await;
    assert_eq!(wrong.status.code(), Some(64));
}

#[tokio::test]
async fn check_upgrade_finds_nothing_where_nothing_is() {
    let (_plane, agent) = with_rights([35, 35]).await;
    let shown = until_checked(&agent, &[], 0).await;
    assert!(shown.contains("the servers serve the same"), "{shown}");
}
