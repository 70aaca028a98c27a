//! Which of a server's connections a request uses.
//!
//! kube-apiserver ends a connection after it answered somebody who is not authenticated (`UnauthenticatedHTTP2DOSMitigation`,
//! its answer to CVE-2023-44487). Requests of others on the same connection would pay for that. So only those share connections
//! of whom it is known that they are authenticated: asserted users, and tokens that this server accepted lately. All others
//! have connections apart, which only requests of one client share (see [`super::rides`]), and only a few at a time.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use http::StatusCode;

use crate::identity::{Credentials, TokenHash};
use crate::tls::IdentityClass;

/// How long a token is believed to be good after a server last accepted it. A token that ends meanwhile costs the others on its
/// connection one GOAWAY, which they do not notice.
const BELIEVED: Duration = Duration::from_secs(120);
/// Tokens remembered by one data thread, over all servers.
const MOST: usize = 8192;

/// A set of connections to one server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Lane {
    /// Shared, with the front-proxy certificate.
    FrontProxy,
    /// Shared, by tokens that this server accepted lately.
    Accepted,
    /// Connections apart from those of others: tokens of which nothing is known.
    UnknownToken,
    /// Connections apart from those of others: no credentials at all.
    Anonymous,
}

/// Which tokens each server accepted lately. Pure: time is passed in.
#[derive(Debug, Default)]
pub(super) struct AcceptedTokens {
    /// By the server's place in memory; when it last accepted the token.
    seen: HashMap<(usize, TokenHash), Instant>,
}

impl Lane {
    pub fn class(self) -> IdentityClass {
        match self {
            Self::FrontProxy => IdentityClass::FrontProxy,
            Self::Accepted | Self::UnknownToken | Self::Anonymous => IdentityClass::Bare,
        }
    }

    /// True if requests share no connection with those of another caller.
    pub fn is_quarantine(self) -> bool {
        matches!(self, Self::UnknownToken | Self::Anonymous)
    }

    /// Label `class` of `mvp_pool_connections`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FrontProxy => "front_proxy",
            Self::Accepted => "bare",
            Self::UnknownToken => "unknown_token",
            Self::Anonymous => "anonymous",
        }
    }
}

impl AcceptedTokens {
    /// The lane of a request to the server at `server`.
    pub(super) fn lane(&self, server: usize, credentials: Credentials, now: Instant) -> Lane {
        match credentials {
            Credentials::Asserted => Lane::FrontProxy,
            Credentials::Anonymous => Lane::Anonymous,
            Credentials::Token(token) => match self.seen.get(&(server, token)) {
                Some(at) if now.saturating_duration_since(*at) < BELIEVED => Lane::Accepted,
                _ => Lane::UnknownToken,
            },
        }
    }

    /// Learns from the head of an answer.
    pub(super) fn answered(
        &mut self,
        server: usize,
        credentials: Credentials,
        status: StatusCode,
        now: Instant,
    ) {
        let Credentials::Token(token) = credentials else {
            return;
        };
        if status == StatusCode::UNAUTHORIZED {
            // The token expired or was revoked: no server will accept it.
            self.seen.retain(|(_, known), _| *known != token);
        } else if proves_authentication(status) {
            if self.seen.len() >= MOST && !self.seen.contains_key(&(server, token)) {
                self.make_room(now);
            }
            self.seen.insert((server, token), now);
        }
    }

    /// Forgets what has expired; without that, the half that is oldest.
    fn make_room(&mut self, now: Instant) {
        self.seen
            .retain(|_, at| now.saturating_duration_since(*at) < BELIEVED);
        if self.seen.len() < MOST {
            return;
        }
        let mut times: Vec<Instant> = self.seen.values().copied().collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        let mut left = MOST / 2;
        self.seen.retain(|_, at| {
            let stays = *at >= median && left > 0;
            left -= usize::from(stays);
            stays
        });
    }
}

/// True for answers that kube-apiserver gives behind its authentication filter only. Those before it are 400 and 500
/// (request information), 429 and 503 (starting and shutting down), and 401.
fn proves_authentication(status: StatusCode) -> bool {
    status.is_success()
        || status == StatusCode::SWITCHING_PROTOCOLS
        || matches!(
            status.as_u16(),
            304 | 403 | 404 | 405 | 406 | 409 | 410 | 415 | 422
        )
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
