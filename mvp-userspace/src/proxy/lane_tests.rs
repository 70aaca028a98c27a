use proptest::prelude::*;

use super::*;

fn token(n: u64) -> Credentials {
    Credentials::Token(TokenHash([n, n]))
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

#[test]
fn callers_differ_by_address_and_user() {
    let hasher = Hasher::default();
    let key = |address: &str, caller: &Caller, credentials| {
        hasher.client(address.parse().unwrap(), caller, credentials)
    };
    let anonymous = key("10.0.0.1", &Caller::Anonymous, Credentials::Anonymous);
    assert_eq!(
        anonymous,
        key(
            "::ffff:10.0.0.1",
            &Caller::Anonymous,
            Credentials::Anonymous
        )
    );
    assert_ne!(
        anonymous,
        key("10.0.0.2", &Caller::Anonymous, Credentials::Anonymous)
    );
    assert_ne!(
        key("10.0.0.1", &Caller::Token, token(1)),
        key("10.0.0.1", &Caller::Token, token(2))
    );
}

#[test]
fn a_token_is_the_bytes_of_its_headers() {
    let hasher = Hasher::default();
    let headers = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, text.parse().unwrap());
        headers
    };
    let one = hasher.token(&headers("Bearer a"));
    assert_eq!(one, hasher.token(&headers("Bearer a")));
    assert_ne!(one, hasher.token(&headers("Bearer b")));
    assert_ne!(
        one,
        Hasher::default().token(&headers("Bearer a")),
        "another process has other keys"
    );
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
