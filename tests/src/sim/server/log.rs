//! What a server received, for tests to look at.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, StatusCode, request::Parts};
use serde::{Deserialize, Serialize};

use super::{Connection, Fault};
use crate::sim::api::authn::{Method, User};

/// One received request.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// As it was received.
    pub method: http::Method,
    /// Path and query exactly as they were received.
    pub target: String,
    /// As they were received.
    pub headers: HeaderMap,
    /// The HTTP version of the connection.
    pub version: http::Version,
    /// Absent for 401 and for requests that a fault took.
    pub user: Option<User>,
    /// Which authenticator found the user; absent with it.
    pub how: Option<Method>,
    /// The address and port that the connection came from.
    pub peer: SocketAddr,
    /// Number of the connection, from 1, over the life of the server object.
    pub connection: u64,
    /// What happened instead of an answer.
    pub fault: Option<Fault>,
}

impl Recorded {
    /// A request whose head has arrived.
    pub fn new(
        parts: &Parts,
        connection: &Connection,
        authenticated: Option<&(User, Method)>,
    ) -> Self {
        Self {
            method: parts.method.clone(),
            target: parts
                .uri
                .path_and_query()
                .map(|target| target.as_str().to_owned())
                .unwrap_or_default(),
            headers: parts.headers.clone(),
            version: parts.version,
            user: authenticated.map(|(user, _)| user.clone()),
            how: authenticated.map(|(_, how)| *how),
            peer: connection.peer,
            connection: connection.id,
            fault: None,
        }
    }

    /// The path without the query, still as received.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// A client's own name for a request, so that the server can tell later whether and how often it had it.
pub(crate) const NUMBER: &str = "x-test-number";

/// How often a request with a number of its own was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    pub received: u32,
    /// So often it was answered with 404, 405, 429 or 503: it was not acted on, and may be sent elsewhere.
    pub refused: u32,
}

/// The last requests, and how many there were in all.
#[derive(Debug)]
pub struct RequestLog {
    capacity: usize,
    entries: Mutex<(u64, VecDeque<Arc<Recorded>>)>,
    numbered: Mutex<HashMap<String, Numbered>>,
}

impl RequestLog {
    /// With a capacity of 0 requests are only counted.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: Mutex::default(),
            numbered: Mutex::default(),
        }
    }

    /// Counts a request that has a number, and returns it.
    pub fn number(&self, headers: &HeaderMap) -> Option<String> {
        let number = headers.get(NUMBER)?.to_str().ok()?;
        self.lock_numbered()
            .entry(number.to_owned())
            .or_default()
            .received += 1;
        Some(number.to_owned())
    }

    /// What it was answered with.
    pub fn answered(&self, number: &str, status: StatusCode) {
        if matches!(status.as_u16(), 404 | 405 | 429 | 503)
            && let Some(counts) = self.lock_numbered().get_mut(number)
        {
            counts.refused += 1;
        }
    }

    pub fn numbered(&self) -> HashMap<String, Numbered> {
        self.lock_numbered().clone()
    }

    fn lock_numbered(&self) -> MutexGuard<'_, HashMap<String, Numbered>> {
        self.numbered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn record(&self, request: Recorded) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.0 += 1;
        if self.capacity == 0 {
            return;
        }
        if entries.1.len() == self.capacity {
            entries.1.pop_front();
        }
        entries.1.push_back(Arc::new(request));
    }

    pub fn entries(&self) -> Vec<Arc<Recorded>> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .iter()
            .cloned()
            .collect()
    }

    pub fn total(&self) -> u64 {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Forgets the entries, not the count.
    pub fn clear(&self) {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clear();
    }
}
