//! One line in the access log for each request, written when its answer has ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;

use crate::text::{AUDIT_ID, TEXT, printable};

/// The status in the log of requests that the client gave up before they had an answer. It is never sent; nginx has the same
/// number for it.
pub(super) const CLIENT_GONE: u16 = 499;

/// What one line of the access log has. Text that a client chose is [`printable`]. The line is written when this is dropped, so
/// that an answer that the client broke off is logged as well.
#[derive(Debug)]
pub struct AccessRecord {
    pub client: SocketAddr,
    user: String,
    method: Method,
    /// The path without the query, which may hold credentials.
    path: String,
    /// `apps/v1 deployments/scale`, empty for non-resource paths.
    key: String,
    /// A routing reason (docs/routing.md), or why the agent itself refused.
    pub decision: &'static str,
    /// The server that answered. If the client gave the request up, it is the server that had not answered yet.
    pub server: String,
    pub server_address: Option<SocketAddr>,
    audit_id: String,
    pub attempts: u32,
    error: Option<String>,
    /// [`CLIENT_GONE`] if the client did not wait for an answer.
    pub status: u16,
    /// Time in the agent, from the request's arrival to the head of the answer, without the server's time.
    pub agent: Duration,
    /// From the request's departure to the head of the server's answer.
    pub server_time: Duration,
    pub received: u64,
    started: Instant,
    sent: u64,
    ended: &'static str,
}

impl AccessRecord {
    /// `None` when nobody reads access lines, so that nothing is gathered for them.
    pub fn start(
        client: SocketAddr,
        method: &Method,
        path: &str,
        started: Instant,
    ) -> Option<Box<Self>> {
        if !tracing::enabled!(target: "access", tracing::Level::INFO) {
            return None;
        }
        Some(Box::new(Self {
            client,
            user: String::new(),
            method: method.clone(),
            path: printable(path, TEXT).into_owned(),
            key: String::new(),
            decision: "",
            server: String::new(),
            server_address: None,
            audit_id: String::new(),
            status: CLIENT_GONE,
            attempts: 0,
            error: None,
            agent: Duration::ZERO,
            server_time: Duration::ZERO,
            received: 0,
            started,
            sent: 0,
            ended: "cut",
        }))
    }

    /// The user's name, as far as it is known.
    pub fn user(&mut self, name: &str) {
        self.user = printable(name, TEXT).into_owned();
    }

    /// The key of the resource that was requested.
    pub fn key(&mut self, key: &str) {
        self.key = printable(key, TEXT).into_owned();
    }

    pub fn audit_id(&mut self, id: &str) {
        self.audit_id = printable(id, AUDIT_ID).into_owned();
    }

    /// Why the agent itself answered.
    pub fn error(&mut self, error: &str) {
        self.error = Some(printable(error, TEXT).into_owned());
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// The client sent so many bytes behind the header of its request.
    pub fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// The whole answer was passed on. Without this call the line says `cut`: the client left, or the agent ended.
    pub fn complete(&mut self) {
        if self.ended == "cut" {
            self.ended = "complete";
        }
    }

    /// The server broke off its answer.
    pub fn broke(&mut self) {
        self.ended = "server_broke";
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        tracing::info!(
            target: "access",
            client = %self.client,
            user = self.user,
            method = %self.method,
            path = self.path,
            key = self.key,
            decision = self.decision,
            server = self.server,
            server_address = self.server_address.map(tracing::field::display),
            status = self.status,
            attempts = self.attempts,
            received = self.received,
            sent = self.sent,
            agent_us = u64::try_from(self.agent.as_micros()).unwrap_or(u64::MAX),
            server_us = u64::try_from(self.server_time.as_micros()).unwrap_or(u64::MAX),
            total_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            audit_id = self.audit_id,
            ended = self.ended,
            error = self.error,
        );
    }
}
