//! What the agents say of the differences between servers, before and after an upgrade; and that a definition made through
//! any server is known to all of them by its event.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::process::Command;

use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{DEFINITIONS, SOON, definition, direct, plane, unpolled};
use mvp_tests::sim::api::authz::Rule;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");

async fn skew(agent: &TestAgent) -> Value {
    let (status, body) = agent.admin_get("/skew").await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// `mvp routes --diff`, off this runtime, which has the agents' servers to run.
async fn diff(admin: SocketAddr) -> String {
    let mut command = Command::new(AGENT);
    command
        .args(["routes", "--diff", "--admin", &format!("http://{admin}")])
        .env_remove("RUST_LOG");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn agents_agree_on_the_skew_and_it_is_gone_after_the_upgrade() {
    let plane = plane(&[35, 36]).await;
    let a = TestAgent::start(&plane, "cp-a").await.unwrap();
    let b = TestAgent::start(&plane, "cp-b").await.unwrap();
    let versions = |view: &Value| -> Vec<String> {
        let servers = view["servers"].as_array().unwrap().iter();
        let text = |s: &Value| format!("{}={}", s["name"], s["version"]);
        servers.map(text).collect()
    };
    for agent in [&a, &b] {
        eventually("versions are known", SOON, || async {
            let view = skew(agent).await;
            Ok(versions(&view).iter().all(|v| v.contains("=\"v1.3")))
        })
        .await
        .unwrap();
    }
    let (from_a, from_b) = (skew(&a).await, skew(&b).await);
    assert_eq!(from_a["rows"], from_b["rows"], "the agents agree");
    let rows = from_a["rows"].as_array().unwrap();
    let row = |group: &str, version: &str, resource: &str| {
        let mut rows = rows.iter();
        rows.find(|r| {
            r["group"] == group
                && r["version"] == version
                && r["resource"] == resource
                && r["subresource"] == ""
        })
    };
    let policies = row(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingadmissionpolicies",
    )
    .expect("1.36 only");
    assert_eq!(policies["servers"]["cp-a"]["state"], "lacks");
    assert_eq!(policies["servers"]["cp-b"]["state"], "serves");
    assert!(
        row("", "v1", "pods").is_none(),
        "both serve pods with every verb"
    );
    let of_a = &from_a["servers"][0];
    assert_eq!(
        (&of_a["name"], &of_a["local"], &of_a["newest"]),
        (&json!("cp-a"), &json!(true), &json!(false))
    );
    assert_eq!(from_a["servers"][1]["newest"], true);
    assert_eq!(from_a["servers"][1]["knowledge"], "fresh");
    let table = diff(a.admin).await;
    let line = "admissionregistration.k8s.io/v1";
    let shown = table.lines().find(|l| {
        l.split_whitespace().collect::<Vec<_>>()
            == [line, "mutatingadmissionpolicies", "lacks", "serves"]
    });
    assert!(shown.is_some(), "{table}");

    plane.server(0).restart(36).await.unwrap();
    for agent in [&a, &b] {
        eventually("nothing differs", SOON, || async {
            Ok(skew(agent).await["rows"] == json!([]))
        })
        .await
        .unwrap();
        let table = diff(agent.admin).await;
        assert!(
            table.ends_with("\nno differences among 2 servers\n"),
            "{table}"
        );
    }
}

#[tokio::test]
async fn a_definition_made_through_any_server_is_known_to_all_agents_without_a_poll() {
    let plane = plane(&[36, 36, 36]).await;
    plane.add_rule(Rule::resources(
        "system:mvp",
        &["list", "watch"],
        &["apiextensions.k8s.io", "apiregistration.k8s.io"],
        &["customresourcedefinitions", "apiservices"],
    ));
    let mut agents = Vec::new();
    for name in ["cp-a", "cp-b", "cp-c"] {
        // No interval ever ends, and no request asks for a refresh: only the event can tell.
        let agent = TestAgent::start_with(&plane, name, unpolled);
        agents.push(agent.await.unwrap());
    }
    for agent in &agents {
        eventually("watching", SOON, || async {
            let (_, status) = agent.admin_get("/status").await?;
            let status: Value = serde_json::from_str(&status)?;
            Ok(status["events"] == "watching")
        })
        .await
        .unwrap();
    }
    for (index, server) in plane.servers().iter().enumerate() {
        let group = format!("group{index}.example.com");
        let crd = definition(&group, "things", "Thing", json!({}));
        let maker = direct(&plane, server).await;
        let made = maker.post_json(DEFINITIONS, &[], &crd).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        for agent in &agents {
            eventually("every server is known to serve it", SOON, || async {
                let (_, routes) = agent.admin_get("/routes").await?;
                let routes: Value = serde_json::from_str(&routes)?;
                let mut routes = routes.as_array().unwrap().iter();
                let route = routes.find(|r| r["group"] == *group && r["subresource"] == "");
                Ok(route.is_some_and(|r| r["verbs"].as_object().unwrap().len() == 3))
            })
            .await
            .unwrap();
        }
    }
}
