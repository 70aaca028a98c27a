//! `mvp check upgrade`: whether the control plane can be upgraded now, as far as this node's agent can know.

mod facts;
mod judge;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::client::ClientError;
use super::command::Ask;
use super::output::print;
use crate::config::parse_duration;
use crate::text::table::{clean, table};
use judge::Minor;

/// kube-apiserver's manifest on a kubeadm node.
const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

#[derive(clap::Args, Debug)]
pub struct Upgrade {
    /// The version to which the servers will be upgraded, such as v1.36; default: the next minor version after the newest.
    #[arg(long, value_name = "VERSION", value_parser = judge::minor)]
    to: Option<Minor>,
    /// A certificate that ends within this is worth a word: as long as the upgrade may take.
    #[arg(long, value_name = "DURATION", default_value = "168h", value_parser = parse_duration)]
    within: Duration,
    /// The local kube-apiserver's manifest, where there is one.
    #[arg(long, value_name = "FILE", default_value = MANIFEST)]
    manifest: PathBuf,
    #[command(flatten)]
    ask: Ask,
}

/// One line of the answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What was looked at: the agent, a server, a file.
    pub subject: String,
    pub outcome: Outcome,
    /// What was found, or what to do.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// Something to know or to do before.
    Look,
    /// With this the upgrade will hurt somebody.
    Mend,
}

/// The exit code: 0 nothing, 1 something to look at, 2 something to mend before.
///
/// # Errors
/// The agent cannot be asked.
pub fn upgrade(check: &Upgrade, out: &mut dyn Write) -> Result<u8, ClientError> {
    let facts = facts::gather(&check.ask, &check.manifest)?;
    let findings = judge::upgrade(&facts, check.to, check.within);
    print(check.ask.form.output, &findings, |_| text(&findings), out)?;
    let worst = findings.iter().map(|finding| finding.outcome).max();
    Ok(match worst {
        None | Some(Outcome::Ok) => 0,
        Some(Outcome::Look) => 1,
        Some(Outcome::Mend) => 2,
    })
}

fn text(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let outcome = match finding.outcome {
                Outcome::Ok => "ok",
                Outcome::Look => "look",
                Outcome::Mend => "mend",
            };
            [
                clean(&finding.subject),
                outcome.to_owned(),
                clean(&finding.detail),
            ]
        })
        .collect();
    table(["SUBJECT", "STATE", "DETAIL"], &rows)
}
