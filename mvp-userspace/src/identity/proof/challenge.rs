//! What is asked of a server, and what its answer proves.
//!
//! A SelfSubjectReview (`authentication.k8s.io/v1`, since Kubernetes 1.28) says whom the server takes the asker for. Where it is not
//! served, or not allowed, the 403 for a path that nobody may read names the user in its message.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;

use crate::identity::{BadIdentity, HeaderNames, User};

/// Where a SelfSubjectReview is made.
pub const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
/// Whom the agent speaks as for itself.
const OWN_NAME: &str = "system:mvp";
/// Every authenticated user is in it; kube-apiserver adds it to those who are not.
const AUTHENTICATED: &str = "system:authenticated";
/// Grants nothing; it shows that groups arrive.
const GROUP: &str = "mvp:proof";
/// Shows whether uids arrive: not every server has `--requestheader-uid-headers`.
const UID: &str = "mvp:proof";
/// Shows that extra values arrive, and its value that the answer is to this question.
const EXTRA: &str = "mvp.proof";
/// Text of a server that goes into status and log is cut to so many characters.
const MAX_QUOTE: usize = 120;

/// The headers by which the agent asserts itself as `system:mvp`, by the configured names. All clones are one.
#[derive(Clone, Debug)]
pub struct OwnUser(Arc<ArcSwap<HeaderMap>>);

/// One proof's question. Every proof has a new one, so that no answer to an earlier one can pass for its own.
#[derive(Clone, Debug)]
pub struct Challenge {
    nonce: String,
    names: HeaderNames,
}

/// The question that an answer belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChallengeStage {
    /// POST of [`Challenge::review`] to [`REVIEWS`] with [`Challenge::headers`].
    Review,
    /// GET of [`Challenge::path`] with [`Challenge::path_headers`].
    Path,
}

/// An answer, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct ServerReply<'a> {
    /// The status of the answer to the stage's request.
    pub status: StatusCode,
    /// The body, cut at the limit of what is read.
    pub body: &'a [u8],
}

/// What an answer says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// The server takes the asserted user for exactly that user.
    Proved(Evidence),
    /// It does not, and why: nothing may be asserted to it.
    Refused(ProofFailure),
    /// The server could not say now (5xx, 429): what was known stands.
    Unanswered(String),
    /// Ask by [`ChallengeStage::Path`]: there is no review to be had.
    AskByPath,
}

/// How it was proved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Evidence {
    /// A review returned user, uid, groups and extra.
    Review,
    /// The same without the uid, of which the server did not hear.
    ReviewWithoutUid,
    /// A 403 named the user.
    Name,
}

/// Why it is not proved.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofFailure {
    /// The server's certificate does not verify.
    #[error("its serving certificate does not verify: {0}")]
    Tls(String),
    /// The server does not accept the front-proxy certificate, or not the names of the headers.
    #[error(
        "it answered 401 to an asserted user: it does not accept the front-proxy certificate (upstream.clientCertFile), or not the \
         header names (requestHeader)"
    )]
    Unauthorized,
    /// The server takes the agent for somebody else than it said.
    #[error("it takes an asserted user for {0:?}")]
    OtherUser(String),
    /// Part of the asserted user was lost or added.
    #[error("it does not take an asserted user over exactly: {0}")]
    Inexact(String),
    /// A caller without a certificate is believed to be the user that it names.
    #[error("it believes identity headers that come without the front-proxy certificate")]
    BelievesAnyone,
    /// The answer says nothing of who was asking.
    #[error("its answer does not say whom it takes an asserted user for ({0})")]
    Untold(String),
}

impl OwnUser {
    /// # Errors
    /// A configured prefix of which no header name can be made.
    pub fn new(names: &HeaderNames) -> Result<Self, BadIdentity> {
        Self::member_of(AUTHENTICATED, names)
    }

    /// Uses other names of headers from now on.
    ///
    /// # Errors
    /// The same as [`Self::new`]; the previous names stay in use.
    pub fn rename(&self, names: &HeaderNames) -> Result<(), BadIdentity> {
        self.0.store(Self::new(names)?.0.load_full());
        Ok(())
    }

    /// The same user as a member of another group.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn member_of(group: &str, names: &HeaderNames) -> Result<Self, BadIdentity> {
        let groups = vec![group.to_owned()];
        let user = User::new(
            OWN_NAME.to_owned(),
            String::new(),
            groups,
            Vec::new(),
            names,
        )?;
        let mut headers = HeaderMap::new();
        user.assert_in(&mut headers);
        Ok(Self::of(headers))
    }

    /// The headers of the agent's own user, by the names that are configured now.
    pub fn headers(&self) -> Arc<HeaderMap> {
        self.0.load_full()
    }

    fn of(headers: HeaderMap) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(headers)))
    }
}

/// The headers by the standard names.
impl Default for OwnUser {
    fn default() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static(OWN_NAME));
        headers.insert("x-remote-group", HeaderValue::from_static(AUTHENTICATED));
        Self::of(headers)
    }
}

impl Challenge {
    /// A new question, in the names by which this agent asserts users.
    pub fn new(names: &HeaderNames) -> Self {
        Self {
            nonce: uuid::Uuid::new_v4().simple().to_string(),
            names: names.clone(),
        }
    }

    /// Headers of [`ChallengeStage::Review`].
    pub fn headers(&self) -> HeaderMap {
        let extra = vec![(EXTRA.to_owned(), vec![self.nonce.clone()])];
        let uid = if self.names.tells_uid() { UID } else { "" };
        self.asserting(OWN_NAME.to_owned(), uid, extra)
    }

