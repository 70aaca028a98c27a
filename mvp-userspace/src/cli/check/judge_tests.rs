use super::super::facts::{AgentReport, Deprecated};
use super::*;
use crate::admin::{ClassProofView, LegView, ProofView, SkewRow, SkewView, StanceView};

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
        serving: vec![
            ("cp-a".into(), Ok(30 * 86_400)),
            ("cp-b".into(), Ok(30 * 86_400)),
        ],
        canary: Ok(sound()),
        agents: None,
        goaway_chance: Some(0.001),
    }
}

fn leg(outcome: CanaryOutcome) -> LegView {
    LegView {
        outcome,
        ..LegView::default()
    }
}

/// A canary that came back every way.
fn sound() -> CanaryView {
    let servers = ["cp-a", "cp-b"].map(|name| (name.to_owned(), leg(CanaryOutcome::Ok)));
    CanaryView {
        listener: leg(CanaryOutcome::Ok),
        servers: servers.into(),
    }
}

/// What the agent of this node says when all is well.
fn report(node: &str) -> AgentReport {
    let mut status = facts().status;
    status.node = node.to_owned();
    for server in &mut status.servers {
        server.local = server.name == node;
    }
    AgentReport {
        status,
        canary: Ok(sound()),
    }
}

/// The facts of the agent of `cp-a`, and what that of `cp-b` says.
fn two(change: impl FnOnce(&mut AgentReport)) -> Facts {
    let mut other = report("cp-b");
    change(&mut other);
    Facts {
        status: report("cp-a").status,
        agents: Some(Ok(vec![
            ("cp-a".to_owned(), Ok(report("cp-a"))),
            ("cp-b".to_owned(), Ok(other)),
        ])),
        ..facts()
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

#[test]
fn a_canary_that_does_not_come_back_is_named() {
    let mut changed = facts();
    changed.canary = Ok(CanaryView {
        listener: leg(CanaryOutcome::Failed),
        ..sound()
    });
    assert_eq!(wrong(&changed, None), one("canary", Outcome::Mend));
    let mut view = sound();
    view.servers
        .insert("cp-b".to_owned(), leg(CanaryOutcome::Failed));
    changed.canary = Ok(view);
    assert_eq!(wrong(&changed, None), one("canary", Outcome::Mend));
    changed.canary = Ok(CanaryView {
        listener: leg(CanaryOutcome::NotAsked),
        ..sound()
    });
    assert_eq!(wrong(&changed, None), one("canary", Outcome::Look));
    changed.canary = Err("404".to_owned());
    assert_eq!(wrong(&changed, None), one("canary", Outcome::Look));
}

#[test]
fn a_certificate_that_a_server_shows_is_one_of_those_that_end() {
    let mut changed = facts();
    changed.serving[1].1 = Ok(86_400);
    assert_eq!(wrong(&changed, None), one("cp-b", Outcome::Mend));
    changed.serving[1].1 = Ok(-1);
    assert_eq!(wrong(&changed, None), one("cp-b", Outcome::Mend));
    changed.serving[1].1 = Err("refused".to_owned());
    assert_eq!(wrong(&changed, None), one("cp-b", Outcome::Look));
}

#[test]
fn the_agents_of_all_nodes_are_looked_at() {
    assert_eq!(wrong(&two(|_| ()), None), []);
    let of = |change: fn(&mut AgentReport)| wrong(&two(change), None);
    let other = |outcome| one("agent on cp-b", outcome);
    assert_eq!(
        of(|report| report.status.ready = false),
        other(Outcome::Mend)
    );
    let passing = |report: &mut AgentReport| report.status.stance.word = "passing by".to_owned();
    assert_eq!(of(passing), other(Outcome::Mend));
    let newer = |report: &mut AgentReport| report.status.version = "9.9.9".to_owned();
    assert_eq!(of(newer), other(Outcome::Look));
    let unproved = |report: &mut AgentReport| {
        report.status.servers[0].proof.asserted_users.proved = false;
    };
    assert_eq!(of(unproved), other(Outcome::Mend));
    let ends =
        |report: &mut AgentReport| report.status.certificates[0].expires_in_seconds = Some(60);
    assert_eq!(of(ends), one("cp-b: /pki/a.crt", Outcome::Mend));
    let fails = |report: &mut AgentReport| {
        if let Ok(view) = &mut report.canary {
            view.listener = leg(CanaryOutcome::Failed);
        }
    };
    assert_eq!(of(fails), one("canary on cp-b", Outcome::Mend));
    let forgets = |report: &mut AgentReport| {
        report.status.servers.remove(0);
    };
    assert_eq!(of(forgets), other(Outcome::Look));
}

#[test]
fn an_agent_that_cannot_be_asked_is_found_and_a_server_without_one_too() {
    let mut changed = two(|_| ());
    if let Some(Ok(agents)) = &mut changed.agents {
        agents[1].1 = Err("no route to host".to_owned());
    }
    let expected = [
        one("agent on cp-b", Outcome::Mend),
        one("cp-b", Outcome::Look),
    ];
    assert_eq!(wrong(&changed, None), expected.concat());
    changed.agents = Some(Err("kubectl: not found".to_owned()));
    assert_eq!(wrong(&changed, None), one("agents", Outcome::Mend));
}

#[test]
fn what_the_new_version_brings_is_told() {
    let changes = |to: &str| {
        let all = upgrade(&facts(), Some(minor(to).unwrap()), WEEK);
        let of = all.into_iter().find(|finding| finding.subject == "changes");
        of.map(|finding| (finding.outcome, finding.detail))
    };
    let (outcome, detail) = changes("v1.36").unwrap();
    assert_eq!(outcome, Outcome::Ok);
    assert!(
        detail.contains("admissionregistration.k8s.io/v1 mutatingadmissionpolicies"),
        "{detail}"
    );
    assert_eq!(changes("v1.35"), None, "every server is there");
    let (_, detail) = changes("v1.99").unwrap();
    assert!(detail.contains("not known"), "{detail}");
}
