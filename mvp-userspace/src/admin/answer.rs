//! One request of the admin port to one answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use super::access::{CANARY, CHANGES, SERVERS};
use super::query::{decode, parameter};
use super::{Access, Admin, ServerResponse, ServerResponseError, StatusView, page};
use crate::drain::{DrainState, DrainTrigger};
use crate::history::MOST_MINUTES;
use crate::readiness::{PassingBy, PassingReasons, Readiness};
use crate::steering::{ClusterOrder, Operator};

/// Longest body read: a log filter.
const BODY: usize = 4096;
/// The endpoints of a server that may be reached through the agent.
const PROBES: [&str; 5] = ["healthz", "livez", "readyz", "version", "metrics"];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

pub(super) async fn answer(
    admin: &Admin,
    access: &Access,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    if let Some((status, problem)) = access.refuses(&request) {
        return text(status, problem);
    }
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let allowed = match path.as_str() {
        "/loglevel" => Method::PUT,
        change if CHANGES.contains(&change) => Method::POST,
        _ => Method::GET,
    };
    let head = allowed == Method::GET && request.method() == Method::HEAD;
    if *request.method() != allowed && !head {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{path} takes {allowed}\n"),
        );
        if let Ok(value) = HeaderValue::from_str(allowed.as_str()) {
            response.headers_mut().insert(ALLOW, value);
        }
        return response;
    }
    match path.as_str() {
        "/readyz" => readyz(admin, parameter(&query, "verbose").is_some()),
        "/livez" => livez(admin),
        "/metrics" => {
            let (content_type, body) = (admin.views.metrics)();
            respond(StatusCode::OK, content_type, body)
        }
        "/status" => json(&status_view(admin)),
        "/history" => history(admin, &query),
        "/report" => report(admin, &request, &query),
        "/servers" => json(&(admin.views.servers)()),
        "/routes" => json(&(admin.views.routes)()),
        "/skew" => {
            let view = (admin.views.skew)();
            if wants_text(&request) {
                text(StatusCode::OK, view.text())
            } else {
                json(&view)
            }
        }
        "/explain" => explain(admin, &request, &query),
        CANARY => canary(admin).await,
        "/drain" => drain(admin, &query),
        "/arm" | "/auto" if parameter(&query, "cluster").is_some() => {
            cluster(admin, path == "/arm", &query).await
        }
        "/arm" => arm(admin, &query),
        "/disarm" => guard(admin, Operator::Disarm),
        "/auto" => guard(admin, Operator::Auto),
        "/retire" => retire(admin),
        "/loglevel" => log_level(admin, request).await,
        "/" if wants(&request, b"text/html") => page::page(),
        "/" => text(StatusCode::OK, HELP),
        _ => match path.strip_prefix(SERVERS) {
            Some(rest) => probe(admin, rest, request.uri().query()).await,
            None => text(StatusCode::NOT_FOUND, HELP),
        },
    }
}

/// How long all agents are armed if the operator does not say: an upgrade takes less, and a word that is forgotten must end.
const CLUSTER_ARMED: Duration = Duration::from_secs(60 * 60);
const HELP: &str = "mvp admin port\n/readyz /livez /metrics /status /servers /routes /skew\n/history?since=2h /report?since=2h /stream\n/explain?method=GET&path=/api/v1/pods\n/explain?connection=ADDRESS&serverName=NAME\nOn the Unix socket only: /mvp/servers/NAME/{healthz,livez,readyz,version,metrics}, /mvp/canary\nPOST /drain /arm /disarm /auto /retire, PUT /loglevel\n";

/// What `/readyz`, the status and `mvp_ready` say.
pub fn is_ready(readiness: &Readiness, standing: &PassingReasons, drain: &DrainTrigger) -> bool {
    readiness.is_ready() && drain.state() == DrainState::Running && unproved(standing).is_none()
}

fn readyz(admin: &Admin, verbose: bool) -> Response<Full<Bytes>> {
    let awaited = admin.readiness.awaited();
    let draining = admin.drain.state() != DrainState::Running;
    let unproved = unproved(&admin.standing);
    let ready = is_ready(&admin.readiness, &admin.standing, &admin.drain);
    if ready && !verbose {
        return text(StatusCode::OK, "ok\n");
    }
    let mut body = String::new();
    if verbose {
        for name in admin.readiness.done() {
            body += &format!("[+]{name} ok\n");
        }
    }
    for name in &awaited {
        body += &format!("[-]{name} awaited\n");
    }
    if draining {
        body += "[-]draining\n";
    }
    if let Some(detail) = &unproved {
        let reason = PassingBy::LocalUnproved.as_str();
        body += &format!("[-]{reason}: {detail}\n");
    }
    if ready {
        body += "readyz check passed\n";
        text(StatusCode::OK, body)
    } else {
        body += "readyz check failed\n";
        text(StatusCode::SERVICE_UNAVAILABLE, body)
    }
}

