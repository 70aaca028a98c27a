use std::sync::LazyLock;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use proptest::prelude::*;

use super::*;
use crate::identity::{Caller, Hasher};

/// Tokens are told apart by one hasher.
static HASHER: LazyLock<Hasher> = LazyLock::new(Hasher::default);

fn token(n: u64) -> Credentials {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {n}").parse().unwrap());
    Credentials::of(&Caller::Token, &headers, &HASHER)
}

fn ok() -> StatusCode {
    StatusCode::OK
}

#[test]
fn a_token_is_known_where_it_was_accepted_and_for_a_while() {
    let start = Instant::now();
    let mut tokens = AcceptedTokens::default();
    let lane = |tokens: &AcceptedTokens, server, at| tokens.lane(server, token(1), at);
    assert_eq!(lane(&tokens, 1, start), Lane::UnknownToken);
    tokens.answered(1, token(1), ok(), start);
    assert_eq!(lane(&tokens, 1, start), Lane::Accepted);
    assert_eq!(
        lane(&tokens, 2, start),
        Lane::UnknownToken,
        "another server"
    );
    assert_eq!(tokens.lane(1, token(2), start), Lane::UnknownToken);
    let late = start + BELIEVED;
    assert_eq!(lane(&tokens, 1, late), Lane::UnknownToken);
    tokens.answered(1, token(1), StatusCode::FORBIDDEN, late);
    assert_eq!(lane(&tokens, 1, late), Lane::Accepted);
    tokens.answered(2, token(1), StatusCode::UNAUTHORIZED, late);
    assert_eq!(lane(&tokens, 1, late), Lane::UnknownToken);
}

#[test]
fn answers_from_before_authentication_prove_nothing() {
    let now = Instant::now();
    for status in [400, 401, 429, 500, 502, 503, 504] {
        let mut tokens = AcceptedTokens::default();
        tokens.answered(1, token(1), StatusCode::from_u16(status).unwrap(), now);
        assert_eq!(
            tokens.lane(1, token(1), now),
            Lane::UnknownToken,
            "{status}"
        );
    }
}

proptest! {
    // Each fills the whole table.
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// Whatever comes, memory is bounded, and a token that was just accepted is known.
    #[test]
    fn what_is_remembered_is_bounded(extra in 1..200_u64, step in 0..3_u64) {
        let start = Instant::now();
        let mut tokens = AcceptedTokens::default();
        let at = |n: u64| start + Duration::from_millis(n * step);
        for n in 0..MOST as u64 + extra {
            tokens.answered(1, token(n), ok(), at(n));
            prop_assert!(tokens.seen.len() <= MOST);
            prop_assert_eq!(tokens.lane(1, token(n), at(n)), Lane::Accepted);
        }
    }
}
