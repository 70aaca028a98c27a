//! Makes findings from facts. Pure.

mod agents;

use std::time::Duration;

use super::facts::Facts;
use super::{Finding, Outcome};
use crate::admin::{CanaryOutcome, CanaryView, CertificateView, ServerView, StatusView};
use crate::api::published;
use crate::text::table::age;

/// The most types that are named in one line.
const NAMED: usize = 5;

/// A minor version of Kubernetes: `1.36`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Minor(u32, u32);

/// Parses `v1.36`, `1.36` or `v1.36.2`.
///
/// # Errors
/// The text is no version.
pub(super) fn minor(text: &str) -> Result<Minor, String> {
    let mut parts = text
        .strip_prefix('v')
        .unwrap_or(text)
        .split(['.', '-', '+']);
    let mut part = || parts.next()?.parse().ok();
    match (part(), part()) {
        (Some(major), Some(minor)) => Ok(Minor(major, minor)),
        _ => Err("not a version such as v1.36".to_owned()),
    }
}

/// All findings, also those that say that a subject is well.
pub(super) fn upgrade(facts: &Facts, to: Option<Minor>, within: Duration) -> Vec<Finding> {
    let mut all = vec![agent("agent", &facts.status)];
    let servers = &facts.status.servers;
    let known: Vec<_> = servers
        .iter()
        .filter_map(|server| minor(server.version.as_deref()?).ok())
        .collect();
    let newest = known.iter().max().copied();
    let to = to.or_else(|| newest.map(|Minor(major, minor)| Minor(major, minor + 1)));
    all.extend(servers.iter().map(|one| server(one, to)));
    all.push(differences(facts));
    all.extend(to.and_then(|to| changes(&known, to)));
    if servers.len() < 2 {
        all.push(look(
            "servers",
            "there is one only: while it is upgraded nobody answers".into(),
        ));
    }
    for (name, report) in &facts.deprecated {
        match report {
            Err(error) => all.push(look(name, format!("its metrics cannot be read: {error}"))),
            Ok(apis) => all.extend(apis.iter().map(|one| deprecated(name, one, to))),
        }
    }
    all.extend(goaway(facts.goaway_chance));
    let mut ending = certificates("", &facts.status, within);
    let shown = facts.serving.iter();
    ending.extend(shown.filter_map(|(name, end)| serving(name, end, within)));
    if ending.is_empty() {
        let time = age(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        let detail = format!("none of this node's and none that a server shows ends within {time}");
        ending.push(ok("certificates", detail));
    }
    all.extend(ending);
    all.extend(canary("canary", &facts.canary));
    all.extend(agents::all(facts, within));
    all
}

/// The finding about one agent.
fn agent(subject: &str, status: &StatusView) -> Finding {
    let line = status.stance.line.clone();
    match (status.ready, status.stance.word.as_str()) {
        (false, _) => mend(
            subject,
            format!("it is not ready: {}", status.awaiting.join(", ")),
        ),
        (true, "passing by") => mend(subject, format!("clients are not inspected: {line}")),
        (true, _) => ok(subject, line),
    }
}

/// One finding if all is well, else one for each way that does not work.
fn canary(subject: &str, report: &Result<CanaryView, String>) -> Vec<Finding> {
    let view = match report {
        Ok(view) => view,
        Err(error) => return vec![look(subject, format!("it was not sent: {error}"))],
    };
    let servers = view.servers.iter();
    let ways = std::iter::once(("through the agent".to_owned(), &view.listener))
        .chain(servers.map(|(name, leg)| (format!("to {name}"), leg)));
    let mut found: Vec<_> = ways
        .filter_map(|(way, leg)| match leg.outcome {
            CanaryOutcome::Ok => None,
            CanaryOutcome::Failed => Some(mend(subject, format!("{way}: {}", leg.detail))),
            CanaryOutcome::NotAsked => Some(look(subject, format!("{way}: {}", leg.detail))),
        })
        .collect();
    if found.is_empty() {
        let detail = "a request went through the agent to a server, and from it to each server";
        found.push(ok(subject, detail.to_owned()));
    }
    found
}

/// Findings about the files that an agent reads, as far as there is something to report. `node`: the node's name, with a colon.
fn certificates(node: &str, status: &StatusView, within: Duration) -> Vec<Finding> {
    let all = status.certificates.iter();
    all.filter_map(|one| certificate(node, one, within))
        .collect()
}

fn serving(server: &str, end: &Result<i64, String>, within: Duration) -> Option<Finding> {
    match end {
        Err(error) => Some(look(
            server,
            format!("its certificate cannot be seen from here: {error}"),
        )),
        Ok(seconds) => {
            let words = ending(*seconds, within)?;
            Some(mend(
                server,
                format!("the certificate that it shows: {words}"),
            ))
        }
    }
}

/// When a certificate expires; `None`: later than `within`.
fn ending(seconds: i64, within: Duration) -> Option<String> {
    match seconds {
        ..0 => Some("it has expired".to_owned()),
        _ if seconds.unsigned_abs() < within.as_secs() => {
            let days = seconds.div_euclid(86_400) + 1;
            Some(format!("it ends within {days} days"))
        }
        _ => None,
    }
}

fn server(server: &ServerView, to: Option<Minor>) -> Finding {
    let name = &server.name;
    let version = server
        .version
        .clone()
        .unwrap_or_else(|| "never reached".to_owned());
    let error = server.last_error.clone().unwrap_or_default();
    if !server.available || !server.ready {
        return mend(name, format!("{version}: it cannot be used: {error}"));
    }
    if server.proof.word() != "yes" {
        let why = server.proof.asserted_users.why.clone().unwrap_or_default();
        return mend(
            name,
            format!("{version}: it was not shown to accept the agent: {why}"),
        );
    }
    let now = minor(&version).ok();
    match (now, to) {
        (Some(now), Some(to)) if to < now => mend(
            name,
            format!(
                "{version}: newer than {}; servers are not downgraded",
                words(to)
            ),
        ),
        (Some(now), Some(to)) if to.0 != now.0 || to.1 - now.1 > 1 => mend(
            name,
            format!(
                "{version}: {} skips a minor version, which kube-apiserver must not",
                words(to)
            ),
        ),
        (Some(now), Some(to)) if now == to => ok(name, format!("{version}: it is there already")),
        _ => ok(name, format!("{version}: ready, and proved")),
    }
}

fn differences(facts: &Facts) -> Finding {
    let rows = facts.skew.rows.len();
    match rows {
        0 => ok("differences", "the servers serve the same".into()),
        _ => look(
            "differences",
            format!(
                "{rows} resources differ between the servers (mvp routes --diff): an upgrade is under way"
            ),
        ),
    }
}

/// What the new version will serve and the oldest server does not, by the table of published versions.
fn changes(known: &[Minor], to: Minor) -> Option<Finding> {
    const SUBJECT: &str = "changes";
    let from = known.iter().min().filter(|from| **from < to)?;
    let Some((more, less)) = published::between(from.1, to.1).filter(|_| from.0 == 1 && to.0 == 1)
    else {
        let detail = format!("what {} serves is not known here", words(to));
        return Some(ok(SUBJECT, detail));
    };
    let some = |names: &[&str]| match names.split_at_checked(NAMED) {
        Some((few, rest)) if !rest.is_empty() => {
            format!("{} and {} more", few.join(", "), rest.len())
        }
        _ if names.is_empty() => "none".to_owned(),
        _ => names.join(", "),
    };
    Some(ok(
        SUBJECT,
        format!(
            "{} serves {} types by default that {} does not ({}), and lacks {} of its ({})",
            words(to),
            more.len(),
            words(*from),
            some(&more),
            less.len(),
            some(&less)
        ),
    ))
}

fn deprecated(server: &str, api: &super::facts::Deprecated, to: Option<Minor>) -> Finding {
    let name = &api.api;
    let removed = api.removed.as_deref();
    match (removed.and_then(|text| minor(text).ok()), to) {
        (Some(removed), Some(to)) if removed <= to => mend(
            server,
            format!(
                "{name} was requested and is gone in {}: find out who asks (audit log, annotation k8s.io/deprecated)",
                words(removed)
            ),
        ),
        (Some(removed), _) => look(
            server,
            format!(
                "{name} was requested and will be gone in {}",
                words(removed)
            ),
        ),
        (None, _) => look(server, format!("{name} was requested and is deprecated")),
    }
}

/// Only the local server's flags can be read.
fn goaway(chance: Option<f64>) -> Option<Finding> {
    Some(match chance? {
        0.0 => look(
            "goaway-chance",
            "not set here: clients stay with the server that they have after the upgrade".into(),
        ),
        chance => ok(
            "goaway-chance",
            format!("{chance} here: clients spread again by themselves"),
        ),
    })
}

fn certificate(node: &str, one: &CertificateView, within: Duration) -> Option<Finding> {
    let subject = format!("{node}{}", one.file);
    if let Some(error) = &one.last_error {
        return Some(mend(&subject, format!("a new one cannot be used: {error}")));
    }
    let words = ending(one.expires_in_seconds?, within)?;
    Some(mend(&subject, words))
}

fn words(Minor(major, minor): Minor) -> String {
    format!("v{major}.{minor}")
}

fn ok(subject: &str, detail: String) -> Finding {
    finding(subject, Outcome::Ok, detail)
}

fn look(subject: &str, detail: String) -> Finding {
    finding(subject, Outcome::Look, detail)
}

fn mend(subject: &str, detail: String) -> Finding {
    finding(subject, Outcome::Mend, detail)
}

fn finding(subject: &str, outcome: Outcome, detail: String) -> Finding {
    Finding {
        subject: subject.to_owned(),
        outcome,
        detail,
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
