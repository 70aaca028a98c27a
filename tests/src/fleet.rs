//! A control plane with an agent for each of its servers, and a client of each of both.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::agent::TestAgent;
use crate::client::{Answer, Client};
use crate::facts::{self, Facts, V2};
use crate::fixtures::{admin, available, direct, patient};
use crate::sim::{ControlPlane, Server, ServerSpec};

/// Everything is in the order of the servers.
pub struct Fleet {
    /// Its servers, key material and store.
    pub plane: ControlPlane,
    /// One for each server.
    pub agents: Vec<TestAgent>,
    /// The administrator's connections to the agents.
    pub clients: Vec<Client>,
    /// The administrator's connections to the servers themselves.
    pub servers: Vec<Client>,
}

impl Fleet {
    /// Starts all and waits until every agent knows every server.
    pub async fn start(specs: impl IntoIterator<Item = ServerSpec>) -> Self {
        let plane = ControlPlane::builder()
            .servers(specs)
            .start()
            .await
            .unwrap();
        let mut fleet = Self {
            agents: Vec::new(),
            clients: Vec::new(),
            servers: Vec::new(),
            plane,
        };
        for server in fleet.plane.servers() {
            let agent = TestAgent::start_with(&fleet.plane, server.name(), patient)
                .await
                .unwrap();
            fleet.clients.push(
                agent
                    .http2(&fleet.plane, admin(&fleet.plane))
                    .await
                    .unwrap(),
            );
            fleet.servers.push(direct(&fleet.plane, server).await);
            fleet.agents.push(agent);
        }
        for server in fleet.plane.servers() {
            fleet.knows(server).await;
        }
        fleet
    }

    /// Waits until every agent holds the server to be usable.
    pub async fn knows(&self, server: &Server) {
        for agent in &self.agents {
            available(agent, server.name()).await;
        }
    }

    /// The answer of every server itself, over a new connection where it has restarted.
    pub async fn ask_servers(&self, target: &str, headers: &[(&str, &str)]) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for (client, server) in self.servers.iter().zip(self.plane.servers()) {
            let answer = match client.get(target, headers).await {
                Err(_) => {
                    let client = direct(&self.plane, server).await;
                    client.get(target, headers).await?
                }
                answer => answer?,
            };
            answers.push(answer);
        }
        Ok(answers)
    }

    /// The answer through every agent.
    pub async fn ask_agents(&self, target: &str, headers: &[(&str, &str)]) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for client in &self.clients {
            let answer = client.get(target, headers).await;
            answers.push(answer.with_context(|| format!("GET {target} of {}", client.address))?);
        }
        Ok(answers)
    }

    /// What all servers together say; those that answer something else than 200 say nothing.
    pub async fn union(&self, target: &str, headers: &[(&str, &str)]) -> Result<Facts> {
        let mut union = Facts::new();
        for answer in self.ask_servers(target, headers).await? {
            if answer.status == 200 {
                union.extend(facts::of(&answer)?);
            }
        }
        Ok(union)
    }

    /// All group versions that any server has, `v1` of the core group among them.
    pub async fn group_versions(&self) -> Result<BTreeSet<String>> {
        let mut all = self.union("/apis", &[("accept", V2)]).await?;
        all.extend(self.union("/api", &[("accept", V2)]).await?);
        all.retain(|fact| !fact.contains(' '));
        Ok(all)
    }
}