/// The reason by which the agent is not ready. The other reasons to pass by end by themselves, or readiness knows them already.
fn unproved(standing: &PassingReasons) -> Option<String> {
    let mut reasons = standing.reasons().into_iter();
    reasons.find_map(|(reason, detail)| (reason == PassingBy::LocalUnproved).then_some(detail))
}

fn livez(admin: &Admin) -> Response<Full<Bytes>> {
    let stalled = (admin.views.stalled)();
    if stalled.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    let lines: Vec<String> = stalled
        .iter()
        .map(|name| format!("[-]{name} makes no progress\n"))
        .collect();
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        lines.concat() + "livez check failed\n",
    )
}

/// What the agent knows of itself, with what the port knows.
pub(super) fn status_view(admin: &Admin) -> StatusView {
    let mut view = (admin.views.status)();
    view.awaiting = admin.readiness.awaited();
    let state = admin.drain.state();
    view.ready = is_ready(&admin.readiness, &admin.standing, &admin.drain);
    view.drain = match state {
        DrainState::Running => "running",
        DrainState::Draining(_) => "draining",
        DrainState::Forced => "forced",
    }
    .to_owned();
    view
}

fn history(admin: &Admin, query: &str) -> Response<Full<Bytes>> {
    match since(query) {
        Ok(since) => json(&(admin.views.history)(since)),
        Err(problem) => text(StatusCode::BAD_REQUEST, problem),
    }
}

/// In the form that is asked for: JSON, text, or a page.
fn report(admin: &Admin, request: &Request<Incoming>, query: &str) -> Response<Full<Bytes>> {
    match since(query) {
        Ok(since) => {
            let report = (admin.views.report)(since);
            match request {
                _ if wants(request, b"text/html") => page::report(&report),
                _ if wants_text(request) => text(StatusCode::OK, report.text()),
                _ => json(&report),
            }
        }
        Err(problem) => text(StatusCode::BAD_REQUEST, problem),
    }
}

/// `since=DURATION`; a day, of which there is a record, if it is not said.
fn since(query: &str) -> Result<Duration, String> {
    match parameter(query, "since").map(|text| crate::config::parse_duration(&text)) {
        None => Ok(Duration::from_secs(MOST_MINUTES * 60)),
        Some(Ok(since)) => Ok(since),
        Some(Err(problem)) => Err(format!("since: {problem}\n")),
    }
}

fn explain(admin: &Admin, request: &Request<Incoming>, query: &str) -> Response<Full<Bytes>> {
    if let Some(address) = parameter(query, "connection") {
        return explain_connection(admin, request, &address, query);
    }
    let method = parameter(query, "method").unwrap_or_else(|| "GET".to_owned());
    let Some(path) = parameter(query, "path").filter(|path| path.starts_with('/')) else {
        let problem = "path=/… is missing, /explain?method=GET&path=/api/v1/pods\n";
        return text(StatusCode::BAD_REQUEST, problem);
    };
    match (admin.views.explain)(&method, &path) {
        Ok(view) if wants_text(request) => text(StatusCode::OK, format!("{}\n", view.line)),
        Ok(view) => json(&view),
        Err(problem) => text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}

fn explain_connection(
    admin: &Admin,
    request: &Request<Incoming>,
    address: &str,
    query: &str,
) -> Response<Full<Bytes>> {
    let Ok(address) = address.parse() else {
        let problem = format!("connection={address}: no IP address\n");
        return text(StatusCode::BAD_REQUEST, problem);
    };
    let name = parameter(query, "serverName").filter(|name| !name.is_empty());
    let view = (admin.views.explain_connection)(address, name.as_deref());
    if wants_text(request) {
        text(StatusCode::OK, format!("{}\n", view.line))
    } else {
        json(&view)
    }
}

async fn probe(admin: &Admin, rest: &str, query: Option<&str>) -> Response<Full<Bytes>> {
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let first = path.split('/').next().unwrap_or_default();
    // Only the last word may have parts (`readyz/ping`), and nothing may climb out of it.
    if !PROBES.contains(&first) || path.split('/').any(|part| decode(part) == "..") {
        let problem = format!("one of {} must follow the name\n", PROBES.join(", "));
        return text(StatusCode::NOT_FOUND, problem);
    }
    let mut target = format!("/{path}");
    if let Some(query) = query {
        target += "?";
        target += query;
    }
    match tokio::time::timeout(
        admin.answer_timeout,
        (admin.views.probe)(decode(name), target),
    )
    .await
    {
        Ok(Ok(ServerResponse {
            status,
            content_type,
            body,
        })) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            respond(status, &content_type, body)
        }
        Ok(Err(error @ ServerResponseError::UnknownServer)) => {
            text(StatusCode::NOT_FOUND, format!("{error}\n"))
        }
        Ok(Err(error @ ServerResponseError::Unreachable(_))) => {
            text(StatusCode::BAD_GATEWAY, format!("{error}\n"))
        }
        Err(_) => text(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no answer within {:?}\n", admin.answer_timeout),
        ),
    }
}

