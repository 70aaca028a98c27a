//! One request, from its head until the last byte or trailer of its answer: attempts, counters, quotas and the access line. From the head of the
//! answer on they go with its body ([`Download`]) or its tunnel.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};

use super::access::{AccessRecord, CLIENT_GONE};
use super::blame::Ending;
use super::body::Upload;
use super::connection::Connection;
use super::error::{AttemptError, ProxyError};
use super::events::WatchFraming;
use super::forward::{AnswerBody, ServerAnswer, forward};
use super::headers::keep_ids_out_of_tables;
use super::interpret::is_passed_on;
use super::let_go::watch_end;
use super::one_view;
use super::outgoing::Outgoing;
use super::response::{CancelNote, Download};
use super::status::error_response;
use super::trace::Trace;
use super::tunnels::ClientPlace;
use super::upgrade::{WatchEnd, is_websocket, tunnel};
use super::{Shared, Worker};
use crate::api::Verb;
use crate::history::Forwarded;
use crate::identity::{
    AUDIT_ID, Admitted, ClientKey, Credentials, HopMark, Stripped, strip_hop_by_hop,
};
use crate::metrics::Metrics;
use crate::request::{PathClass, RequestInfo, classify};
use crate::route::Reason;
use crate::text::{TEXT, printable};

/// Owns what happens to one request. If it is dropped before the answer has a head, the client has gone: this is counted and
/// logged as well.
pub struct Exchange<'a> {
    connection: &'a Connection,
    version: Version,
    upload: &'a Upload,
    started: Instant,
    /// What the attempts cost.
    pub trace: Trace,
    record: Option<Box<AccessRecord>>,
    answered: bool,
    /// Set once the caller is known.
    client: Option<ClientKey>,
    credentials: Option<Credentials>,
    /// The place of a request that wants to change its protocol.
    tunnel: Option<ClientPlace>,
}

impl<'a> Exchange<'a> {
    /// For a request that arrived at `started` and has its Audit-ID.
    pub fn begin(
        connection: &'a Connection,
        parts: &Parts,
        upload: &'a Upload,
        started: Instant,
    ) -> Self {
        let path = parts.uri.path();
        let mut record = AccessRecord::start(connection.peer, &parts.method, path, started);
        if let (Some(record), Some(id)) = (&mut record, parts.headers.get(AUDIT_ID)) {
            record.audit_id(id.to_str().unwrap_or_default());
        }
        Self {
            connection,
            version: parts.version,
            upload,
            started,
            trace: Trace::default(),
            record,
            answered: false,
            client: None,
            credentials: None,
            tunnel: None,
        }
    }

