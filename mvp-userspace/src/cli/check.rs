//! `mvp check upgrade`: whether the control plane can be upgraded now, as far as the agents can know. `mvp check canary`:
//! whether requests succeed on every way through one agent.

mod facts;
mod judge;
mod serving;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::client::ClientError;
use super::command::Ask;
use super::fleet::Fleet;
use super::output::print;
use crate::admin::{CanaryOutcome, CanaryView, LegView};
use crate::config::parse_duration;
use crate::text::table::{clean, table};
use judge::Minor;

/// kube-apiserver's manifest on a kubeadm node.
const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

#[derive(clap::Args, Debug)]
pub(super) struct Upgrade {
    /// The version to which the servers will be upgraded, such as v1.36; default: the next minor version after the newest.
    #[arg(long, value_name = "VERSION", value_parser = judge::minor)]
    to: Option<Minor>,
    /// Report certificates that expire within this time, which should be as long as the upgrade may take.
    #[arg(long, value_name = "DURATION", default_value = "168h", value_parser = parse_duration)]
    within: Duration,
    /// The local kube-apiserver's manifest, where there is one.
    #[arg(long, value_name = "FILE", default_value = MANIFEST)]
    manifest: PathBuf,
    #[command(flatten)]
    fleet: Fleet,
    #[command(flatten)]
    ask: Ask,
}

/// One line of the answer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Finding {
    /// What was looked at: the agent, a server, a file.
    pub subject: String,
    pub outcome: Outcome,
    /// What was found, or what to do.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
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
pub(super) fn upgrade(check: &Upgrade, out: &mut dyn Write) -> Result<u8, ClientError> {
    let facts = facts::gather(&check.ask, &check.fleet, &check.manifest)?;
    let findings = judge::upgrade(&facts, check.to, check.within);
    print(check.ask.form.output, &findings, |_| text(&findings), out)?;
    let worst = findings.iter().map(|finding| finding.outcome).max();
    Ok(match worst {
        None | Some(Outcome::Ok) => 0,
        Some(Outcome::Look) => 1,
        Some(Outcome::Mend) => 2,
    })
}

/// The exit code: 0, or 2 if a way does not work.
///
/// # Errors
/// The agent cannot be asked.
pub(super) fn canary(ask: &Ask, out: &mut dyn Write) -> Result<u8, ClientError> {
    let view = facts::canary(&ask.at)?;
    print(ask.form.output, &view, |_| ways(&view), out)?;
    let mut legs = view.servers.values().chain([&view.listener]);
    let failed = legs.any(|leg| leg.outcome == CanaryOutcome::Failed);
    Ok(if failed { 2 } else { 0 })
}

fn ways(view: &CanaryView) -> String {
    let row = |way: String, leg: &LegView| {
        [
            way,
            leg.outcome.word().to_owned(),
            format!("{}ms", leg.took_ms),
            leg.detail.clone(),
        ]
    };
    let servers = view.servers.iter();
    let servers = servers.map(|(name, leg)| row(format!("agent -> {name}"), leg));
    let first = row("client -> agent -> a server".to_owned(), &view.listener);
    let rows: Vec<_> = std::iter::once(first).chain(servers).collect();
    table(["WAY", "STATE", "TOOK", "DETAIL"], &rows)
}

/// Writes one line on standard error while people wait; the next call replaces it.
fn progress(words: &str) {
    let mut error = std::io::stderr().lock();
    if error.is_terminal() {
        // Nothing depends on it.
        let _ = write!(error, "\r\x1b[K{}", clean(words));
        let _ = error.flush();
    }
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
