//! Law 1: the agent takes connections only while it has proved that it can serve them. On nodes with steering: `passing`.

use std::path::Path;
use std::process::Command;

use mvp::config::Config;
use mvp_tests::agent::{TestAgent, eventually, settings};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{ONLY_36, SOON, admin, plane};
use mvp_tests::sim::api::authn::HeaderNames;
use mvp_tests::sim::pki::{Authority, ClientAuth, Request, Usage};
use mvp_tests::sim::{ControlPlane, ServerSpec};
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MASTERS: &str = "system:masters";

fn names(group: &[&str]) -> HeaderNames {
    HeaderNames {
        groups: group.iter().map(|name| (*name).to_owned()).collect(),
        ..HeaderNames::default()
    }
}

async fn alice(plane: &ControlPlane, agent: &TestAgent) -> Client {
    let auth = ClientAuth::Certificate(plane.pki().alice().unwrap());
    agent.http2(plane, auth).await.unwrap()
}

async fn status(agent: &TestAgent) -> Value {
    serde_json::from_str(&agent.admin_get("/status").await.unwrap().1).unwrap()
}

/// The proof of a server in `mvp servers`.
async fn proof(agent: &TestAgent, server: &str) -> Value {
    let status = status(agent).await;
    let mut servers = status["servers"].as_array().unwrap().iter();
    servers.find(|one| one["name"] == server).unwrap()["proof"].clone()
}

/// Whether any request that a server received had this header.
fn received(plane: &ControlPlane, target: &str, header: &str) -> bool {
    let all = plane.servers().iter().flat_map(|server| server.requests());
    let mut of_target = all.filter(|request| request.target == target).peekable();
    assert!(of_target.peek().is_some(), "{target} reached a server");
    of_target.any(|request| request.headers.contains_key(header))
}

#[tokio::test]
async fn a_group_header_that_only_a_server_knows_makes_nobody_a_master() {
    let both = names(&["X-Remote-Group", "X-Custom-Group"]);
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35).header_names(both))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = alice(&plane, &agent).await;
    for name in ["X-Custom-Group", "x_custom_group"] {
        let answer = client.get(SECRETS, &[(name, MASTERS)]).await.unwrap();
        assert_eq!(answer.status, 403, "{name}: {}", answer.text());
    }
    assert!(!received(&plane, SECRETS, "x-custom-group"));
    assert_eq!(proof(&agent, "cp-a").await["headerNames"], "known");
    let stripped = agent
        .metric("mvp_headers_stripped_total{kind=\"group\"}")
        .await
        .unwrap();
    assert!(stripped >= 2.0);
}

#[tokio::test]
async fn published_names_are_followed_while_running() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = alice(&plane, &agent).await;
    client
        .get(SECRETS, &[("x-late-group", MASTERS)])
        .await
        .unwrap();
    assert!(
        received(&plane, SECRETS, "x-late-group"),
        "nobody knows it yet"
    );
    // As a restarted server with another flag does.
    let direct = mvp_tests::fixtures::direct(&plane, plane.server(1)).await;
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let mut object = direct.get(path, &[]).await.unwrap().json();
    object["data"]["requestheader-group-headers"] = json!("[\"X-Remote-Group\",\"X-Late-Group\"]");
    let written = direct
        .call(
            http::Method::PUT,
            path,
            &[("content-type", "application/json")],
            mvp_tests::client::full(object.to_string()),
        )
        .await
        .unwrap();
    assert_eq!(written.status, 200, "{}", written.text());
    eventually("the late name is deleted", SOON, || async {
        plane.server(0).clear_requests();
        plane.server(1).clear_requests();
        let answer = client.get(SECRETS, &[("x-late-group", MASTERS)]).await?;
        anyhow::ensure!(answer.status == 403, "{}", answer.text());
        Ok(!received(&plane, SECRETS, "x-late-group"))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn without_the_role_only_harmless_headers_pass_and_it_is_told() {
    let both = names(&["X-Remote-Group", "X-Custom-Group"]);
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35).header_names(both))
        .start()
        .await
        .unwrap();
    let mut policy = (*plane.policy()).clone();
    policy.rules.clear();
    plane.server(0).set_policy(policy);
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = alice(&plane, &agent).await;
    let sent = [
        ("x-custom-group", MASTERS),
        ("x-anything", "1"),
        ("accept", "application/json"),
    ];
    let answer = client.get(SECRETS, &sent).await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    for gone in ["x-custom-group", "x-anything"] {
        assert!(!received(&plane, SECRETS, gone), "{gone}");
    }
    assert!(received(&plane, SECRETS, "accept"));
    let told = proof(&agent, "cp-a").await["headerNames"].to_string();
    assert!(
        told.contains("unreadable") && told.contains("rbac.yaml"),
        "{told}"
    );
}

