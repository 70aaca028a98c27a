//! One request through the corridor: identity -> request -> route -> forward -> respond.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use rustls_pki_types::UnixTime;

use super::access::{AccessRecord, CLIENT_GONE};
use super::blame::Ending;
use super::body::Upload;
use super::connection::{Connection, Guard};
use super::error::{AttemptError, ProxyError};
use super::events::Events;
use super::forward::{Answer, AnswerBody, Outgoing};
use super::head_checks::{check_expectation, check_host, has_userinfo};
use super::header_limits::{exceeded_limit, header_bytes, limit_of};
use super::headers::{
    AUDIT_ID, ensure_audit_id, keep_ids_out_of_tables, prepare_request, strip_hop_by_hop,
    upgrade_protocol,
};
use super::interpret::is_passed_on;
use super::lane::{ClientKey, Credentials};
use super::let_go::watch_end;
use super::one_view;
use super::response::{CancelNote, Download};
use super::status::error_response;
use super::trace::Trace;
use super::tunnels::ClientPlace;
use super::upgrade::{WatchEnd, is_websocket, tunnel};
use super::whole_user;
use super::wire_body::WireBody;
use crate::api::Verb;
use crate::h2wire::{REFUSED, Refusal};
use crate::history::Forwarded;
use crate::identity::{self, HopMark, Stripped};
use crate::metrics::Metrics;
use crate::request::{PathClass, RequestInfo, classify};
use crate::route::Reason;
use crate::text::{TEXT, printable};

/// Answers one request. Every failure becomes a Status; nothing panics on what a client sends.
pub async fn handle(
    connection: Arc<Connection>,
    mut request: Request<WireBody>,
) -> Response<Download> {
    let started = Instant::now();
    let shared = &connection.thread.shared;
    connection.asked.notify_one();
    connection.place.asked();
    let _open = Guard::below(&shared.load.requests, usize::MAX);
    let upgrade = upgrade_protocol(request.version(), request.headers());
    let on_upgrade = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let trust = shared.trust.load();
    let upload = Upload::new(incoming, &trust);
    // A counted reference: what is parsed borrows from it while the head is being changed.
    let uri = parts.uri.clone();
    let mut record = AccessRecord::start(connection.peer, &parts.method, uri.path(), started);
    // Of what the client sent, before anything is added.
    let header_bytes = header_bytes(&parts);
    let budget = exceeded_limit(&parts, header_bytes, &shared.limits).map_or_else(
        || shared.header_budget.take(&connection.headers, header_bytes),
        Err,
    );
    // First of all, since answers of the agent itself have it as well.
    ensure_audit_id(&mut parts.headers);
    if let (Some(record), Some(id)) = (&mut record, parts.headers.get(AUDIT_ID)) {
        record.audit_id(id.to_str().unwrap_or_default());
    }
    let mut call = Call {
        connection: &connection,
        version: parts.version,
        upload: &upload,
        started,
        trace: Trace::default(),
        record,
        answered: false,
        client: None,
        credentials: None,
        tunnel: None,
    };

    let answer = async {
        if let Err(limit) = &budget {
            shared.metrics.refused(limit);
            return Err(ProxyError::HeaderTooLarge);
        }
        if let Some(mark) = parts.headers.get(REFUSED) {
            let refusal = Refusal::of_mark(mark.as_bytes());
            if let Some(limit) = limit_of(refusal) {
                shared.metrics.refused(limit);
            }
            return Err(refusal.into());
        }
        if connection.unseen.may_be() {
            return Err(ProxyError::BadRequest(
                "the mixed version proxy could not follow the HTTP/2 frames of this connection",
            ));
        }
        check_host(&parts)?;
        check_expectation(&parts)?;
        if parts.method == Method::CONNECT {
            // No kube-apiserver is a proxy, and behind an answer to CONNECT a connection is not HTTP any more.
            return Err(ProxyError::BadRequest("CONNECT is not supported"));
        }
        if has_userinfo(&parts) {
            // Go's HTTP/2 server resets such a stream with PROTOCOL_ERROR; RFC 9110 §4.2.4 has it treated as an error.
            return Err(ProxyError::BadRequest(
                "the request's authority contains user information",
            ));
        }
        let certificate = connection
            .certificates
            .as_ref()
            .map(|certificates| certificates.identity(&trust, now()));
        let caller = identity::authenticate(certificate.as_deref(), &parts.headers, &trust)?;
        whole_user::check(&caller, &shared.table.load())?;
        let credentials = Credentials::of(&caller, &parts.headers, &shared.hasher);
        let client = shared
            .hasher
            .client(connection.peer.ip(), &caller, credentials);
        call.client = Some(client);
        call.credentials = Some(credentials);
        if !shared.cancels.admits(client, Instant::now()) {
            shared.metrics.refused("cancellations");
            return Err(ProxyError::TooManyCancelled);
        }
        if upgrade.is_some() {
            call.tunnel = shared.tunnels.enter(client);
            if call.tunnel.is_none() {
                shared.metrics.refused("tunnels_per_client");
                return Err(ProxyError::TooManyTunnels);
            }
        }
        let mark = identity::hop_marked(&parts.headers, &caller);
        if mark == HopMark::Forged {
            shared.metrics.hop_marker_forged();
        }
        let info = RequestInfo::parse(&parts.method, uri.path(), uri.query())?;
        if !info.is_resource && classify(&info.path) == PathClass::Probe {
            shared.relays.asked_about_server(connection.peer.ip());
        }
        // In this order: what the client nominates as hop-by-hop goes before anything of the agent's is set.
        strip_hop_by_hop(&mut parts.headers);
        let stripped = identity::rewrite_headers(&mut parts.headers, &caller, &trust);
        // From a front proxy they are how it speaks.
        if !caller.is_front_proxy() {
            count_stripped(&shared.metrics, &stripped);
        }
        prepare_request(&mut parts.headers, &connection.forwarded_for);
        if let Some(record) = &mut call.record {
            record.user(caller.name_for_log());
            if info.is_resource {
                record.key(&info.key().to_string());
            }
        }
        let outgoing = Outgoing {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            upload: &upload,
            credentials,
            client: connection.peer.ip(),
            upgrade: upgrade.as_ref(),
            hop_marked: mark == HopMark::Honoured,
            validators: None,
            preferred: None,
        };
        let answer = one_view::answer(&connection.thread, &info, &outgoing, &mut call.trace)
            .await
            .and_then(|answer| {
                if answer.is_upgrade() && upgrade.is_none() {
                    return Err(unasked_upgrade(&answer, outgoing.method));
                }
                Ok(answer)
            });
        upload.stop_recording();
        if let Ok(answer) = &answer
            && answer.head.status == StatusCode::UNAUTHORIZED
            && caller.user().is_some()
        {
            // Perhaps the server does not accept the front-proxy certificate any more. Or it is what a backend says.
            shared.discovery.doubt(&answer.server);
        }
        if let Err(error) = &answer
            && let Some(kind) = error.peer_error_kind()
        {
            shared
                .metrics
                .peer_proxy_error(kind, &info.group, &info.version, &info.resource);
        }
        answer.map(|answer| (answer, info))
    }
    .await;
    match answer {
        Ok((answer, info)) => call.respond(answer, &info, &parts.headers, on_upgrade),
        Err(error) => call.refuse(&error, &parts),
    }
}

