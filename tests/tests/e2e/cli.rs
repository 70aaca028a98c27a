//! The `mvp` command against a running agent: what it prints, how it exits, and that `mvp explain` tells the truth.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};
use std::time::Duration;

use http::Method;
use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::client::{Client, full};
use mvp_tests::operator::operate;
use mvp_tests::ports::free_port;
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
const LIMIT: Duration = Duration::from_secs(30);
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A local server cp-a of 1.31 and a peer cp-b of 1.36, which has more groups, resources and subresources.
async fn setup() -> (ControlPlane, ChildAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 31))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let agent = ChildAgent::start_with(AGENT, &plane, "cp-a", &["--log-format", "json"], |_| {})
        .await
        .unwrap();
    (plane, agent)
}

async fn client(plane: &ControlPlane, agent: &ChildAgent) -> Client {
    let admin = ClientAuth::Certificate(plane.pki().admin().unwrap());
    agent.http2(plane, admin).await.unwrap()
}

/// `mvp ARGS --admin SOCKET`, off this runtime, which has the servers to run.
async fn mvp(agent: &ChildAgent, args: &[&str]) -> Output {
    let mut command = Command::new(AGENT);
    command.args(args).env_remove("RUST_LOG");
    command.arg("--admin").arg(&agent.socket);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

async fn table(agent: &ChildAgent, args: &[&str]) -> String {
    let output = mvp(agent, args).await;
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    assert_eq!(stderr, "");
    text(&output.stdout).to_owned()
}

async fn json(agent: &ChildAgent, args: &[&str]) -> Value {
    let args = [args, &["-o", "json"]].concat();
    serde_json::from_str(&table(agent, &args).await).unwrap()
}

/// The cells of each line, by two blanks or more.
fn cells(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .collect()
        })
        .collect()
}

#[tokio::test]
async fn every_command_answers_as_a_table_and_as_json() {
    let (plane, agent) = setup().await;
    let urls = ["cp-a", "cp-b"].map(|name| plane.named(name).unwrap().url());

    let status = json(&agent, &["status"]).await;
    assert_eq!(
        (&status["node"], &status["ready"]),
        (&"cp-a".into(), &true.into())
    );
    let shown = table(&agent, &["status"]).await;
    for line in [
        "node    cp-a",
        "state   ready",
        "proxy   requests go to a server that serves them",
        &format!("listen  {}", agent.address),
        &format!("config  {}", status["configDigest"].as_str().unwrap()),
    ] {
        assert!(shown.lines().any(|l| l == line), "{line} in\n{shown}");
    }
    assert!(shown.contains("\nTHREAD  CONNECTIONS  SILENT\n"), "{shown}");
    assert!(shown.contains("serving.certFile"), "{shown}");

    let servers = json(&agent, &["servers"]).await;
    assert_eq!(servers.as_array().unwrap().len(), 2);
    let shown = table(&agent, &["servers"]).await;
    let rows = cells(&shown);
    assert_eq!(rows[0][..4], ["NAME", "ROLE", "URL", "VERSION"]);
    assert_eq!(rows[1][..3], ["cp-a", "local", &urls[0]]);
    assert!(rows[1][3].starts_with("v1.31."), "{shown}");
    assert_eq!(rows[2][..3], ["cp-b", "peer", &urls[1]]);
    assert_eq!(rows[2][4..6], ["yes", "yes"]);
    assert!(rows[2][6].starts_with("yes, "), "proved: {shown}");
    assert_eq!(rows[2][7], "fresh");
    assert!(shown.starts_with(rows[0][0]) && rows.len() == 3, "{shown}");

    let routes = json(&agent, &["routes"]).await;
    let differences = json(&agent, &["routes", "--differences"]).await;
    let named = |routes: &Value, resource: &str| {
        let mut routes = routes.as_array().unwrap().iter();
        routes.any(|r| r["resource"] == resource)
    };
    assert!(named(&routes, "configmaps") && named(&routes, "mutatingadmissionpolicies"));
    assert!(!named(&differences, "configmaps"));
    assert!(named(&differences, "mutatingadmissionpolicies"));
    let shown = table(&agent, &["routes", "--differences"]).await;
    let resize = vec!["v1", "pods/resize", "cp-b (get,update,patch)"];
    assert!(cells(&shown).contains(&resize), "{shown}");

    let explain = json(&agent, &["explain", "GET", POLICIES]).await;
    assert_eq!(explain["decision"], "peer_serves");
    let line = table(&agent, &["explain", "GET", POLICIES]).await;
    assert_eq!(line, format!("{}\n", explain["line"].as_str().unwrap()));
    let start =
        "list admissionregistration.k8s.io/v1 mutatingadmissionpolicies -> cp-b (peer_serves: ";
    assert!(line.starts_with(start), "{line}");
}

