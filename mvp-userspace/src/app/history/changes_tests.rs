use super::*;
use crate::admin::{CertificateView, ClassProofView, ProofView, ReasonView, StanceView};
use crate::steering::GuardView;

fn kinds(events: &[Event]) -> Vec<Kind> {
    events.iter().map(|event| event.kind).collect()
}

fn server(name: &str, version: Option<&str>) -> ServerView {
    ServerView {
        name: name.into(),
        version: version.map(str::to_owned),
        available: true,
        ..ServerView::default()
    }
}

fn with(servers: Vec<ServerView>) -> StatusView {
    StatusView {
        servers,
        ..StatusView::default()
    }
}

#[test]
fn a_server_is_followed_from_its_first_version_to_its_end() {
    let mut changes = Changes::default();
    let old = server("cp-a", Some("v1.33.13"));
    let first = changes.look(with(vec![old.clone(), server("cp-b", None)]), 1);
    // Nothing is known yet of the other one.
    assert_eq!(kinds(&first), [Kind::ServerSeen]);
    assert_eq!(first[0].value, "v1.33.13");
    assert!(
        changes
            .look(with(vec![old.clone(), server("cp-b", None)]), 2)
            .is_empty()
    );
    let away = ServerView {
        available: false,
        stopping: true,
        last_error: Some("connection refused".into()),
        ..old.clone()
    };
    let noted = changes.look(with(vec![away]), 3);
    let expected = [
        Kind::ServerUnavailable,
        Kind::ServerStopping,
        Kind::ServerLeft,
    ];
    assert_eq!(kinds(&noted), expected);
    assert_eq!(
        (noted[0].detail.as_str(), noted[2].subject.as_str()),
        ("connection refused", "cp-b")
    );
    let noted = changes.look(with(vec![server("cp-a", Some("v1.36.3"))]), 4);
    assert_eq!(kinds(&noted), [Kind::ServerVersion, Kind::ServerAvailable]);
    assert_eq!(
        (noted[0].detail.as_str(), noted[0].value.as_str()),
        ("v1.33.13 -> v1.36.3", "v1.36.3")
    );
}

#[test]
fn a_proof_is_noted_when_its_outcome_is_known_and_when_that_changes() {
    let proved = |proved: Option<bool>| ServerView {
        proof: ProofView {
            asserted_users: ClassProofView {
                proved: proved == Some(true),
                age_ms: proved.map(|_| 5),
                why: (proved == Some(false)).then(|| "401".into()),
            },
            tokens: ClassProofView {
                proved: proved.is_some(),
                ..ClassProofView::default()
            },
            ..ProofView::default()
        },
        ..server("cp-a", None)
    };
    let mut changes = Changes::default();
    assert_eq!(
        kinds(&changes.look(with(vec![proved(None)]), 1)),
        [] as [Kind; 0]
    );
    assert_eq!(
        kinds(&changes.look(with(vec![proved(Some(true))]), 2)),
        [Kind::ProofOk]
    );
    assert!(changes.look(with(vec![proved(Some(true))]), 3).is_empty());
    let failed = changes.look(with(vec![proved(Some(false))]), 4);
    assert_eq!(kinds(&failed), [Kind::ProofFailed]);
    assert_eq!(
        (failed[0].detail.as_str(), failed[0].value.as_str()),
        ("401", "for tokens only")
    );
    assert_eq!(
        kinds(&changes.look(with(vec![proved(Some(true))]), 5)),
        [Kind::ProofOk]
    );
}

