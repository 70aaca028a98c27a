//! Agents that relay early, and clients that give them reason to.

use std::time::Duration;

use mvp::config::{Config, Mode, SpliceMode};

use crate::agent::{TestAgent, eventually};
use crate::client::Client;
use crate::fixtures::{ONLY_36, SOON};

/// Forwarded requests that make a client hot.
pub const AFTER: u32 = 3;

/// Relays after a few requests, all of the node's connections, and without waiting for a certificate to grow old.
pub fn relaying(config: &mut Config) {
    config.relay.mode = Mode::Auto;
    config.relay.after = AFTER;
    config.relay.window = Duration::from_secs(60);
    config.relay.max_share = 1.0;
    config.relay.certificate_age = Duration::ZERO;
    config.kernel.splice = SpliceMode::Copy;
}

/// How often connections were decided about so (`mvp_relay_decisions_total`).
pub async fn decisions(agent: &TestAgent, decision: &str) -> anyhow::Result<f64> {
    let name = format!("mvp_relay_decisions_total{{decision=\"{decision}\"}}");
    agent.metric(&name).await
}

/// Sends requests that only cp-b can answer until the agent has asked the client to reconnect; every one is answered.
pub async fn until_asked(agent: &TestAgent, client: &Client, headers: &[(&str, &str)]) {
    eventually("the client is asked to reconnect", SOON, || async {
        if agent.metric("mvp_relay_asked_total").await? > 0.0 {
            return Ok(true);
        }
        let answer = client.get(ONLY_36, headers).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        Ok(false)
    })
    .await
    .unwrap();
}
