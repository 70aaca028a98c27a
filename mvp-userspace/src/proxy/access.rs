//! One line in the access log for each request, written when its answer has ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

/// Everything one line says. Written when dropped, so that an answer the client broke off is logged as well.
#[derive(Debug)]
pub struct AccessRecord {
    pub client: SocketAddr,
    pub user: String,
    pub method: Method,
    /// Without the query: that may hold credentials.
    pub path: String,
    /// `apps/v1 deployments/scale`, empty for non-resource paths.
    pub key: String,
    /// A routing reason (docs/routing.md), or why the agent itself refused.
    pub decision: &'static str,
    pub server: String,
    pub server_address: Option<SocketAddr>,
    pub audit_id: String,
    pub status: StatusCode,
    pub attempts: u32,
    /// Why the agent itself made the answer.
    pub error: Option<String>,
    /// In the agent, from the request's arrival to the answer's head, without the server.
    pub agent: Duration,
    /// From the request's departure to the head of the server's answer.
    pub server_time: Duration,
    pub received: u64,
    started: Instant,
    sent: u64,
    broke: bool,
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
            path: path.to_owned(),
            key: String::new(),
            decision: "",
            server: String::new(),
            server_address: None,
            audit_id: String::new(),
            status: StatusCode::OK,
            attempts: 0,
            error: None,
            agent: Duration::ZERO,
            server_time: Duration::ZERO,
            received: 0,
            started,
            sent: 0,
            broke: false,
        }))
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// The server broke its answer off.
    pub fn broke(&mut self) {
        self.broke = true;
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
            status = self.status.as_u16(),
            attempts = self.attempts,
            received = self.received,
            sent = self.sent,
            agent_us = u64::try_from(self.agent.as_micros()).unwrap_or(u64::MAX),
            server_us = u64::try_from(self.server_time.as_micros()).unwrap_or(u64::MAX),
            total_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            audit_id = self.audit_id,
            broke = self.broke,
            error = self.error,
        );
    }
}