fn guarded(state: &str, reasons: &[&str], since_ms: u64) -> StatusView {
    StatusView {
        guard: GuardView {
            state: state.into(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            since_ms,
            ..GuardView::default()
        },
        ..StatusView::default()
    }
}

#[test]
fn a_start_alone_is_no_sign_and_the_first_sign_has_its_own_time() {
    let mut changes = Changes::default();
    assert!(
        changes
            .look(guarded("armed", &["starting"], 10), 1000)
            .is_empty()
    );
    let noted = changes.look(guarded("armed", &["starting", "sets_differ"], 510), 1500);
    assert_eq!(kinds(&noted), [Kind::GuardArmed]);
    assert_eq!(
        (noted[0].at_ms, noted[0].value.as_str()),
        (1500, "sets_differ")
    );
    let noted = changes.look(guarded("idle", &["settled"], 30), 90_000);
    assert_eq!(kinds(&noted), [Kind::GuardIdle]);
    assert_eq!(noted[0].at_ms, 89_970);
    let noted = changes.look(guarded("armed", &["manifest_changed"], 400), 95_000);
    assert_eq!((noted[0].kind, noted[0].at_ms), (Kind::GuardArmed, 94_600));
    assert!(
        changes
            .look(guarded("armed", &["versions_differ"], 900), 95_500)
            .is_empty()
    );
}

#[test]
fn passing_by_is_noted_with_its_first_reason() {
    let passing = |reasons: &[&str]| StatusView {
        stance: StanceView {
            reasons: reasons
                .iter()
                .map(|reason| ReasonView {
                    reason: (*reason).to_owned(),
                    ..ReasonView::default()
                })
                .collect(),
            ..StanceView::default()
        },
        ..StatusView::default()
    };
    let mut changes = Changes::default();
    assert_eq!(
        kinds(&changes.look(passing(&["starting"]), 1)),
        [Kind::PassingBy]
    );
    assert!(changes.look(passing(&["starting", "full"]), 2).is_empty());
    let noted = changes.look(passing(&["full"]), 3);
    assert_eq!(
        (noted[0].kind, noted[0].value.as_str()),
        (Kind::PassingBy, "full")
    );
    assert_eq!(
        kinds(&changes.look(passing(&[]), 4)),
        [Kind::TakesConnections]
    );
    assert!(changes.look(passing(&[]), 5).is_empty());
}

fn retiring(round: u64, open: usize, destroyed: u64) -> StatusView {
    StatusView {
        retirement: RetireView {
            round,
            retiring: true,
            open,
            destroyed,
            ..RetireView::default()
        },
        ..StatusView::default()
    }
}

#[test]
fn a_retirement_has_a_beginning_and_an_end_with_its_figures() {
    let mut changes = Changes::default();
    assert!(changes.look(StatusView::default(), 0).is_empty());
    assert_eq!(
        kinds(&changes.look(retiring(1, 3, 4), 1000)),
        [Kind::RetirementBegan]
    );
    assert!(changes.look(retiring(1, 1, 6), 1500).is_empty());
    let mut failed = retiring(1, 0, 6);
    failed.retirement.failed = Some("no socket".into());
    assert!(changes.look(failed, 1600).is_empty(), "that is no end");
    let noted = changes.look(retiring(1, 0, 7), 3000);
    assert_eq!(kinds(&noted), [Kind::RetirementEnded]);
    let detail =
        "3 ended, 0 of them where a request may have been cut; 0 went by themselves in 2000 ms";
    assert_eq!(noted[0].detail, detail);
    assert!(changes.look(retiring(1, 0, 7), 3500).is_empty());
    // Another scope, and nothing to be ended in it.
    assert_eq!(
        kinds(&changes.look(retiring(2, 0, 7), 4000)),
        [Kind::RetirementEnded]
    );
    assert_eq!(
        kinds(&changes.look(retiring(2, 2, 7), 4500)),
        [Kind::RetirementBegan]
    );
    // Another one, before this one had ended.
    let expected = [Kind::RetirementEnded, Kind::RetirementBegan];
    assert_eq!(kinds(&changes.look(retiring(3, 2, 7), 5000)), expected);
    let mut over = retiring(4, 0, 7);
    over.retirement.retiring = false;
    assert_eq!(kinds(&changes.look(over, 5500)), [Kind::RetirementEnded]);
}

#[test]
fn files_are_noted_when_they_change_fail_or_come_to_their_end() {
    let file = |left: i64, reloads: u64, error: Option<&str>| StatusView {
        certificates: vec![CertificateView {
            file: "/pki/tls.crt".into(),
            key: "serving.certFile".into(),
            expires_in_seconds: Some(left),
            last_error: error.map(str::to_owned),
            reloads,
        }],
        ..StatusView::default()
    };
    let mut changes = Changes::default();
    assert!(changes.look(file(NEAR, 0, None), 1).is_empty());
    let noted = changes.look(file(NEAR - 1, 0, None), 2);
    assert_eq!(kinds(&noted), [Kind::CertificateNearEnd]);
    assert_eq!(noted[0].detail, "ends in 6d23h");
    assert!(changes.look(file(NEAR - 2, 0, None), 3).is_empty(), "once");
    assert_eq!(
        kinds(&changes.look(file(5, 0, Some("no PEM")), 4)),
        [Kind::ReloadFailed]
    );
    assert!(changes.look(file(-1, 0, Some("no PEM")), 5).is_empty());
    assert_eq!(
        kinds(&changes.look(file(2 * NEAR, 1, None), 6)),
        [Kind::FilesReloaded]
    );
    let noted = changes.look(file(-5, 1, None), 7);
    assert_eq!(
        (noted[0].kind, noted[0].detail.as_str()),
        (Kind::CertificateNearEnd, "has ended")
    );
}
