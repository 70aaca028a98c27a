//! The access log: one line for every request, whatever became of it, and no secrets in it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use http::{Method, StatusCode};
use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::client::{Client, empty};
use mvp_tests::sim::api::authn::User;
use mvp_tests::sim::pki::{ClientAuth, Request};
use mvp_tests::sim::{ControlPlane, ServerSpec};
use mvp_tests::tunnel::{RawConnection, WEBSOCKET};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
const LIMIT: Duration = Duration::from_secs(30);
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const POLICIES_KEY: &str = "admissionregistration.k8s.io/v1 mutatingadmissionpolicies";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &[&str] = &["--log-format", "json"];

/// Servers cp-a (1.35, local), cp-b (1.36), and the agent of cp-a, which polls them once and then only on request, so that a
/// fault that is set for one request hits that one.
async fn setup(flags: &[&str]) -> (ControlPlane, ChildAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let user = User {
        name: "carol".into(),
        groups: vec!["system:masters".into()],
        ..User::default()
    };
    plane.add_token("s3cret-token", user);
    let agent = ChildAgent::start_with(AGENT, &plane, "cp-a", flags, |config| {
        config["discovery"] = json!({"interval": "1h", "staleAfter": "2h"});
    })
    .await
    .unwrap();
    (plane, agent)
}

fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

/// The one access line of the request with this Audit-ID.
async fn line(agent: &ChildAgent, id: &str) -> Value {
    let lines = || {
        let lines = agent.access_log().into_iter();
        lines.filter(|l| l["audit_id"] == id).collect::<Vec<_>>()
    };
    eventually(&format!("an access line for {id}"), LIMIT, || async {
        Ok(!lines().is_empty())
    })
    .await
    .unwrap();
    let mut lines = lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

async fn get(client: &Client, target: &str, id: &str) -> StatusCode {
    client
        .get(target, &[("audit-id", id)])
        .await
        .unwrap()
        .status
}

fn assert_fields(line: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name} of {line}");
    }
}

#[tokio::test]
async fn a_line_says_who_asked_what_and_who_answered() {
    let (plane, agent) = setup(JSON).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();

    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let headers = [("audit-id", "create")];
    let created = client.post_json(MAPS, &headers, &map).await.unwrap();
    let created_line = line(&agent, "create").await;
    assert_fields(
        &created_line,
        &json!({
            "level": "INFO",
            "user": "kubernetes-admin",
            "method": "POST",
            "path": MAPS,
            "key": "v1 configmaps",
            "decision": "local_serves",
            "server": "cp-a",
            "server_address": plane.named("cp-a").unwrap().addr().to_string(),
            "status": 201,
            "attempts": 1,
            "received": map.to_string().len(),
            "sent": created.body.len(),
            "ended": "complete",
        }),
    );
    assert_eq!(created_line.get("error"), None);
    let client_address = created_line["client"].as_str().unwrap();
    assert!(client_address.starts_with("127.0.0.1:"), "{client_address}");
    let micros = |name: &str| created_line[name].as_u64().unwrap();
    assert!(micros("agent_us") + micros("server_us") <= micros("total_us"));
    assert!(micros("server_us") > 0);

    assert_eq!(get(&client, POLICIES, "forwarded").await, 200);
    assert_fields(
        &line(&agent, "forwarded").await,
        &json!({
            "user": "kubernetes-admin",
            "key": POLICIES_KEY,
            "decision": "peer_serves",
            "server": "cp-b",
            "server_address": plane.named("cp-b").unwrap().addr().to_string(),
            "status": 200,
            "client": client_address,
        }),
    );

    // A 404 is read by the agent before it is passed on; the line is as complete as any other.
    assert_eq!(get(&client, &format!("{MAPS}/nope"), "missing").await, 404);
    assert_fields(
        &line(&agent, "missing").await,
        &json!({
            "decision": "local_serves",
            "server": "cp-a",
            "server_address": plane.named("cp-a").unwrap().addr().to_string(),
            "status": 404,
            "ended": "complete",
        }),
    );

    // Not a resource: no key. HTTP/1.1 as well as HTTP/2; bytes none, as HEAD has none.
    let http1 = agent.http1(&plane, admin(&plane)).await.unwrap();
    let headers = [("audit-id", "head")];
    let head = http1.call(Method::HEAD, "/version", &headers, empty());
    assert_eq!(head.await.unwrap().status, 200);
    assert_fields(
        &line(&agent, "head").await,
        &json!({"method": "HEAD", "key": "", "decision": "probe", "sent": 0, "ended": "complete"}),
    );
    assert_eq!(agent.access_log().len(), 4);
}