/// What is known about a request until its answer has a head. Dropped before that, the client has gone: counted and logged too.
struct Call<'a> {
    connection: &'a Connection,
    version: Version,
    upload: &'a Upload,
    started: Instant,
    trace: Trace,
    record: Option<Box<AccessRecord>>,
    answered: bool,
    /// Once it is known who asks.
    client: Option<ClientKey>,
    credentials: Option<Credentials>,
    /// Of a request that wants to change its protocol.
    tunnel: Option<ClientPlace>,
}

impl Call<'_> {
    fn respond(
        mut self,
        answer: Answer,
        info: &RequestInfo<'_>,
        asked: &HeaderMap,
        on_upgrade: Option<hyper::upgrade::OnUpgrade>,
    ) -> Response<Download> {
        let shared = &self.connection.thread.shared;
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
        // As far as the client's connection is concerned: a client of HTTP/1.0 is told that its connection stays.
        head.version = Version::HTTP_11;
        strip_hop_by_hop(&mut head.headers);
        keep_ids_out_of_tables(&mut head.headers);
        if comes_again && self.version != Version::HTTP_2 {
            // HTTP/2 clients are told by GOAWAY.
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
                    Some(end) => body.watch(Events::of(head.headers.get(CONTENT_TYPE)), end),
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

    /// What the client would have met without the agent.
    fn tally(&self, answer: &Answer, info: &RequestInfo<'_>, asked: &HeaderMap) {
        let shared = &self.connection.thread.shared;
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
    fn comes_again(&self, answer: &Answer, info: &RequestInfo<'_>) -> bool {
        let shared = &self.connection.thread.shared;
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
            // It is the agent's own certificate that the server did not take.
            Some(Credentials::Asserted) => false,
            Some(Credentials::Anonymous) if self.version == Version::HTTP_2 => true,
            _ => status == StatusCode::UNAUTHORIZED && !passed_on,
        };
        if leaves {
            self.connection.leave();
        }
        leaves
    }

    fn refuse(mut self, error: &ProxyError, request: &Parts) -> Response<Download> {
        let shared = &self.connection.thread.shared;
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
            // No server hears of it, so this line is all that there is to find the caller by.
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

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if let Some(record) = &mut self.record {
            record.error("the client went away before the answer");
        }
        if let (Some(client), true) = (self.client, self.trace.is_under_way()) {
            let shared = &self.connection.thread.shared;
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
fn unasked_upgrade(answer: &Answer, method: &Method) -> ProxyError {
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

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO))
}