    /// The data thread that the client's connection is on.
    pub fn thread(&self) -> &'a Worker {
        &self.connection.thread
    }

    /// Counts the request against the caller's quotas. `upgrades`: it wants to change the protocol.
    ///
    /// # Errors
    /// One of the quotas is used up.
    pub fn enter(&mut self, admitted: &Admitted<'_>, upgrades: bool) -> Result<(), ProxyError> {
        let shared = self.shared();
        let (caller, credentials) = (admitted.caller(), admitted.credentials());
        let address = self.connection.peer.ip();
        let client = shared.hasher.client(address, caller, credentials);
        self.client = Some(client);
        self.credentials = Some(credentials);
        if !shared.cancels.admits(client, Instant::now()) {
            shared.metrics.refused("cancellations");
            return Err(ProxyError::TooManyCancelled);
        }
        if upgrades {
            self.tunnel = shared.tunnels.enter(client);
            if self.tunnel.is_none() {
                shared.metrics.refused("tunnels_per_client");
                return Err(ProxyError::TooManyTunnels);
            }
        }
        if admitted.mark() == HopMark::Forged {
            shared.metrics.hop_marker_forged();
        }
        Ok(())
    }

    /// Tries servers until there is an answer.
    ///
    /// # Errors
    /// No answer may be passed on.
    pub async fn ask(
        &mut self,
        info: &RequestInfo<'_>,
        outgoing: &Outgoing<'_>,
    ) -> Result<ServerAnswer, ProxyError> {
        let class = (!info.is_resource).then(|| classify(&info.path));
        self.note(info, class, outgoing.admitted);
        // Each in a box of its own: with everything that a request has besides, its future would be too large to be moved.
        let mut answer = match class {
            Some(PathClass::Discovery { .. } | PathClass::OpenApi { .. }) => {
                Box::pin(one_view::answer(self, info, outgoing)).await
            }
            _ => Box::pin(forward(self, info, outgoing)).await,
        };
        self.upload.stop_recording();
        if let Ok(unasked) = &answer
            && unasked.is_upgrade()
            && outgoing.upgrade.is_none()
        {
            answer = Err(unasked_upgrade(unasked, outgoing.method));
        }
        self.judge(info, outgoing, &answer);
        answer
    }

    /// What is asked for, and by whom.
    fn note(
        &mut self,
        info: &RequestInfo<'_>,
        class: Option<PathClass<'_>>,
        admitted: &Admitted<'_>,
    ) {
        let shared = self.shared();
        if class == Some(PathClass::Probe) {
            shared.relays.asked_about_server(self.connection.peer.ip());
        }
        let caller = admitted.caller();
        // A front proxy uses these headers rightly.
        if !caller.is_front_proxy() {
            count_stripped(&shared.metrics, admitted.stripped());
        }
        if let Some(record) = &mut self.record {
            record.user(caller.name_for_log());
            if info.is_resource {
                record.key(&info.key().to_string());
            }
        }
    }

    /// Notes what the answer, or its absence, says about servers.
    fn judge(
        &self,
        info: &RequestInfo<'_>,
        outgoing: &Outgoing<'_>,
        answer: &Result<ServerAnswer, ProxyError>,
    ) {
        let shared = self.shared();
        match answer {
            Ok(answer) => {
                if answer.head.status == StatusCode::UNAUTHORIZED
                    && outgoing.admitted.caller().user().is_some()
                {
                    // Perhaps the server does not accept the front-proxy certificate any more. Or it is what a backend says.
                    shared.discovery.doubt(&answer.server);
                }
            }
            Err(error) => {
                if let Some(kind) = error.peer_error_kind() {
                    let (group, version) = (&info.group, &info.version);
                    shared
                        .metrics
                        .peer_proxy_error(kind, group, version, &info.resource);
                }
            }
        }
    }

    fn shared(&self) -> &'a Arc<Shared> {
        &self.connection.thread.shared
    }

    /// The answer of a server as the client gets it.
    pub fn respond(
        mut self,
        answer: ServerAnswer,
        info: &RequestInfo<'_>,
        asked: &HeaderMap,
        on_upgrade: Option<hyper::upgrade::OnUpgrade>,
    ) -> Response<Download> {
        let shared = self.shared();
        let status = answer.head.status;
        self.end(answer.reason.as_str(), &answer.server.name, status.as_u16());
        shared
            .metrics
            .server_time(&answer.server.name, self.trace.server_time());
        if !answer.server.local {
            shared
                .metrics
                .rerouted(status.as_u16(), &info.group, &info.version, &info.resource);
            self.tally(&answer, info, asked);
        }
        let comes_again = self.comes_again(&answer, info) | self.must_leave(status, Some(info));
        let mut record = self.record.take();
        if let Some(record) = &mut record {
            record.server_address = Some(answer.address);
        }
        let end = (info.verb == Verb::Watch).then(|| {
            let class = self.credentials.map(|credentials| credentials.class());
            watch_end(shared, &answer.server, class, info, answer.reason)
        });
        if answer.is_upgrade() {
            return match (on_upgrade, answer.into_upgrade()) {
                (Some(client), Some((response, lease))) => {
                    let metrics = Arc::clone(&shared.metrics);
                    let place = self.tunnel.take();
                    let websocket = is_websocket(response.headers());
                    let end = end
                        .filter(|_| websocket)
                        .map(|end| Box::pin(end) as WatchEnd);
                    let (head, tunnel) =
                        tunnel(client, response, lease, place, metrics, record, end);
                    self.connection.upgraded(tunnel);
                    head.map(|()| Download::whole(Bytes::new(), None))
                }
                // Cannot be: an unasked 101 is an error already, and no 101 is read whole.
                _ => {
                    let mut response = Response::new(Download::whole(Bytes::new(), record));
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    response
                }
            };
        }
        let mut head = answer.head;
        // The version of the client's connection: a client of HTTP/1.0 needs to see that its connection stays open.
        head.version = Version::HTTP_11;
        strip_hop_by_hop(&mut head.headers);
        keep_ids_out_of_tables(&mut head.headers);
        if comes_again && self.version != Version::HTTP_2 {
            // HTTP/2 clients receive GOAWAY instead.
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // To end a watch is its ordinary end, and no request is cut short by it.
        let cancels = info.verb != Verb::Watch;
        let note = self.client.filter(|_| cancels).map(|client| CancelNote {
            shared: Arc::clone(shared),
            client,
        });
        let body = match answer.body {
            AnswerBody::Whole(bytes) => Download::whole(bytes, record),
            AnswerBody::Begun(bytes, incoming, lease) => {
                Download::upstream(incoming, lease, record).after(bytes)
            }
            AnswerBody::Streaming(incoming, lease) => {
                let body = Download::upstream(incoming, lease, record);
                match end.filter(|_| status == StatusCode::OK) {
                    Some(end) => body.watch(WatchFraming::of(head.headers.get(CONTENT_TYPE)), end),
                    None => body,
                }
            }
        };
        let body = match note {
            Some(note) => body.noting(note),
            None => body,
        };
        Response::from_parts(head, body)
    }

    /// Counts what the client would have received without the agent.
    fn tally(&self, answer: &ServerAnswer, info: &RequestInfo<'_>, asked: &HeaderMap) {
        let shared = self.shared();
        let local_is_down = answer.reason == Reason::LocalDown
            && shared
                .table
                .load()
                .local()
                .is_some_and(|local| local.server.is_down());
        let user_agent = asked.get(USER_AGENT).map(HeaderValue::as_bytes);
        shared.tally.count(&Forwarded {
            reason: answer.reason,
            status: answer.head.status.as_u16(),
            key: [
                &info.group,
                &info.version,
                &info.resource,
                &info.subresource,
            ],
            client: user_agent.unwrap_or_default(),
            local_is_down,
        });
    }

    /// Whether the client is asked to reconnect with this answer, since its next connection would be relayed.
    fn comes_again(&self, answer: &ServerAnswer, info: &RequestInfo<'_>) -> bool {
        let shared = self.shared();
        let memory = &self.connection.memory;
        if info.is_resource && answer.head.status.is_success() {
            memory.welcome(shared);
        }
        // A tunnel takes the whole connection, and nothing can be asked on it any more.
        // Nor does it speak for being relayed that the local server is down: it may be back before the client has reconnected. Nor that it
        // does not know an option of one query.
        !answer.server.local
            && !answer.is_upgrade()
            && !matches!(answer.reason, Reason::LocalDown | Reason::QueryOnPeer)
            && memory.forwarded(shared, &answer.server)
    }

    /// Whether the client's connection ends with this answer, since the client is not authenticated. As kube-apiserver has it
    /// (`UnauthenticatedHTTP2DOSMitigation`): the server ended its own connection to the agent and meant the client's. That concerns
    /// HTTP/2; over HTTP/1.1 an anonymous client is left alone, as kube-apiserver does. A 401 ends both: on a connection that was
    /// authenticated before it means that the certificate has expired, and only a new connection can show another. What a workload may
    /// have answered (`info`; `None`: the agent did) says nothing of the client.
    fn must_leave(&self, status: StatusCode, info: Option<&RequestInfo<'_>>) -> bool {
        let passed_on = info.is_some_and(|info| info.is_resource && is_passed_on(info.key()));
        let leaves = match self.credentials {
            // The server did not accept the agent's own certificate.
            Some(Credentials::Asserted) => false,
            Some(Credentials::Anonymous) if self.version == Version::HTTP_2 => true,
            _ => status == StatusCode::UNAUTHORIZED && !passed_on,
        };
        if leaves {
            self.connection.leave();
        }
        leaves
    }

    /// An answer of the agent's own.
    pub fn refuse(mut self, error: &ProxyError, request: &Parts) -> Response<Download> {
        let shared = self.shared();
        let mut response = error_response(error, &request.headers);
        let leaves = match response.status() {
            StatusCode::UNAUTHORIZED => self.must_leave(response.status(), None),
            // Whether the client sends its body now only the client knows.
            status => status == StatusCode::EXPECTATION_FAILED,
        };
        if leaves && self.version != Version::HTTP_2 {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if request.method == Method::HEAD {
            // hyper leaves a body out over HTTP/1.1 only.
            response.body_mut().clear();
        }
        // As kube-apiserver does on every answer (`WithAuditInit`), so that client, log and audit can be brought together.
        if let Some(id) = request.headers.get(AUDIT_ID) {
            response.headers_mut().insert(AUDIT_ID, id.clone());
        }
        if let ProxyError::Unauthorized(reason) = error {
            // No server receives the request, so this line is all that an operator has to find the caller.
            tracing::info!(
                peer = %self.connection.peer,
                method = %request.method,
                path = request.uri.path(),
                user_agent = text(&request.headers, &USER_AGENT),
                audit_id = text(&request.headers, &AUDIT_ID),
                %reason,
                "request answered with 401 by the agent; it is in no server's audit log"
            );
        }
        let status = response.status().as_u16();
        self.end(error.decision(), &shared.no_server, status);
        let error = error.to_string();
        let peer = self.connection.peer;
        tracing::debug!(%peer, error = %printable(&error, TEXT), "request answered by the agent");
        let mut record = self.record.take();
        if let Some(record) = &mut record {
            record.error(&error);
        }
        response.map(|body| Download::whole(body, record))
    }

    /// Counts the request and completes its access line.
    fn end(&mut self, decision: &'static str, server: &Arc<str>, status: u16) {
        self.answered = true;
        let server_time = self.trace.server_time();
        let agent = self.started.elapsed().saturating_sub(server_time);
        let metrics = &self.connection.thread.shared.metrics;
        metrics.request(decision, server, status);
        metrics.added(agent);
        if let Some(record) = &mut self.record {
            record.decision = decision;
            record.server = server.to_string();
            record.status = status;
            record.attempts = self.trace.attempts;
            record.agent = agent;
            record.server_time = server_time;
            record.received = self.upload.received();
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if let Some(record) = &mut self.record {
            record.error("the client went away before the answer");
        }
        if let (Some(client), true) = (self.client, self.trace.is_under_way()) {
            let shared = self.shared();
            shared.cancels.cancelled(client, Instant::now());
        }
        match self.trace.asked.take() {
            Some((server, reason)) => self.end(reason.as_str(), &server.name, CLIENT_GONE),
            None => {
                let nobody = Arc::clone(&self.connection.thread.shared.no_server);
                self.end("client_gone", &nobody, CLIENT_GONE);
            }
        }
    }
}

/// A 101 that nobody asked for: nothing that a client could use.
fn unasked_upgrade(answer: &ServerAnswer, method: &Method) -> ProxyError {
    ProxyError::Upstream {
        server: answer.server.name.to_string(),
        local: answer.server.local,
        attempt: AttemptError::new(Ending::AnswerMalformed, "it switched protocols unasked"),
        repeatable: *method == Method::GET,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    let value = headers.get(name).map(HeaderValue::to_str);
    value.and_then(Result::ok).unwrap_or_default()
}

fn count_stripped(metrics: &Metrics, stripped: &Stripped) {
    if stripped.total() == 0 {
        return;
    }
    for (kind, count) in [
        ("username", stripped.username),
        ("uid", stripped.uid),
        ("group", stripped.group),
        ("extra", stripped.extra),
        ("other", stripped.other),
        ("hop", stripped.hop),
    ] {
        metrics.headers_stripped(kind, count as u64);
    }
}