#[tokio::test]
async fn a_line_tells_how_many_servers_were_tried() {
    let (plane, agent) = setup(JSON).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    plane.named("cp-a").unwrap().reset_next(1);
    assert_eq!(get(&client, MAPS, "again").await, 200);
    assert_fields(
        &line(&agent, "again").await,
        &json!({"attempts": 2, "server": "cp-b", "status": 200}),
    );
}

#[tokio::test]
async fn answers_of_the_agent_itself_have_their_reason() {
    let (plane, agent) = setup(JSON).await;
    plane.named("cp-b").unwrap().kill().await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let answer = client.get(POLICIES, &[("audit-id", "down")]).await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["audit-id"], "down");
    let down = line(&agent, "down").await;
    assert_fields(
        &down,
        &json!({
            "user": "kubernetes-admin",
            "key": POLICIES_KEY,
            "decision": "server_failed",
            "server": "",
            "status": 503,
            "sent": answer.body.len(),
            "ended": "complete",
        }),
    );
    assert_eq!(down.get("server_address"), None);
    let error = down["error"].as_str().unwrap();
    assert!(
        error.starts_with("kube-apiserver cp-b did not answer: cannot connect: "),
        "{error}"
    );

    // Now that it is known to be down, nobody is asked.
    assert_eq!(get(&client, POLICIES, "still").await, 503);
    assert_fields(
        &line(&agent, "still").await,
        &json!({"decision": "capable_server_unreachable", "attempts": 0, "server_us": 0}),
    );

    // Whoever shows an expired certificate is nobody.
    let mut expired = Request::new("mallory", &[]);
    expired.not_before -= time::Duration::days(3);
    expired.not_after -= time::Duration::days(3);
    let mallory = ClientAuth::Certificate(plane.pki().issue(&expired).unwrap());
    let client = agent.http2(&plane, mallory).await.unwrap();
    assert_eq!(get(&client, MAPS, "expired").await, 401);
    let line = line(&agent, "expired").await;
    assert_fields(
        &line,
        &json!({"user": "", "decision": "refused_unauthorized", "server": "", "error": "Unauthorized"}),
    );
}

#[tokio::test]
async fn a_request_that_its_client_gave_up_has_its_line() {
    let (plane, agent) = setup(JSON).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let local = plane.named("cp-a").unwrap();
    local.slow(Duration::from_secs(600));
    let headers = [("audit-id", "gone")];
    let request = client
        .request(Method::GET, MAPS, &headers, empty())
        .unwrap();
    tokio::select! {
        answer = client.send(request) => panic!("{answer:?}"),
        arrived = eventually("the server has the request", LIMIT, || async {
            Ok(local.streams() > 0)
        }) => arrived.unwrap(),
    }
    assert_fields(
        &line(&agent, "gone").await,
        &json!({
            "user": "kubernetes-admin",
            "key": "v1 configmaps",
            "decision": "local_serves",
            "server": "cp-a",
            "status": 499,
            "attempts": 1,
            "sent": 0,
            "error": "the client went away before the answer",
        }),
    );
    let sample = r#"mvp_requests_total{decision="local_serves",server="cp-a",code="499"}"#;
    assert_eq!(agent.metric(sample).await.unwrap(), 1.0);

    // A watch that the client leaves had its answer; it is cut all the same.
    local.slow(Duration::ZERO);
    let target = format!("{MAPS}?watch=true");
    let headers = [("audit-id", "watch")];
    let request = client.request(Method::GET, &target, &headers, empty());
    let watch = client.send(request.unwrap()).await.unwrap();
    assert_eq!(watch.status(), 200);
    drop(watch);
    assert_fields(
        &line(&agent, "watch").await,
        &json!({"path": MAPS, "status": 200, "ended": "cut"}),
    );
}

