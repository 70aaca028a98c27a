//! Facts to findings. Pure.

use std::time::Duration;

use super::facts::Facts;
use super::{Finding, Outcome};
use crate::admin::{CertificateView, ServerView};
use crate::text::table::age;

/// A minor version of Kubernetes: `1.36`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Minor(u32, u32);

/// `v1.36`, `1.36` or `v1.36.2`.
///
/// # Errors
/// What is none.
pub fn minor(text: &str) -> Result<Minor, String> {
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

/// Everything that was found, the worst of each subject included.
pub fn upgrade(facts: &Facts, to: Option<Minor>, within: Duration) -> Vec<Finding> {
    let mut all = vec![agent(facts)];
    let servers = &facts.status.servers;
    let known: Vec<_> = servers
        .iter()
        .filter_map(|server| minor(server.version.as_deref()?).ok())
        .collect();
    let newest = known.iter().max().copied();
    let to = to.or_else(|| newest.map(|Minor(major, minor)| Minor(major, minor + 1)));
    all.extend(servers.iter().map(|one| server(one, to)));
    all.push(differences(facts));
    if servers.len() < 2 {
        all.push(look(
            "servers",
            "there is one only: while it is upgraded nobody answers".into(),
        ));
    }
    for (name, told) in &facts.deprecated {
        match told {
            Err(error) => all.push(look(name, format!("its metrics cannot be read: {error}"))),
            Ok(apis) => all.extend(apis.iter().map(|one| deprecated(name, one, to))),
        }
    }
    all.extend(goaway(facts.goaway_chance));
    let ending = facts.status.certificates.iter();
    let mut ending: Vec<_> = ending.filter_map(|one| certificate(one, within)).collect();
    if ending.is_empty() {
        let time = age(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        let detail = format!("none of the agent's ends within {time}");
        ending.push(ok("certificates", detail));
    }
    all.extend(ending);
    all
}

fn agent(facts: &Facts) -> Finding {
    let status = &facts.status;
    let line = status.stance.line.clone();
    match (status.ready, status.stance.word.as_str()) {
        (false, _) => mend(
            "agent",
            format!("it is not ready: {}", status.awaiting.join(", ")),
        ),
        (true, "passing by") => mend("agent", format!("clients are not inspected: {line}")),
        (true, _) => ok("agent", line),
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

fn certificate(one: &CertificateView, within: Duration) -> Option<Finding> {
    if let Some(error) = &one.last_error {
        return Some(mend(
            &one.file,
            format!("a new one cannot be used: {error}"),
        ));
    }
    let seconds = one.expires_in_seconds?;
    let days = seconds.div_euclid(86_400);
    match seconds {
        ..0 => Some(mend(&one.file, "it has expired".into())),
        _ if seconds.unsigned_abs() < within.as_secs() => {
            Some(mend(&one.file, format!("it ends within {} days", days + 1)))
        }
        _ => None,
    }
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
mod tests {
    use super::super::facts::Deprecated;
    use super::*;
    use crate::admin::{ClassProofView, ProofView, SkewRow, SkewView, StanceView, StatusView};

    const WEEK: Duration = Duration::from_secs(7 * 86_400);

    fn proved() -> ClassProofView {
        ClassProofView {
            proved: true,
            ..ClassProofView::default()
        }
    }

    fn healthy(name: &str, version: &str) -> ServerView {
        ServerView {
            name: name.into(),
            version: Some(version.into()),
            ready: true,
            available: true,
            proof: ProofView {
                asserted_users: proved(),
                tokens: proved(),
                header_names: "known".into(),
            },
            ..ServerView::default()
        }
    }

    fn facts() -> Facts {
        Facts {
            status: StatusView {
                ready: true,
                stance: StanceView {
                    word: "standing by".into(),
                    line: "standing by".into(),
                    ..StanceView::default()
                },
                servers: vec![healthy("cp-a", "v1.35.6"), healthy("cp-b", "v1.35.6")],
                certificates: vec![CertificateView {
                    file: "/pki/a.crt".into(),
                    expires_in_seconds: Some(30 * 86_400),
                    ..CertificateView::default()
                }],
                ..StatusView::default()
            },
            skew: SkewView::default(),
            deprecated: vec![
                ("cp-a".into(), Ok(Vec::new())),
                ("cp-b".into(), Ok(Vec::new())),
            ],
            goaway_chance: Some(0.001),
        }
    }

    /// What is not in order.
    fn wrong(facts: &Facts, to: Option<&str>) -> Vec<(String, Outcome)> {
        let to = to.map(|text| minor(text).unwrap());
        let all = upgrade(facts, to, WEEK).into_iter();
        let all = all.filter(|finding| finding.outcome != Outcome::Ok);
        all.map(|finding| (finding.subject, finding.outcome))
            .collect()
    }

    fn one(subject: &str, outcome: Outcome) -> Vec<(String, Outcome)> {
        vec![(subject.to_owned(), outcome)]
    }

    #[test]
    fn a_control_plane_in_order() {
        assert_eq!(wrong(&facts(), None), []);
        assert_eq!(wrong(&facts(), Some("v1.36")), []);
        assert_eq!(wrong(&facts(), Some("1.35.9")), []);
    }

    #[test]
    fn versions_are_not_skipped_and_not_taken_back() {
        for to in ["v1.37", "v1.34", "v2.36"] {
            let expected = [one("cp-a", Outcome::Mend), one("cp-b", Outcome::Mend)].concat();
            assert_eq!(wrong(&facts(), Some(to)), expected, "{to}");
        }
        for text in ["", "v1", "1.x", "new"] {
            assert!(minor(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_in_order_is_named() {
        let mut changed = facts();
        changed.status.servers[1].available = false;
        assert_eq!(wrong(&changed, None), one("cp-b", Outcome::Mend));

        let mut changed = facts();
        changed.status.servers[0].proof.asserted_users.proved = false;
        assert_eq!(wrong(&changed, None), one("cp-a", Outcome::Mend));

        let mut changed = facts();
        changed.status.stance.word = "passing by".into();
        assert_eq!(wrong(&changed, None), one("agent", Outcome::Mend));

        let mut changed = facts();
        changed.skew.rows.push(SkewRow::default());
        assert_eq!(wrong(&changed, None), one("differences", Outcome::Look));

        let mut changed = facts();
        changed.goaway_chance = Some(0.0);
        assert_eq!(wrong(&changed, None), one("goaway-chance", Outcome::Look));

        for (seconds, expected) in [
            (-1, one("/pki/a.crt", Outcome::Mend)),
            (86_400, one("/pki/a.crt", Outcome::Mend)),
            (8 * 86_400, Vec::new()),
        ] {
            let mut changed = facts();
            changed.status.certificates[0].expires_in_seconds = Some(seconds);
            assert_eq!(wrong(&changed, None), expected, "{seconds}");
        }

        let mut changed = facts();
        changed.status.servers.pop();
        changed.deprecated.pop();
        assert_eq!(wrong(&changed, None), one("servers", Outcome::Look));
    }

    #[test]
    fn deprecated_apis_by_the_version_that_lacks_them() {
        for (removed, to, expected) in [
            (Some("1.36"), "v1.36", Outcome::Mend),
            (Some("1.32"), "v1.36", Outcome::Mend),
            (Some("1.37"), "v1.36", Outcome::Look),
            (None, "v1.36", Outcome::Look),
        ] {
            let mut changed = facts();
            let api = Deprecated {
                api: "v1 endpoints".into(),
                removed: removed.map(str::to_owned),
            };
            changed.deprecated[1].1 = Ok(vec![api]);
            assert_eq!(
                wrong(&changed, Some(to)),
                one("cp-b", expected),
                "{removed:?}"
            );
        }
        let mut changed = facts();
        changed.deprecated[1].1 = Err("403".into());
        assert_eq!(wrong(&changed, None), one("cp-b", Outcome::Look));
    }
}
