//! What was proved of one server, and what follows for this agent.

use std::time::Duration;

use tokio::time::Instant;

use super::{Evidence, Judgement, ProofFailure, PublishedNames};

/// The outcome for one identity class.
#[derive(Clone, Debug, Default)]
pub struct ClassProof {
    /// `None`: nothing was found out yet.
    found: Option<(Result<Evidence, ProofFailure>, Instant)>,
    /// Why the last attempt found nothing out; what was found before stands.
    unanswered: Option<String>,
}

/// What is known of the header names that a server believes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum BelievedNames {
    /// They were not read yet.
    #[default]
    Unknown,
    /// As the server published them.
    Known(PublishedNames),
    /// The server does not let the agent read them, or they make no sense, and why.
    Unreadable(String),
}

/// The state of one server.
#[derive(Clone, Debug, Default)]
pub struct Proofs {
    /// Whether users may be asserted to it over the front-proxy certificate.
    pub front_proxy: ClassProof,
    /// Whether requests with the callers' own credentials may go to it.
    pub bare: ClassProof,
    /// What it would believe, and the agent must therefore delete from what clients send.
    pub names: BelievedNames,
}

/// The pair by which this agent asserts users, as it is now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OwnPair {
    /// No `upstream.clientCertFile` is configured: only callers with tokens can be served.
    Absent,
    /// How long it has been so.
    Expired(Duration),
    /// It is within its validity.
    Valid,
}

/// What decides whether this agent may take connections.
#[derive(Debug)]
pub struct LocalFacts<'a> {
    /// The local server's name.
    pub name: &'a str,
    /// What was found out about the local server.
    pub proofs: &'a Proofs,
    /// Why the local server does not report to this agent what it serves, although it serves others: 401 or 403 from a ready server.
    pub discovery_refused: Option<&'a str>,
    /// Nobody answers at the local server's address.
    pub unreachable: bool,
    /// Some other server is proved, for both classes.
    pub peer_proved: bool,
    /// The pair that the proofs were made with.
    pub pair: OwnPair,
}

impl ClassProof {
    /// Takes over what an attempt found out.
    pub fn note(&mut self, judgement: Judgement, now: Instant) {
        match judgement {
            Judgement::Proved(evidence) => {
                self.found = Some((Ok(evidence), now));
                self.unanswered = None;
            }
            Judgement::Refused(finding) => {
                self.found = Some((Err(finding), now));
                self.unanswered = None;
            }
            Judgement::Unanswered(why) => self.unanswered = Some(why),
            Judgement::AskByPath => {
                self.unanswered = Some("it was not asked to the end".to_owned())
            }
        }
    }

    /// Whether requests of this class may be sent, by the last outcome that was found.
    pub fn is_proved(&self) -> bool {
        matches!(self.found, Some((Ok(_), _)))
    }

    /// Whether anything was found out yet.
    pub fn is_known(&self) -> bool {
        self.found.is_some()
    }

    /// When the outcome was last found, either way.
    pub fn at(&self) -> Option<Instant> {
        self.found.as_ref().map(|(_, at)| *at)
    }

    /// Why it is not proved; `None`: it is.
    pub fn why(&self) -> Option<String> {
        match &self.found {
            Some((Ok(_), _)) => None,
            Some((Err(finding), _)) => Some(finding.to_string()),
            None => Some(match &self.unanswered {
                Some(why) => format!("not proved yet: {why}"),
                None => "not proved yet".to_owned(),
            }),
        }
    }
}

impl Proofs {
    /// Whether users may be asserted to the server: it accepts them, and which headers it believes is known or made harmless.
    pub fn asserts(&self) -> bool {
        self.front_proxy.is_proved()
            && self.bare.is_proved()
            && self.names != BelievedNames::Unknown
    }

    /// Whether the server takes an asserted user's uid.
    pub fn tells_uid(&self) -> bool {
        matches!(self.front_proxy.found, Some((Ok(Evidence::Review), _)))
    }

    /// Whether the server was found to refuse the users that this agent asserts, and with them the agent itself.
    pub fn refuses(&self) -> bool {
        self.front_proxy.is_known() && !self.front_proxy.is_proved()
    }

    /// Whether nothing is left to find out: it accepts asserted users, and which headers it believes is known.
    pub fn is_complete(&self) -> bool {
        self.asserts() && matches!(self.names, BelievedNames::Known(_))
    }

    /// Whether requests without an asserted user may be sent to it.
    pub fn passes_tokens(&self) -> bool {
        self.bare.is_proved()
    }

    /// Why users may not be asserted; `None`: they may.
    pub fn why(&self) -> Option<String> {
        let classes = self.bare.why().or_else(|| self.front_proxy.why());
        classes.or_else(|| {
            (self.names == BelievedNames::Unknown)
                .then(|| "which header names it believes is not known yet".to_owned())
        })
    }
}

/// Why this agent may not take connections, in one sentence; `None`: it may.
///
/// A local server that nobody reaches is not a server that refuses this agent: clients would fare no better without the agent, and a
/// server that was proved stays proved while it restarts. Before anything was proved, another server must have been, since the pair
/// may be the reason.
pub fn local_unproved(facts: &LocalFacts<'_>) -> Option<String> {
    let LocalFacts { name, proofs, .. } = facts;
    if let Some(why) = proofs.why() {
        let unknown = !(proofs.front_proxy.is_known() && proofs.bare.is_known());
        if unknown && facts.unreachable && facts.peer_proved {
            return None;
        }
        return Some(format!(
            "kube-apiserver {name} is not proved: {}",
            explained(&why, facts.pair)
        ));
    }
    let refused = facts.discovery_refused?;
    Some(format!(
        "kube-apiserver {name} does not tell this agent what it serves: {refused} (may User system:mvp read /api and /apis, as \
         ClusterRole system:discovery allows?)"
    ))
}

