//! Findings about the agents of the other nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::Finding;
use super::super::facts::{AgentReport, Facts};
use super::{agent, canary, certificates, look, mend, ok};
use crate::admin::StatusView;

/// Findings about every agent except this node's own, which other findings cover.
pub(super) fn all(facts: &Facts, within: Duration) -> Vec<Finding> {
    let agents = match &facts.agents {
        None => {
            let detail = "only this node's was asked; --cluster asks those of all nodes";
            return vec![ok("agents", detail.to_owned())];
        }
        Some(Err(error)) => {
            return vec![mend("agents", format!("they are not known: {error}"))];
        }
        Some(Ok(agents)) => agents,
    };
    let own = &facts.status;
    let mut found = Vec::new();
    let mut servers: BTreeSet<&str> = local(own).into_iter().collect();
    for (name, report) in agents {
        match report {
            Err(error) => found.push(mend(&subject(name), format!("it cannot be asked: {error}"))),
            Ok(report) => {
                servers.extend(local(&report.status));
                if report.status.node != own.node {
                    found.extend(one(name, report, own, within));
                }
            }
        }
    }
    let without = own
        .servers
        .iter()
        .filter(|server| !servers.contains(server.name.as_str()));
    found.extend(without.map(|server| {
        let detail = "no agent was asked on its node: its clients meet it as it is";
        look(&server.name, detail.to_owned())
    }));
    found
}

fn one(name: &str, report: &AgentReport, own: &StatusView, within: Duration) -> Vec<Finding> {
    let (subject, status) = (subject(name), &report.status);
    let mut found = vec![agent(&subject, status)];
    if status.version != own.version {
        found.push(look(
            &subject,
            format!(
                "its version is {}, that of this node's agent {}",
                status.version, own.version
            ),
        ));
    }
    if status.servers.len() != own.servers.len() {
        found.push(look(
            &subject,
            format!(
                "it knows {} servers, this node's agent {}",
                status.servers.len(),
                own.servers.len()
            ),
        ));
    }
    let unproved = status
        .servers
        .iter()
        .filter(|server| server.proof.word() != "yes");
    found.extend(unproved.map(|server| {
        let detail = format!("{} was not shown to accept it", server.name);
        mend(&subject, detail)
    }));
    found.extend(certificates(&format!("{name}: "), status, within));
    found.extend(canary(&format!("canary on {name}"), &report.canary));
    found
}

fn subject(name: &str) -> String {
    format!("agent on {name}")
}

/// The server beside the agent.
fn local(status: &StatusView) -> Option<&str> {
    let local = status.servers.iter().find(|server| server.local);
    local.map(|server| server.name.as_str())
}