#[tokio::test]
async fn exit_codes_say_whose_fault_it_is() {
    let (_plane, mut agent) = setup().await;
    // What is no path at all is the operator's slip; what only a server can refuse comes from the agent.
    for slip in [
        ["GET", "pods"],
        ["GET", "api/v1/pods"],
        ["get", "/api/v1/pods"],
        ["FOO", "/api/v1/pods"],
    ] {
        let refused = mvp(&agent, &["explain", slip[0], slip[1]]).await;
        assert_eq!(refused.status.code(), Some(64), "{slip:?}");
    }
    let refused = mvp(&agent, &["explain", "GET", "/api/v1/%zz"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).starts_with("mvp: the agent says 400 Bad Request: "));
    assert_eq!(
        mvp(&agent, &["explain", "GET"]).await.status.code(),
        Some(64)
    );
    assert_eq!(
        mvp(&agent, &["status", "-o", "xml"]).await.status.code(),
        Some(64)
    );

    // A second agent on the same port ends with 1: its configuration is right, the machine refuses.
    let config = agent.dir().join("agent.yaml");
    let second = Command::new(AGENT)
        .args(["agent", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let problem = text(&second.stderr).lines().last().unwrap();
    assert!(
        problem.starts_with(&format!("mvp: listen: cannot bind {}", agent.address)),
        "{problem}"
    );

    let drained = table(&agent, &["drain", "--deadline", "1s"]).await;
    assert_eq!(drained, "draining, at most 1s\n");
    let status = agent.wait_exit(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0));
    for command in [&["status"][..], &["servers"], &["routes"], &["drain"]] {
        assert_eq!(mvp(&agent, command).await.status.code(), Some(69));
    }
}

#[tokio::test]
async fn drain_as_json_and_only_once() {
    let (plane, mut agent) = setup().await;
    // An upload that does not end holds the agent open.
    let client = client(&plane, &agent).await;
    let (body, upload) = mvp_tests::client::piecemeal();
    let headers = [("content-type", "application/json")];
    let request = client
        .request(Method::POST, MAPS, &headers, upload)
        .unwrap();
    let pending = tokio::spawn(async move { client.send(request).await.map(drop) });
    eventually("the upload is under way", LIMIT, || async {
        let status: Value = serde_json::from_str(&agent.admin_get("/status").await?.1)?;
        Ok(status["streams"] == 1)
    })
    .await
    .unwrap();
    let first = json(&agent, &["drain", "--deadline", "10m"]).await;
    assert_eq!(first["message"], "draining, at most 600s");
    assert_eq!(
        table(&agent, &["drain", "--deadline", "1ms"]).await,
        "already draining\n"
    );
    let (status, text) = agent.admin_get("/readyz").await.unwrap();
    assert_eq!(
        (status, text.as_str()),
        (503, "[-]draining\nreadyz check failed\n")
    );
    let shown = table(&agent, &["status"]).await;
    assert!(shown.contains("\nstate   draining\n"), "{shown}");
    drop(body);
    pending.await.unwrap().unwrap();
    assert!(agent.wait_exit(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn the_log_level_changes_while_the_agent_runs() {
    let (plane, agent) = setup().await;
    let client = client(&plane, &agent).await;
    let level = async |level: &'static str| {
        let (status, answer) = operate(&agent.socket, Method::PUT, "/loglevel", level)
            .await
            .unwrap();
        (status, answer.text())
    };
    let ask = async |id: &str| {
        let answer = client.get(MAPS, &[("audit-id", id)]).await.unwrap();
        assert_eq!(answer.status, 200);
    };
    let lines = || agent.access_log().len();
    assert_eq!(level("info,access=off").await.0, 204);
    ask("silent").await;
    assert_eq!(level("info").await.0, 204);
    ask("heard").await;
    eventually("the second request's line", LIMIT, || async {
        Ok(lines() > 0)
    })
    .await
    .unwrap();
    let log = agent.access_log();
    assert_eq!((log.len(), &log[0]["audit_id"]), (1, &"heard".into()));
    let (status, problem) = level("loud").await;
    assert_eq!(status, 400);
    assert!(problem.contains("\"loud\" is neither a level"), "{problem}");
}

/// What the agent did with a request, from its access log.
async fn done(agent: &ChildAgent, client: &Client, method: Method, path: &str, id: &str) -> Value {
    let headers = [("audit-id", id), ("content-type", "application/json")];
    let body = match method {
        Method::GET | Method::DELETE => full(""),
        _ => full("{}"),
    };
    let request = client.request(method, path, &headers, body).unwrap();
    drop(client.send(request).await.unwrap());
    let find = || {
        let mut lines = agent.access_log().into_iter();
        lines.find(|line| line["audit_id"] == id)
    };
    eventually(path, LIMIT, || async { Ok(find().is_some()) })
        .await
        .unwrap();
    find().unwrap()
}

/// Explains and then makes a request: the same decision, the same server.
async fn agrees(
    agent: &ChildAgent,
    client: &Client,
    round: &str,
    requests: &[(Method, &str, &str)],
) {
    for (index, (method, path, decision)) in requests.iter().enumerate() {
        let explained = json(agent, &["explain", method.as_str(), path]).await;
        assert_eq!(explained["decision"], *decision, "{method} {path}");
        let id = format!("{round}-{index}");
        let done = done(agent, client, method.clone(), path, &id).await;
        assert_eq!(done["decision"], *decision, "{method} {path}: {done}");
        let server = explained["server"].as_str().unwrap_or_default();
        assert_eq!(done["server"], server, "{method} {path}");
    }
}

async fn until_explained(agent: &ChildAgent, path: &str, decision: &str) {
    eventually(decision, LIMIT, || async {
        Ok(json(agent, &["explain", "GET", path]).await["decision"] == decision)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn explain_says_where_a_request_then_goes() {
    let (plane, agent) = setup().await;
    let client = client(&plane, &agent).await;
    let watch = format!("{POLICIES}?watch=true");
    let resize = format!("{PODS}/p/resize");
    let both_up = [
        (Method::GET, MAPS, "local_serves"),
        (Method::POST, MAPS, "local_serves"),
        (Method::DELETE, MAPS, "local_serves"),
        (Method::GET, POLICIES, "peer_serves"),
        (Method::POST, POLICIES, "peer_serves"),
        (Method::GET, watch.as_str(), "peer_serves"),
        (Method::PATCH, resize.as_str(), "subresource_on_peer"),
        (Method::POST, "/api/v1/componentstatuses", "verb_nowhere"),
        (Method::GET, "/apis/example.com/v1/widgets", "unknown_key"),
        (Method::GET, "/version", "probe"),
        (Method::GET, "/readyz?verbose", "probe"),
        (Method::GET, "/apis", "discovery_merged"),
        (Method::GET, "/apis/apps/v1", "non_resource"),
        (Method::GET, "/apis/resource.k8s.io/v1", "discovery_on_peer"),
        (Method::GET, "/openapi/v3", "discovery_merged"),
    ];
    agrees(&agent, &client, "up", &both_up).await;

    plane.named("cp-b").unwrap().kill().await;
    until_explained(&agent, POLICIES, "capable_server_unreachable").await;
    let peer_down = [
        (Method::GET, MAPS, "local_serves"),
        (Method::GET, POLICIES, "capable_server_unreachable"),
        (Method::PATCH, resize.as_str(), "capable_server_unreachable"),
        (
            Method::GET,
            "/apis/resource.k8s.io/v1",
            "capable_server_unreachable",
        ),
    ];
    agrees(&agent, &client, "peer-down", &peer_down).await;

    plane.named("cp-b").unwrap().start().await.unwrap();
    until_explained(&agent, POLICIES, "peer_serves").await;
    plane.named("cp-a").unwrap().kill().await;
    until_explained(&agent, MAPS, "local_down").await;
    let local_down = [
        (Method::GET, MAPS, "local_down"),
        (Method::POST, PODS, "local_down"),
        (Method::GET, POLICIES, "peer_serves"),
        (Method::GET, "/apis", "discovery_merged"),
        (Method::GET, "/apis/apps/v1", "local_down"),
        (Method::GET, "/apis/example.com/v1/widgets", "unknown_key"),
    ];
    agrees(&agent, &client, "local-down", &local_down).await;
}

#[tokio::test]
async fn no_agent_is_said_in_one_line() {
    let free = free_port("127.0.0.1").unwrap();
    let output = Command::new(AGENT)
        .args(["status", "--admin", &format!("http://{free}")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    let line = text(&output.stderr);
    assert!(
        line.starts_with(&format!("mvp: no agent answers at {free}: ")),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
}