    /// Body of [`ChallengeStage::Review`].
    pub fn review() -> &'static str {
        r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#
    }

    /// A path that nobody may read, and nobody has asked for before.
    pub fn path(&self) -> String {
        format!("/mvp-proof/{}", self.nonce)
    }

    /// Headers of [`ChallengeStage::Path`].
    pub fn path_headers(&self) -> HeaderMap {
        self.asserting(self.path_user(), "", Vec::new())
    }

    /// What the answer to a question over the front-proxy class says.
    pub fn judge(&self, stage: ChallengeStage, reply: ServerReply<'_>) -> Judgement {
        match (stage, reply.status.as_u16()) {
            (_, 401) => Judgement::Refused(ProofFailure::Unauthorized),
            (_, 429 | 500..=599) => unanswered(reply.status),
            (ChallengeStage::Review, 200 | 201) => match self.review_answer(reply.body) {
                Ok(evidence) => Judgement::Proved(evidence),
                Err(finding) => Judgement::Refused(finding),
            },
            (ChallengeStage::Review, _) => Judgement::AskByPath,
            (ChallengeStage::Path, 403) => match named_user(reply.body) {
                Some(user) if user == self.path_user() => Judgement::Proved(Evidence::Name),
                Some(user) => Judgement::Refused(ProofFailure::OtherUser(quote(&user))),
                None => Judgement::Refused(ProofFailure::Untold("a 403 without a user".to_owned())),
            },
            (ChallengeStage::Path, status) => Judgement::Refused(ProofFailure::Untold(format!(
                "{status} for a path that nobody may read"
            ))),
        }
    }

    /// What the answer to the same question over the bare class says: nobody may be believed there. A 401 (no anonymous access), or a
    /// refusal that names somebody else, is what a server ought to say.
    pub fn judge_bare(&self, stage: ChallengeStage, reply: ServerReply<'_>) -> Judgement {
        let own = [OWN_NAME.to_owned(), self.path_user()];
        match (stage, reply.status.as_u16()) {
            (_, 401) => Judgement::Proved(Evidence::Name),
            (_, 429 | 500..=599) => unanswered(reply.status),
            (ChallengeStage::Review, 200 | 201) => match read_review(reply.body) {
                Some(user) if own.contains(&user.username) || self.is_marked(&user) => {
                    Judgement::Refused(ProofFailure::BelievesAnyone)
                }
                Some(_) => Judgement::Proved(Evidence::Review),
                None => {
                    Judgement::Refused(ProofFailure::Untold("no review in the answer".to_owned()))
                }
            },
            (_, 403) => match named_user(reply.body) {
                Some(user) if own.contains(&user) => {
                    Judgement::Refused(ProofFailure::BelievesAnyone)
                }
                Some(_) => Judgement::Proved(Evidence::Name),
                None => Judgement::Refused(ProofFailure::Untold("a 403 without a user".to_owned())),
            },
            (ChallengeStage::Review, _) => Judgement::AskByPath,
            (ChallengeStage::Path, status) => Judgement::Refused(ProofFailure::Untold(format!(
                "{status} for a path that nobody may read"
            ))),
        }
    }

    fn review_answer(&self, body: &[u8]) -> Result<Evidence, ProofFailure> {
        let user = read_review(body)
            .ok_or_else(|| ProofFailure::Untold("no review in the answer".to_owned()))?;
        if user.username != OWN_NAME {
            return Err(ProofFailure::OtherUser(quote(&user.username)));
        }
        let mut groups = user.groups.clone();
        groups.sort();
        if groups != [GROUP, AUTHENTICATED] {
            return Err(ProofFailure::Inexact(format!(
                "groups {}",
                quote(&user.groups.join(", "))
            )));
        }
        let evidence = match user.uid.as_str() {
            "" => Evidence::ReviewWithoutUid,
            UID if self.names.tells_uid() => Evidence::Review,
            other => return Err(ProofFailure::Inexact(format!("uid {}", quote(other)))),
        };
        if user.extra.len() != 1 || !self.is_marked(&user) {
            let keys: Vec<_> = user.extra.keys().cloned().collect();
            return Err(ProofFailure::Inexact(format!(
                "extra {}",
                quote(&keys.join(", "))
            )));
        }
        Ok(evidence)
    }

    fn is_marked(&self, user: &UserInfo) -> bool {
        let values = user.extra.get(EXTRA);
        values.is_some_and(|values| *values == [self.nonce.clone()])
    }

    fn path_user(&self) -> String {
        format!("mvp:proof:{}", self.nonce)
    }

    /// Empty if no header can say it: the server then answers 401, which proves nothing.
    fn asserting(&self, name: String, uid: &str, extra: Vec<(String, Vec<String>)>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(user) = User::new(
            name,
            uid.to_owned(),
            vec![GROUP.to_owned()],
            extra,
            &self.names,
        ) {
            user.assert_in(&mut headers);
        }
        headers
    }
}

#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReviewStatus {
    user_info: UserInfo,
}

/// `authentication.k8s.io/v1 UserInfo`.
#[derive(Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

fn read_review(body: &[u8]) -> Option<UserInfo> {
    let review: Review = serde_json::from_slice(body).ok()?;
    Some(review.status.user_info)
}

/// Whom the message of a 403 names: `… User "NAME" cannot …` (`apiserver/pkg/endpoints/handlers/responsewriters/errors.go`).
fn named_user(body: &[u8]) -> Option<String> {
    let status: Status = serde_json::from_slice(body).ok()?;
    let (_, rest) = status.message.split_once("User \"")?;
    let (user, _) = rest.split_once("\" cannot ")?;
    Some(user.to_owned())
}

fn unanswered(status: StatusCode) -> Judgement {
    Judgement::Unanswered(format!("it answered {}", status.as_u16()))
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}

#[cfg(test)]
#[path = "challenge_tests.rs"]
mod tests;
