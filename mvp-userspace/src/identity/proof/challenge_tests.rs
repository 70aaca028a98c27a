use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::RequestHeader;

fn names() -> HeaderNames {
    let one = |name: &str| vec![name.to_owned()];
    HeaderNames::new(Some(&RequestHeader {
        client_ca_file: "unused".into(),
        allowed_names: Vec::new(),
        username_headers: one("X-Corp-User"),
        uid_headers: one("X-Corp-Uid"),
        group_headers: one("X-Corp-Group"),
        extra_header_prefixes: one("X-Corp-Extra-"),
    }))
    .unwrap()
}

fn reply(status: u16, body: &[u8]) -> ServerReply<'_> {
    let status = StatusCode::from_u16(status).unwrap();
    ServerReply { status, body }
}

fn review(challenge: &Challenge, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut user = json!({
        "username": OWN_NAME, "uid": UID, "groups": [GROUP, AUTHENTICATED], "extra": {EXTRA: [challenge.nonce]},
    });
    change(&mut user);
    json!({"kind": "SelfSubjectReview", "status": {"userInfo": user}})
        .to_string()
        .into_bytes()
}

fn forbidden(user: &str) -> Vec<u8> {
    let message = format!("forbidden: User \"{user}\" cannot get path \"/mvp-proof/x\"");
    json!({"kind": "Status", "message": message, "code": 403})
        .to_string()
        .into_bytes()
}

#[test]
fn it_is_asked_by_the_configured_names() {
    let challenge = Challenge::new(&names());
    let headers = challenge.headers();
    assert_eq!(headers["x-corp-user"], OWN_NAME);
    assert_eq!(headers["x-corp-group"], GROUP);
    assert_eq!(headers["x-corp-extra-mvp.proof"], challenge.nonce.as_str());
    assert_eq!(headers["x-corp-uid"], UID);
    assert_eq!(headers.len(), 4);
    let own = OwnUser::new(&names()).unwrap();
    assert_eq!(own.headers()["x-corp-user"], OWN_NAME);
    assert_ne!(Challenge::new(&names()).nonce, challenge.nonce);
}

#[test]
fn only_exactly_the_asserted_user_is_proof() {
    let challenge = Challenge::new(&names());
    let judge = |body: &[u8]| challenge.judge(ChallengeStage::Review, reply(201, body));
    let proved = Judgement::Proved(Evidence::Review);
    assert_eq!(judge(&review(&challenge, |_| {})), proved);
    let without = review(&challenge, |user| user["uid"] = "".into());
    assert_eq!(
        judge(&without),
        Judgement::Proved(Evidence::ReviewWithoutUid)
    );
    let masters = review(&challenge, |user| {
        user["username"] = "kubernetes-admin".into()
    });
    let other = ProofFailure::OtherUser("kubernetes-admin".into());
    assert_eq!(judge(&masters), Judgement::Refused(other));
    for change in [
        (|user: &mut serde_json::Value| user["groups"] = json!([AUTHENTICATED])) as fn(&mut _),
        |user| user["groups"] = json!([GROUP, AUTHENTICATED, "system:masters"]),
        |user| user["extra"] = json!({}),
        |user| user["extra"][EXTRA] = json!(["another"]),
        |user| user["extra"]["more"] = json!(["1"]),
        |user| user["uid"] = json!("1"),
    ] {
        let judged = judge(&review(&challenge, change));
        assert!(
            matches!(judged, Judgement::Refused(ProofFailure::Inexact(_))),
            "{judged:?}"
        );
    }
    let unauthorized = Judgement::Refused(ProofFailure::Unauthorized);
    assert_eq!(
        challenge.judge(ChallengeStage::Review, reply(401, b"")),
        unauthorized
    );
    for busy in [429, 500, 503] {
        let judged = challenge.judge(ChallengeStage::Review, reply(busy, b""));
        assert!(matches!(judged, Judgement::Unanswered(_)));
    }
}

#[test]
fn without_a_review_the_403_names_the_user() {
    let challenge = Challenge::new(&names());
    for status in [403, 404, 405] {
        let judged = challenge.judge(ChallengeStage::Review, reply(status, b""));
        assert_eq!(judged, Judgement::AskByPath);
    }
    let user = challenge.path_headers()["x-corp-user"]
        .to_str()
        .unwrap()
        .to_owned();
    let judge = |status, body: &[u8]| challenge.judge(ChallengeStage::Path, reply(status, body));
    assert_eq!(
        judge(403, &forbidden(&user)),
        Judgement::Proved(Evidence::Name)
    );
    let anonymous = judge(403, &forbidden("system:anonymous"));
    assert!(matches!(
        anonymous,
        Judgement::Refused(ProofFailure::OtherUser(_))
    ));
    assert!(matches!(
        judge(404, b""),
        Judgement::Refused(ProofFailure::Untold(_))
    ));
    assert!(matches!(
        judge(403, b"no"),
        Judgement::Refused(ProofFailure::Untold(_))
    ));
}

#[test]
fn without_the_certificate_nobody_is_believed() {
    let challenge = Challenge::new(&names());
    let judge =
        |status, body: &[u8]| challenge.judge_bare(ChallengeStage::Review, reply(status, body));
    assert_eq!(judge(401, b""), Judgement::Proved(Evidence::Name));
    assert_eq!(
        judge(403, &forbidden("system:anonymous")),
        Judgement::Proved(Evidence::Name)
    );
    let believed = Judgement::Refused(ProofFailure::BelievesAnyone);
    assert_eq!(judge(403, &forbidden(OWN_NAME)), believed);
    assert_eq!(judge(201, &review(&challenge, |_| {})), believed);
    let extra_only = review(&challenge, |user| {
        user["username"] = "system:anonymous".into()
    });
    assert_eq!(judge(201, &extra_only), believed);
    assert_eq!(judge(404, b""), Judgement::AskByPath);
    let user = challenge.path_user();
    let by_path = challenge.judge_bare(ChallengeStage::Path, reply(403, &forbidden(&user)));
    assert_eq!(by_path, believed);
}

proptest! {
    /// Whatever a server says, nothing but the nonce of this very question proves anything over the front-proxy class.
    #[test]
    fn nothing_else_is_proof(status in 200u16..600, body in proptest::collection::vec(any::<u8>(), 0..300), by_path: bool) {
        let challenge = Challenge::new(&names());
        let stage = if by_path { ChallengeStage::Path } else { ChallengeStage::Review };
        let judged = challenge.judge(stage, reply(status, &body));
        prop_assert!(!matches!(judged, Judgement::Proved(_)));
        let _ = challenge.judge_bare(stage, reply(status, &body));
    }
}