fn explained(why: &str, pair: OwnPair) -> String {
    match pair {
        OwnPair::Absent => {
            format!("{why}; there is no front-proxy certificate (upstream.clientCertFile)")
        }
        OwnPair::Expired(ago) => {
            let hours = ago.as_secs() / 3600;
            format!(
                "{why}; the front-proxy certificate (upstream.clientCertFile) expired {hours} hours ago"
            )
        }
        OwnPair::Valid => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proved() -> Judgement {
        Judgement::Proved(Evidence::Review)
    }

    fn refused() -> Judgement {
        Judgement::Refused(ProofFailure::Unauthorized)
    }

    fn silent() -> Judgement {
        Judgement::Unanswered("it answered 503".to_owned())
    }

    fn proofs(front_proxy: &[Judgement], bare: &[Judgement], names: BelievedNames) -> Proofs {
        let mut proofs = Proofs {
            names,
            ..Proofs::default()
        };
        for judgement in front_proxy {
            proofs.front_proxy.note(judgement.clone(), Instant::now());
        }
        for judgement in bare {
            proofs.bare.note(judgement.clone(), Instant::now());
        }
        proofs
    }

    fn known() -> BelievedNames {
        BelievedNames::Known(PublishedNames::default())
    }

    fn decide(proofs: &Proofs, change: impl FnOnce(&mut LocalFacts<'_>)) -> Option<String> {
        let mut facts = LocalFacts {
            name: "cp-a",
            proofs,
            discovery_refused: None,
            unreachable: false,
            peer_proved: false,
            pair: OwnPair::Valid,
        };
        change(&mut facts);
        local_unproved(&facts)
    }

    #[test]
    fn an_answer_that_says_nothing_changes_nothing() {
        let stays = proofs(&[proved(), silent()], &[proved()], known());
        assert!(stays.asserts());
        let stays = proofs(&[refused(), silent()], &[proved()], known());
        assert!(!stays.asserts() && stays.passes_tokens());
        assert!(stays.why().unwrap().contains("401"));
    }

    #[test]
    fn nobody_is_asserted_before_the_names_are_known() {
        let unknown = proofs(&[proved()], &[proved()], BelievedNames::Unknown);
        assert!(!unknown.asserts() && unknown.passes_tokens());
        assert!(proofs(&[proved()], &[proved()], known()).asserts());
        assert!(
            proofs(
                &[proved()],
                &[proved()],
                BelievedNames::Unreadable("403".into())
            )
            .asserts()
        );
    }

    #[test]
    fn a_local_server_that_refuses_us_ends_it_and_one_that_is_down_does_not() {
        let good = proofs(&[proved()], &[proved()], known());
        assert_eq!(decide(&good, |_| {}), None);
        assert_eq!(decide(&good, |facts| facts.unreachable = true), None);
        let denied = decide(&good, |facts| facts.discovery_refused = Some("403"));
        assert!(denied.unwrap().contains("system:discovery"));
        let bad = proofs(&[refused()], &[proved()], known());
        for peer_proved in [false, true] {
            let found = decide(&bad, |facts| {
                facts.peer_proved = peer_proved;
                facts.unreachable = true;
                facts.pair = OwnPair::Expired(Duration::from_secs(7200));
            });
            assert!(found.unwrap().ends_with("expired 2 hours ago"));
        }
        let absent = decide(&bad, |facts| facts.pair = OwnPair::Absent);
        assert!(absent.unwrap().contains("no front-proxy certificate"));
    }

    #[test]
    fn a_start_beside_a_server_that_is_down_needs_another_that_is_proved() {
        let none = Proofs::default();
        assert!(decide(&none, |_| {}).is_some());
        assert!(decide(&none, |facts| facts.unreachable = true).is_some());
        assert!(decide(&none, |facts| facts.peer_proved = true).is_some());
        let both = decide(&none, |facts| {
            facts.unreachable = true;
            facts.peer_proved = true;
        });
        assert_eq!(both, None);
    }

    fn judgement() -> impl Strategy<Value = Judgement> {
        prop_oneof![Just(proved()), Just(refused()), Just(silent())]
    }

    proptest! {
        /// Whatever came before: after a refusal nobody is asserted until a proof, and the agent takes no connections.
        #[test]
        fn a_refusal_holds_until_a_proof(before in proptest::collection::vec(judgement(), 0..8), silences in 0usize..4) {
            let mut judgements = before;
            judgements.push(refused());
            judgements.extend(std::iter::repeat_n(silent(), silences));
            let bad = proofs(&judgements, &[proved()], known());
            let passes_by = decide(&bad, |_| {}).is_some();
            prop_assert!(!bad.asserts() && passes_by);
            judgements.push(proved());
            let good = proofs(&judgements, &[proved()], known());
            let passes_by = decide(&good, |_| {}).is_some();
            prop_assert!(good.asserts() && !passes_by);
        }
    }
}