#[tokio::test]
async fn an_upgraded_connection_has_its_line_at_its_end() {
    let (plane, agent) = setup(JSON).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let created = client.post_json("/api/v1/namespaces/default/pods", &[], &pod);
    assert_eq!(created.await.unwrap().status, 201);

    let exec = "/api/v1/namespaces/default/pods/p/exec";
    let mut tunnel = RawConnection::open(agent.address, &plane, admin(&plane))
        .await
        .unwrap();
    let target = format!("{exec}?command=sh&command=hunter2");
    let headers = [WEBSOCKET, &[("audit-id", "exec")]].concat();
    let (status, _) = tunnel.exchange("GET", &target, &headers).await.unwrap();
    assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS);
    tunnel.echo(b"some bytes").await.unwrap();
    // Bytes count as they pass; the line comes when there will be no more.
    let sample = r#"mvp_tunnel_bytes_total{direction="to_server"}"#;
    assert!(agent.metric(sample).await.unwrap() >= 10.0);
    assert!(agent.access_log().iter().all(|l| l["audit_id"] != "exec"));
    drop(tunnel);
    let line = line(&agent, "exec").await;
    assert_fields(
        &line,
        &json!({
            "user": "kubernetes-admin",
            "path": exec,
            "key": "v1 pods/exec",
            "decision": "local_serves",
            "server": "cp-a",
            "server_address": plane.named("cp-a").unwrap().addr().to_string(),
            "status": 101,
            "attempts": 1,
        }),
    );
    for direction in ["received", "sent"] {
        assert!(line[direction].as_u64().unwrap() >= 10, "{line}");
    }
}

#[tokio::test]
async fn secrets_are_in_no_line_of_any_level_of_the_agents_own() {
    let flags = [JSON, &["--log-level", "mvp=trace,access=info"]].concat();
    let (plane, agent) = setup(&flags).await;
    let token = [
        ("authorization", "Bearer s3cret-token"),
        ("audit-id", "token"),
    ];
    let wrong = [
        ("authorization", "Bearer wr0ng-token"),
        ("audit-id", "wrong"),
    ];
    let client = agent.http2(&plane, ClientAuth::None).await.unwrap();
    let client = client.returning();
    let target = format!("{POLICIES}?labelSelector=hunter2");
    assert_eq!(client.get(&target, &token).await.unwrap().status, 200);
    assert_eq!(client.get(&target, &wrong).await.unwrap().status, 401);
    // Local answers name what was asked: also without the query.
    plane.named("cp-b").unwrap().kill().await;
    let last = [token[0], ("audit-id", "refused")];
    assert_eq!(client.get(&target, &last).await.unwrap().status, 503);
    let malformed = client.get("/api/v1/%zz?hunter2", &[("audit-id", "malformed")]);
    assert_eq!(malformed.await.unwrap().status, 400);
    let line = line(&agent, "malformed").await;
    assert_fields(&line, &json!({"decision": "refused_malformed"}));
    assert_eq!(agent.access_log().len(), 4);

    let log = agent.log();
    for secret in ["hunter2", "s3cret", "wr0ng", "Bearer"] {
        assert!(!log.contains(secret), "{secret} in\n{log}");
    }
    assert_fields(
        agent
            .access_log()
            .iter()
            .find(|l| l["audit_id"] == "token")
            .unwrap(),
        // Who a token belongs to only the server knows.
        &json!({"decision": "peer_serves", "server": "cp-b", "path": POLICIES}),
    );
}