/// It ends by itself: each of its ways has a limit in time.
async fn canary(admin: &Admin) -> Response<Full<Bytes>> {
    json(&(admin.views.canary)().await)
}

fn drain(admin: &Admin, query: &str) -> Response<Full<Bytes>> {
    let deadline = match parameter(query, "deadline") {
        Some(text) => crate::config::parse_duration(&text),
        None => Ok(admin.drain_deadline),
    };
    match deadline {
        Ok(deadline) if admin.drain.drain(deadline) => text(
            StatusCode::ACCEPTED,
            format!("draining, at most {deadline:?}\n"),
        ),
        Ok(_) => text(StatusCode::ACCEPTED, "already draining\n"),
        Err(problem) => text(StatusCode::BAD_REQUEST, format!("deadline: {problem}\n")),
    }
}

fn arm(admin: &Admin, query: &str) -> Response<Full<Bytes>> {
    match time(query) {
        Ok(None) => guard(admin, Operator::Arm),
        Ok(Some(time)) => guard(admin, Operator::ArmFor(time)),
        Err(problem) => text(StatusCode::BAD_REQUEST, problem),
    }
}

/// `for=DURATION`, above zero.
fn time(query: &str) -> Result<Option<Duration>, String> {
    match parameter(query, "for").map(|text| crate::config::parse_duration(&text)) {
        None => Ok(None),
        Some(Ok(time)) if !time.is_zero() => Ok(Some(time)),
        Some(Ok(_)) => Err("for: not above zero\n".to_owned()),
        Some(Err(problem)) => Err(format!("for: {problem}\n")),
    }
}

async fn cluster(admin: &Admin, arms: bool, query: &str) -> Response<Full<Bytes>> {
    let order = match time(query) {
        Ok(time) if arms => ClusterOrder::Arm(time.unwrap_or(CLUSTER_ARMED)),
        Ok(_) => ClusterOrder::Release,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    match (admin.views.cluster)(order).await {
        Ok(line) => text(StatusCode::OK, format!("{line}\n")),
        Err(problem) => text(StatusCode::BAD_GATEWAY, format!("{problem}\n")),
    }
}

fn guard(admin: &Admin, word: Operator) -> Response<Full<Bytes>> {
    text(
        StatusCode::OK,
        format!("{}\n", (admin.views.guard)(word).line()),
    )
}

fn retire(admin: &Admin) -> Response<Full<Bytes>> {
    match (admin.views.retire)() {
        Some(view) => text(StatusCode::ACCEPTED, format!("{}\n", view.line())),
        None => text(
            StatusCode::CONFLICT,
            "no retirement is under way: connections stay while the guard is idle or nothing is steered\n",
        ),
    }
}

async fn log_level(admin: &Admin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let body = Limited::new(request.into_body(), BODY).collect();
    let level = match tokio::time::timeout(admin.answer_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive\n"),
    };
    let level = String::from_utf8_lossy(&level);
    match (admin.views.set_log_level)(level.trim()) {
        Ok(()) => {
            tracing::info!(level = level.trim(), "log level set");
            respond(StatusCode::NO_CONTENT, TEXT, "")
        }
        Err(problem) => text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}

fn wants_text(request: &Request<Incoming>) -> bool {
    wants(request, b"text/plain")
}

/// What stands first is what the asker likes best; browsers have `text/html` there.
fn wants(request: &Request<Incoming>, media_type: &[u8]) -> bool {
    let mut accepted = request.headers().get_all(ACCEPT).iter();
    accepted.any(|accept| accept.as_bytes().starts_with(media_type))
}

fn json(view: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(view) {
        Ok(body) => respond(StatusCode::OK, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, TEXT, body)
}

fn respond(
    status: StatusCode,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}
