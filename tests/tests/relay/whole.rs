//! Clients that keep asking for what only another server has: asked to reconnect, and then forwarded whole.

use crate::common::{decisions, last, mixed, open, relayed, tls, until_asked};
use http::Version;
use mvp_tests::agent::eventually;
use mvp_tests::client::Client;
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, SOON, admin, config_map};
use mvp_tests::kubectl::Kubectl;
use mvp_tests::sim::api::authn::{Method, User};
use mvp_tests::sim::pki::{ClientAuth, KubeconfigUser};

#[tokio::test]
async fn an_http2_client_is_relayed_with_its_own_certificate() {
    let (plane, agent) = mixed(|_| {}).await;
    let first = agent.http2(&plane, admin(&plane)).await.unwrap();
    until_asked(&agent, &first, &[]).await;
    assert_eq!(last(plane.server(1), ONLY_36).how, Some(Method::FrontProxy));
    eventually("the asked connection ends", SOON, || async {
        Ok(first.get(CONFIG_MAPS, &[]).await.is_err())
    })
    .await
    .unwrap();

    let second = agent.http2(&plane, admin(&plane)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(second.get(ONLY_36, &[]).await.unwrap().status, 200);
    }
    let request = last(plane.server(1), ONLY_36);
    assert_eq!(request.how, Some(Method::Certificate));
    assert_eq!(request.user.as_ref().unwrap().name, "kubernetes-admin");
    assert_eq!(request.version, Version::HTTP_2);
    for name in [
        "x-remote-user",
        "x-forwarded-for",
        "x-kubernetes-peer-proxied",
    ] {
        assert!(!request.headers.contains_key(name), "{name}");
    }
    // What both serve goes there as well: nobody looks into this connection.
    let created = second.post_json(CONFIG_MAPS, &[], &config_map("m")).await;
    assert_eq!(created.unwrap().status, 201);
    assert_eq!(
        last(plane.server(1), CONFIG_MAPS).how,
        Some(Method::Certificate)
    );

    assert_eq!(open(&agent, "cp-b").await.unwrap(), 1.0);
    assert_eq!(decisions(&agent, "relayed").await.unwrap(), 1.0);
    let (_, status) = agent.admin_get("/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["relay"]["open"]["cp-b"], 1);
    assert_eq!(status["relay"]["mode"], "copy");
    drop(second);
    eventually("its end is seen and counted", SOON, || async {
        let ended = "mvp_spliced_connections_total{mode=\"copy\"}";
        Ok(open(&agent, "cp-b").await? == 0.0 && agent.metric(ended).await? == 1.0)
    })
    .await
    .unwrap();
    let received = agent.metric("mvp_spliced_bytes_total{direction=\"to_server\"}");
    assert!(received.await.unwrap() > 500.0);
}

#[tokio::test]
async fn an_http11_client_with_a_token_is_told_to_close_and_relayed() {
    let (plane, agent) = mixed(|_| {}).await;
    let user = User {
        name: "carol".into(),
        groups: vec!["system:masters".into()],
        ..User::default()
    };
    plane.add_token("t0ken", user);
    let bearer = [("authorization", "Bearer t0ken")];
    let first = agent.http1(&plane, ClientAuth::None).await.unwrap();
    eventually("an answer says that the connection ends", SOON, || {
        let answer = first.get(ONLY_36, &bearer);
        async {
            let answer = answer.await?;
            anyhow::ensure!(answer.status == 200, "{}", answer.text());
            Ok(answer
                .headers
                .get("connection")
                .is_some_and(|c| c == "close"))
        }
    })
    .await
    .unwrap();
    eventually("it has ended", SOON, || {
        let next = first.get(CONFIG_MAPS, &bearer);
        async { Ok(next.await.is_err()) }
    })
    .await
    .unwrap();
    assert_eq!(agent.metric("mvp_relay_asked_total").await.unwrap(), 1.0);

    let second = agent.http1(&plane, ClientAuth::None).await.unwrap();
    assert_eq!(second.get(ONLY_36, &bearer).await.unwrap().status, 200);
    let request = last(plane.server(1), ONLY_36);
    assert_eq!(request.how, Some(Method::Token));
    assert_eq!(request.version, Version::HTTP_11);
    assert!(!request.headers.contains_key("x-forwarded-for"));
    assert_eq!(open(&agent, "cp-b").await.unwrap(), 1.0);
}

#[tokio::test]
async fn explain_says_what_then_happens() {
    let (plane, agent) = mixed(|_| {}).await;
    let explain = "/explain?connection=127.0.0.1&serverName=kubernetes";
    let (status, before) = agent.admin_get(explain).await.unwrap();
    assert_eq!(status, 200);
    let before: serde_json::Value = serde_json::from_str(&before).unwrap();
    assert_eq!(before["decision"], "not_hot", "{before}");
    let first = agent.http2(&plane, admin(&plane)).await.unwrap();
    until_asked(&agent, &first, &[]).await;
    let (_, after) = agent.admin_get(explain).await.unwrap();
    let after: serde_json::Value = serde_json::from_str(&after).unwrap();
    assert_eq!(after["decision"], "relayed", "{after}");
    assert_eq!(after["server"], "cp-b");
    let other = agent.admin_get("/explain?connection=127.0.0.9&serverName=kubernetes");
    assert!(other.await.unwrap().1.contains("not_hot"));
    let client = Client::http2(agent.address, &tls(&plane, admin(&plane))).await;
    assert_eq!(client.unwrap().get(ONLY_36, &[]).await.unwrap().status, 200);
    assert_eq!(decisions(&agent, "relayed").await.unwrap(), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_and_the_kube_crate_work_through_it() {
    let (plane, agent) = mixed(|_| {}).await;
    // By name: a client that dials an address names no server.
    let url = format!("https://localhost:{}", agent.address.port());
    let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let file = plane.kubeconfig("relay.kubeconfig", &url, &user).unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(&file).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let get = || async {
        let request = http::Request::get(ONLY_36).body(Vec::new())?;
        Ok::<_, anyhow::Error>(client.request_text(request).await?)
    };
    eventually("the kube crate's client has come again", SOON, || async {
        get().await?;
        Ok(decisions(&agent, "relayed").await? > 0.0)
    })
    .await
    .unwrap();
    assert!(get().await.unwrap().contains("MutatingAdmissionPolicyList"));
    assert_eq!(
        last(plane.server(1), ONLY_36).how,
        Some(Method::Certificate)
    );

    let Some(kubectl) = Kubectl::find(&file) else {
        return;
    };
    let before = decisions(&agent, "relayed").await.unwrap();
    let output = tokio::task::spawn_blocking(move || {
        kubectl.run(
            &["create", "configmap", "whole", "--from-literal", "k=v"],
            "",
        );
        let value = ["get", "configmap", "whole", "-o", "jsonpath={.data.k}"];
        (kubectl.run(&value, ""), kubectl.run(&["api-resources"], ""))
    });
    let (value, resources) = output.await.unwrap();
    assert_eq!(value, "v");
    assert!(
        resources.contains("mutatingadmissionpolicies"),
        "{resources}"
    );
    assert!(decisions(&agent, "relayed").await.unwrap() > before);
}

#[tokio::test]
async fn a_relayed_client_stays_served_when_the_server_dies() {
    let (plane, agent) = mixed(|_| {}).await;
    let client = relayed(&plane, &agent).await;
    assert_eq!(client.get(ONLY_36, &[]).await.unwrap().status, 200);
    plane.server(1).kill().await;
    eventually("the relayed connection is gone", SOON, || async {
        Ok(client.get(CONFIG_MAPS, &[]).await.is_err() && open(&agent, "cp-b").await? == 0.0)
    })
    .await
    .unwrap();
    let next = agent.http2(&plane, admin(&plane)).await.unwrap();
    let answer = next.get(CONFIG_MAPS, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}
