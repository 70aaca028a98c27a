//! A control plane in the middle of an upgrade, behind an agent that relays early.

use std::sync::Arc;

use mvp::config::Config;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{ONLY_36, SOON, admin, plane};
pub(crate) use mvp_tests::relaying::{AFTER, decisions, relaying, until_asked};
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, Recorded, Server};

/// cp-a (1.35) and cp-b (1.36), and the agent of cp-a.
pub(crate) async fn mixed(change: impl FnOnce(&mut Config)) -> (ControlPlane, TestAgent) {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        relaying(config);
        change(config);
    })
    .await
    .unwrap();
    (plane, agent)
}

pub(crate) fn tls(plane: &ControlPlane, auth: ClientAuth) -> Arc<rustls::ClientConfig> {
    plane.pki().client_config(auth, &[]).unwrap().into()
}

pub(crate) async fn retired(agent: &TestAgent, reason: &str) -> anyhow::Result<f64> {
    let name = format!("mvp_relay_retired_total{{reason=\"{reason}\"}}");
    agent.metric(&name).await
}

pub(crate) async fn open(agent: &TestAgent, server: &str) -> anyhow::Result<f64> {
    let name = format!("mvp_relayed_connections{{server=\"{server}\"}}");
    agent.metric(&name).await
}

/// The administrator's new connection to the agent, which is relayed to cp-b.
pub(crate) async fn relayed(plane: &ControlPlane, agent: &TestAgent) -> Client {
    let first = agent.http2(plane, admin(plane)).await.unwrap();
    until_asked(agent, &first, &[]).await;
    let before = open(agent, "cp-b").await.unwrap();
    let client = agent.http2(plane, admin(plane)).await.unwrap();
    assert_eq!(open(agent, "cp-b").await.unwrap(), before + 1.0);
    client
}

/// A client whose requests are forwarded and who opens connection after connection, until one is inspected for this reason; each
/// of its requests is answered.
pub(crate) async fn inspected_because(
    agent: &TestAgent,
    tls: &Arc<rustls::ClientConfig>,
    name: &str,
    reason: &str,
) {
    eventually(reason, SOON, || async {
        let client = Client::http2_naming(agent.address, tls, name).await?;
        for _ in 0..=AFTER {
            let answer = client.get(ONLY_36, &[]).await?;
            anyhow::ensure!(answer.status == 200, "{}", answer.text());
        }
        Ok(decisions(agent, reason).await? > 0.0)
    })
    .await
    .unwrap();
    assert_eq!(decisions(agent, "relayed").await.unwrap(), 0.0);
    assert_eq!(agent.metric("mvp_relay_asked_total").await.unwrap(), 0.0);
}

/// The last request for this target that a server got.
pub(crate) fn last(server: &Server, target: &str) -> Arc<Recorded> {
    let requests = server.requests();
    let found = requests.iter().rev().find(|r| r.target == target);
    Arc::clone(found.unwrap_or_else(|| panic!("{} never got {target}", server.name())))
}