#[tokio::test]
async fn the_agent_asks_by_the_configured_names() {
    let own = HeaderNames {
        users: vec!["X-Corp-User".into()],
        uids: vec!["X-Corp-Uid".into()],
        groups: vec!["X-Corp-Group".into()],
        extra_prefixes: vec!["X-Corp-Extra-".into()],
    };
    let spec = |name: &str, minor| ServerSpec::new(name, minor).header_names(own.clone());
    let plane = ControlPlane::builder()
        .server(spec("cp-a", 35))
        .server(spec("cp-b", 36))
        .start()
        .await
        .unwrap();
    mvp_tests::rbac::apply(&plane).unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        let header = config.request_header.as_mut().unwrap();
        header.username_headers = own.users.clone();
        header.uid_headers = own.uids.clone();
        header.group_headers = own.groups.clone();
        header.extra_header_prefixes = own.extra_prefixes.clone();
    })
    .await
    .unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
    for server in plane.servers() {
        let path = format!("/mvp/servers/{}/metrics", server.name());
        let (code, text) = agent.operate("GET", &path).await.unwrap();
        assert_eq!(code, 200, "{text}");
    }
}

#[tokio::test]
async fn an_unproved_peer_serves_tokens_and_no_asserted_user() {
    let plane = plane(&[35, 36]).await;
    plane.server(1).refuse_front_proxy(true);
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let token = agent.http2(&plane, ClientAuth::None).await.unwrap();
    let bearer = [("authorization", "Bearer admin-token")];
    // What it serves cannot be asked as long as it refuses the agent; so first it does not.
    plane.server(1).refuse_front_proxy(false);
    eventually("the peer's types are known", SOON, || async {
        Ok(token.get(ONLY_36, &bearer).await?.status == 200)
    })
    .await
    .unwrap();
    plane.server(1).refuse_front_proxy(true);
    eventually("the refusal is found", SOON, || async {
        Ok(proof(&agent, "cp-b").await["assertedUsers"]["proved"] == false)
    })
    .await
    .unwrap();
    let user = agent.http2(&plane, admin(&plane)).await.unwrap();
    let before = plane.server(1).requests().len();
    let answer = user.get(ONLY_36, &[]).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    let seen = plane.server(1).requests();
    assert!(
        seen[before..]
            .iter()
            .all(|request| request.target != ONLY_36)
    );
    let answer = token.get(ONLY_36, &bearer).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let path = format!("/explain?method=GET&path={ONLY_36}");
    let (_, line) = agent.admin_get(&path).await.unwrap();
    assert!(line.contains("not proved for asserted users"), "{line}");
    // The local server is proved: the agent stays ready.
    assert_eq!(agent.admin_get("/readyz").await.unwrap().0, 200);
    assert_eq!(
        agent
            .metric("mvp_server_proved{server=\"cp-b\",class=\"asserted\"}")
            .await
            .unwrap(),
        0.0
    );
    assert_eq!(
        agent
            .metric("mvp_server_proved{server=\"cp-b\",class=\"token\"}")
            .await
            .unwrap(),
        1.0
    );
}

