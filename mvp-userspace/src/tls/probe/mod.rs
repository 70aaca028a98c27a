//! What a client would meet if it were handed to another server whole: a handshake with the client's own server name, closed
//! again before a byte of HTTP.
//!
//! [`OwnCa`] says which CA the agent's own certificates are of, [`probe`] is one handshake, [`ProbeCache`] remembers and says
//! what is due (pure), [`Prober`] joins the three.

mod cache;
mod handshake;
mod own_ca;

pub use cache::{MAX_PROBES, ProbeCache, ProbeView, Target};
pub use handshake::{ProbeError, Probed, probe};
pub use own_ca::{NoIssuer, OwnCa};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustls::pki_types::UnixTime;

use crate::config::Endpoint;
use crate::net::DialFrom;

/// Handshakes under way at a time.
const CONCURRENT: usize = 4;

/// Keeps the probes that are asked for fresh. Shared by all data threads.
pub struct Prober {
    own_ca: Arc<OwnCa>,
    timeout: Duration,
    cache: Mutex<ProbeCache>,
}

impl Prober {
    /// `timeout`: of one probe, TCP and TLS; `upstream.connectTimeout`.
    pub fn new(own_ca: Arc<OwnCa>, timeout: Duration) -> Self {
        Self {
            own_ca,
            timeout,
            cache: Mutex::default(),
        }
    }

    /// What is known of `server` under this server name; asking has it probed, and kept fresh while it is asked for. Takes a
    /// lock, for a short while.
    pub fn view(&self, server: &str, server_name: Option<&str>, now: Instant) -> Option<ProbeView> {
        self.cache().view(server, server_name, now)
    }

    /// Why the last probe failed, if it did; for people.
    pub fn last_error(&self, server: &str, server_name: Option<&str>) -> Option<String> {
        self.cache().last_error(server, server_name)
    }

    /// Probes all that is due, from `from`, and returns when that is done. To be called about once per second, never twice at a
    /// time (nothing would be probed twice, but more than four at once).
    pub async fn round(&self, servers: &[Endpoint], from: &DialFrom) {
        let due = self.cache().due(Instant::now());
        futures_util::stream::iter(due)
            .for_each_concurrent(CONCURRENT, |target| self.one(target, servers, from))
            .await;
    }

    async fn one(&self, target: Target, servers: &[Endpoint], from: &DialFrom) {
        let name = target.server_name.as_deref();
        let result = match servers.iter().find(|server| server.name == *target.server) {
            None => Err(ProbeError::Gone),
            Some(server) => match self.own_ca.issuers(name, UnixTime::now()) {
                Err(error) => Err(ProbeError::OwnCa(error)),
                Ok(issuers) => probe(server, name, issuers, from, self.timeout).await,
            },
        };
        if let Err(error) = &result {
            tracing::debug!(server = %target.server, name, %error, "probe for relaying failed");
        }
        self.cache().done(&target, result, Instant::now());
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, ProbeCache> {
        // Nothing in the cache panics half-way.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
