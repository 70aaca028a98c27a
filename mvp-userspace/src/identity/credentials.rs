//! What a server is shown of a caller, and how callers and their tokens are told apart without being kept.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use http::HeaderMap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

use super::authenticate::Caller;
use crate::tls::IdentityClass;

/// What a request shows a server of its caller.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Credentials {
    /// A user asserted over the front-proxy certificate.
    Asserted,
    /// A bearer token, passed on as it is; the agent does not know whether it is good.
    Token(TokenHash),
    /// Neither a certificate nor a token.
    Anonymous,
}

/// A token as it is remembered: never itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TokenHash(u64);

/// One caller from one address: what quotas and rates are kept for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ClientKey {
    /// The client's address, without its port.
    pub address: IpAddr,
    /// A hash of the user's name, or of the token: the agent does not know whose it is.
    who: u64,
}

/// Hashes with keys of this process's own, so that nobody outside can choose values that collide.
#[derive(Clone, Debug, Default)]
pub struct Hasher(RandomState);

impl Credentials {
    /// Those of `caller`, whose request has these headers.
    pub fn of(caller: &Caller, headers: &HeaderMap, hasher: &Hasher) -> Self {
        match caller {
            Caller::Asserted(_) | Caller::FrontProxy(_) => Self::Asserted,
            Caller::Anonymous => Self::Anonymous,
            Caller::Token => Self::Token(hasher.token(headers)),
        }
    }

    /// Over which connections requests with these credentials travel: a server believes asserted users only over one of them.
    pub fn class(self) -> IdentityClass {
        match self {
            Self::Asserted => IdentityClass::FrontProxy,
            Self::Token(_) | Self::Anonymous => IdentityClass::Bare,
        }
    }
}

impl Hasher {
    fn token(&self, headers: &HeaderMap) -> TokenHash {
        // What of them the server takes the token from is its own matter: the same bytes are the same token.
        let mut values: Vec<&[u8]> = Vec::with_capacity(1);
        for name in [AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL] {
            values.extend(headers.get_all(name).iter().map(|value| value.as_bytes()));
        }
        // 64 bits are enough: a stranger who met one of 8,192 accepted tokens, in one of 2^51 tries, would share their connection, and
        // the server would refuse the token all the same.
        TokenHash(self.0.hash_one(&values))
    }

    /// The key of a caller from `address`.
    pub fn client(&self, address: IpAddr, caller: &Caller, credentials: Credentials) -> ClientKey {
        let who = match credentials {
            Credentials::Token(TokenHash(hash)) => hash,
            Credentials::Asserted | Credentials::Anonymous => {
                self.0.hash_one(caller.name_for_log())
            }
        };
        ClientKey {
            address: address.to_canonical(),
            who,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, text.parse().unwrap());
        headers
    }

    fn token(hasher: &Hasher, n: u64) -> Credentials {
        Credentials::of(&Caller::Token, &headers(&format!("Bearer {n}")), hasher)
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
            key("10.0.0.1", &Caller::Token, token(&hasher, 1)),
            key("10.0.0.1", &Caller::Token, token(&hasher, 2))
        );
    }

    #[test]
    fn a_token_is_the_bytes_of_its_headers() {
        let hasher = Hasher::default();
        let one = hasher.token(&headers("Bearer a"));
        assert_eq!(one, hasher.token(&headers("Bearer a")));
        assert_ne!(one, hasher.token(&headers("Bearer b")));
        assert_ne!(
            one,
            Hasher::default().token(&headers("Bearer a")),
            "another process has other keys"
        );
    }
}