#[tokio::test]
async fn without_steering_an_unproved_local_server_is_told_and_tokens_are_served() {
    let plane = plane(&[35]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    plane.server(0).refuse_front_proxy(true);
    eventually("it is not ready", SOON, || async {
        let (code, text) = agent.admin_get("/readyz").await?;
        Ok(code == 503 && text.contains("cp-a") && text.contains("local_unproved"))
    })
    .await
    .unwrap();
    let token = agent.http2(&plane, ClientAuth::None).await.unwrap();
    let bearer = [("authorization", "Bearer admin-token")];
    assert_eq!(token.get(SECRETS, &bearer).await.unwrap().status, 200);
    let user = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(user.get(SECRETS, &[]).await.unwrap().status, 503);
    plane.server(0).refuse_front_proxy(false);
    eventually("it is ready again", SOON, || async {
        Ok(agent.admin_get("/readyz").await?.0 == 200)
    })
    .await
    .unwrap();
    assert_eq!(user.get(SECRETS, &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn before_1_28_the_403_names_the_user() {
    let plane = plane(&[35]).await;
    plane.server(0).lack_reviews(true);
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let user = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(user.get(SECRETS, &[]).await.unwrap().status, 200);
    let asked = plane.server(0).requests();
    assert!(
        asked
            .iter()
            .any(|request| request.target.starts_with("/mvp-proof/"))
    );
}

/// A server that has just started answers 403 to everybody; that is no matter of certificates.
#[tokio::test]
async fn a_server_in_its_first_second_is_no_certificate_problem() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    plane.server(0).warm_up(true);
    eventually("the polls are refused", SOON, || async {
        let status = status(&agent).await;
        Ok(status["servers"][0]["lastError"]
            .to_string()
            .contains("403"))
    })
    .await
    .unwrap();
    let (code, text) = agent.admin_get("/readyz").await.unwrap();
    assert_eq!(code, 200, "{text}");
    let user = agent.http2(&plane, admin(&plane)).await.unwrap();
    assert_eq!(
        user.get("/api/v1/namespaces", &[]).await.unwrap().status,
        200
    );
}

/// Runs `mvp agent` with this pair and gives its exit code and what it says.
fn start_with_pair(plane: &ControlPlane, name: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    // Whoever tried to bind would say that they are taken.
    let taken = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [listen, admin] = taken.each_ref().map(|one| one.local_addr().unwrap());
    let mut config = settings(plane, "cp-a", listen, admin)
        .unwrap()
        .config(plane.pki().dir());
    config["upstream"]["clientCertFile"] = json!(plane.pki().path(&format!("{name}.crt")));
    config["upstream"]["clientKeyFile"] = json!(plane.pki().path(&format!("{name}.key")));
    let file = dir.path().join("agent.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mvp-agent"))
        .args(["agent", "--config"])
        .arg(file)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

fn write_pair(plane: &ControlPlane, name: &str, request: &Request) {
    let identity = plane.pki().issue(request).unwrap();
    let write = |end: &str, text: &str| {
        std::fs::write(plane.pki().path(&format!("{name}.{end}")), text).unwrap()
    };
    write("crt", &identity.cert_pem);
    write("key", &identity.key_pem);
}

#[tokio::test]
async fn a_pair_that_cannot_assert_users_is_refused_at_start() {
    let plane = plane(&[35]).await;
    let proxy = |name: &str| Request {
        authority: Authority::FrontProxy,
        ..Request::new(name, &[])
    };
    write_pair(
        &plane,
        "kubelet-client",
        &Request::new("kube-apiserver-kubelet-client", &[MASTERS]),
    );
    write_pair(&plane, "somebody", &proxy("somebody"));
    let serving = Request {
        usage: Usage::Server,
        ..proxy("front-proxy-client")
    };
    write_pair(&plane, "serving", &serving);
    let other = mvp_tests::sim::pki::Pki::generate(&plane.pki().path("other")).unwrap();
    for end in ["crt", "key"] {
        let (from, to) = (
            format!("front-proxy-client.{end}"),
            format!("foreign.{end}"),
        );
        std::fs::copy(other.path(&from), plane.pki().path(&to)).unwrap();
    }
    for (pair, says) in [
        (
            "admin",
            "clientCAFile accepts it as the user \"kubernetes-admin\"",
        ),
        (
            "kubelet-client",
            "clientCAFile accepts it as the user \"kube-apiserver-kubelet-client\"",
        ),
        ("foreign", "does not lead to requestHeader.clientCAFile"),
        (
            "somebody",
            "\"somebody\" is not among requestHeader.allowedNames",
        ),
        ("serving", "does not include client authentication"),
    ] {
        let (code, text) = start_with_pair(&plane, pair);
        assert_eq!(code, Some(64), "{pair}: {text}");
        assert!(
            text.starts_with("mvp: upstream.clientCertFile: ") && text.contains(says),
            "{pair}: {text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

/// Points the agent at copies of the pair, which a test may replace.
fn copied_pair(plane: &ControlPlane, dir: &Path) -> impl FnOnce(&mut Config) + use<> {
    replace_pair(plane, dir, "front-proxy-client");
    let dir = dir.to_owned();
    move |config| {
        let client = config.upstream.client.as_mut().unwrap();
        client.cert_file = dir.join("pair.crt");
        client.key_file = dir.join("pair.key");
    }
}

fn replace_pair(plane: &ControlPlane, dir: &Path, with: &str) {
    for end in ["crt", "key"] {
        let fresh = dir.join(format!("new.{end}"));
        std::fs::copy(plane.pki().path(&format!("{with}.{end}")), &fresh).unwrap();
        std::fs::rename(fresh, dir.join(format!("pair.{end}"))).unwrap();
    }
}

#[tokio::test]
async fn a_reload_brings_no_users_pair_into_use() {
    let plane = plane(&[35]).await;
    let dir = tempfile::tempdir().unwrap();
    let copied = copied_pair(&plane, dir.path());
    let agent = TestAgent::start_with(&plane, "cp-a", copied).await.unwrap();
    let client = alice(&plane, &agent).await;
    assert_eq!(client.get(SECRETS, &[]).await.unwrap().status, 403);
    replace_pair(&plane, dir.path(), "admin");
    eventually("the new pair is refused", SOON, || async {
        let certificates = status(&agent).await["certificates"].to_string();
        Ok(certificates.contains("must not be used"))
    })
    .await
    .unwrap();
    let fresh = alice(&plane, &agent).await;
    assert_eq!(fresh.get(SECRETS, &[]).await.unwrap().status, 403);
    assert_eq!(agent.admin_get("/readyz").await.unwrap().0, 200);
    // A good one is taken, and every server is proved with it.
    write_pair(
        &plane,
        "renewed",
        &Request {
            authority: Authority::FrontProxy,
            ..Request::new("front-proxy-client", &[])
        },
    );
    let proofs = |plane: &ControlPlane| {
        let all = plane.server(0).requests();
        all.iter()
            .filter(|request| request.target.ends_with("/selfsubjectreviews"))
            .count()
    };
    let before = proofs(&plane);
    replace_pair(&plane, dir.path(), "renewed");
    eventually("the servers are proved again", SOON, || async {
        Ok(proofs(&plane) >= before + 2)
    })
    .await
    .unwrap();
    assert_eq!(fresh.get(SECRETS, &[]).await.unwrap().status, 403);
}

#[tokio::test]
async fn a_client_only_ca_is_named_as_the_likely_cause() {
    let plane = plane(&[35]).await;
    let other = mvp_tests::sim::pki::Pki::generate(&plane.pki().path("other")).unwrap();
    let ca = other.path("ca.crt");
    // As with k3s: the CA of clients is named where that of servers belongs.
    let agent = TestAgent::start_unready(&plane, "cp-a", |config| {
        config.client_ca_file = Some(ca.clone());
        config.upstream.ca_file = ca;
    })
    .unwrap();
    eventually("the cause is named", SOON, || async {
        let (code, text) = agent.admin_get("/readyz").await?;
        Ok(code == 503 && text.contains("does not verify") && text.contains("server-ca.crt"))
    })
    .await
    .unwrap();
}
