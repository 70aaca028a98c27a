//! The chain that every request passes: authentication, impersonation, authorization, then the answer.

use std::sync::{Arc, atomic::Ordering};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use uuid::Uuid;

use super::{
    authn::{self, MASTERS, User},
    authz,
    body::{self, Body},
    encode,
    negotiate::Output,
    nonresource,
    query::Query,
    request_info::RequestInfo,
    resource,
    status::{self, Failure},
};
use crate::sim::{
    discovery::compress,
    server::{App, Connection, Recorded, Upload},
};

/// Flow schemas and priority levels that the recorded servers named: exempt, global-default, probes.
const EXEMPT: [&str; 2] = [
    "241feb16-ebb3-4eff-9111-57b7a09b3305",
    "96c1487f-5b77-45e2-b5b4-95fe315d2c43",
];
const GLOBAL_DEFAULT: [&str; 2] = [
    "35169251-2dfa-41cd-a533-7c0143251a9d",
    "c37af6a7-901f-4142-a393-40ca6b73f34f",
];
const PROBES: [&str; 2] = [
    "6051005a-d844-4127-8d85-d3e51d4be13e",
    "96c1487f-5b77-45e2-b5b4-95fe315d2c43",
];

pub(super) type Answer = Result<Response<Body>, Failure>;

/// One request with all that is known about it.
pub(super) struct Request {
    pub(super) app: Arc<App>,
    pub(super) user: User,
    pub(super) info: RequestInfo,
    pub(super) query: Query,
    pub(super) raw_query: String,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) http2: bool,
    pub(super) body: Option<Upload>,
    pub(super) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// Answers, whatever comes. The request is logged before it is answered.
pub async fn handle(
    app: Arc<App>,
    connection: &Connection,
    parts: Parts,
    body: Upload,
) -> Response<Body> {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let output = Output::for_error(&parts.headers, &query);
    let audit_id = audit_id(&parts.headers);
    let policy = app.policy.load();
    let authenticated =
        if app.faults.refuses_front_proxy() && connection.certificate.is_front_proxy() {
            Err(status::unauthorized())
        } else {
            let (certificate, names) = (&connection.certificate, &app.header_names);
            authn::authenticate(certificate, &parts.headers, names, &policy.tokens)
        };
    app.log.record(Recorded::new(
        &parts,
        connection,
        authenticated.as_ref().ok(),
    ));
    let anonymous = |user: &User| user.name == authn::ANONYMOUS;
    if app.ends_unauthenticated
        && authenticated
            .as_ref()
            .map_or(true, |(user, _)| anonymous(user))
    {
        connection.ends.store(true, Ordering::SeqCst);
    }
    let head = parts.method == Method::HEAD;
    let (user, failure) = match authenticated {
        Ok((user, _)) => (user, None),
        Err(failure) => (User::default(), Some(failure)),
    };
    if let Some(failure) = failure {
        return finish(error(failure, output), &audit_id, None, head);
    }
    let schema = schema(&user, parts.uri.path());
    let answer = match prepare(app.clone(), user, connection.http2, parts, body, query) {
        Ok(request) => answer(request).await,
        Err(failure) => Err(failure),
    };
    let answer = match answer {
        Err(Failure::Text(404, _)) if app.faults.is_starting() => Err(status::starting()),
        answer => answer,
    };
    finish(
        answer.unwrap_or_else(|failure| error(failure, output)),
        &audit_id,
        Some(schema),
        head,
    )
}

fn prepare(
    app: Arc<App>,
    user: User,
    http2: bool,
    mut parts: Parts,
    body: Upload,
    query: Query,
) -> Result<Request, Failure> {
    let user = authn::impersonate(user, &parts.headers)?;
    let info =
        RequestInfo::parse(&parts.method, parts.uri.path(), &query).map_err(|malformed| {
            Failure::Text(
                500,
                format!(
                    "Internal Server Error: failed to create RequestInfo: {}\n",
                    malformed.0
                ),
            )
        })?;
    app.policy.load().authorize(&user, &info)?;
    // In the first second after a start RBAC is not there yet, and discovery is refused to everybody.
    let discovery = info.resource.is_none() && info.path.starts_with("/api");
    if discovery && app.faults.is_warming_up() {
        return Err(authz::denied(&user, &info));
    }
    Ok(Request {
        app,
        user,
        info,
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        query,
        upgrade: parts.extensions.remove(),
        method: parts.method,
        headers: parts.headers,
        http2,
        body: Some(body),
    })
}

async fn answer(request: Request) -> Answer {
    match request.info.resource {
        Some(_) => resource::answer(request).await,
        None => nonresource::answer(request),
    }
}

/// An answer with a body in `output`'s media type.
pub(super) fn reply(code: StatusCode, output: Output, bytes: bytes::Bytes) -> Response<Body> {
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(output.content_type()),
    );
    response
}

/// The same for objects and lists that a client reads: large ones are compressed for those who accept it.
pub(super) fn reply_read(request: &Request, output: Output, bytes: bytes::Bytes) -> Response<Body> {
    let Some(packed) = compress::object(&request.headers, &bytes) else {
        return reply(StatusCode::OK, output, bytes);
    };
    let mut response = reply(StatusCode::OK, output, packed);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

pub(super) fn text(code: StatusCode, message: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(message));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn error(failure: Failure, output: Output) -> Response<Body> {
    let status = match failure {
        Failure::Text(code, message) => return text(code_of(code), message),
        Failure::Status(status) => status,
    };
    let bytes = encode::write(&status, output).unwrap_or_default();
    let mut response = reply(code_of(status.code), output, bytes);
    // Only the authorization filter writes through http.Error's relatives, which set this.
    if status.code == 403 {
        response.headers_mut().insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
    }
    if let Some(seconds) = status
        .details
        .as_ref()
        .map(|details| details.retry_after_seconds)
        .filter(|s| *s > 0)
    {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn finish(
    mut response: Response<Body>,
    audit_id: &HeaderValue,
    schema: Option<[&'static str; 2]>,
    head: bool,
) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert("audit-id", audit_id.clone());
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some([schema, level]) = schema {
        headers.insert(
            "x-kubernetes-pf-flowschema-uid",
            HeaderValue::from_static(schema),
        );
        headers.insert(
            "x-kubernetes-pf-prioritylevel-uid",
            HeaderValue::from_static(level),
        );
    }
    if head {
        let length = http_body::Body::size_hint(response.body()).exact();
        if let Some(length) = length {
            response
                .headers_mut()
                .entry(header::CONTENT_LENGTH)
                .or_insert(length.into());
        }
        *response.body_mut() = body::full(bytes::Bytes::new());
    }
    response
}

/// The caller's Audit-ID is kept (apiserver `WithAuditInit`).
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    headers.get("audit-id").cloned().unwrap_or_else(|| {
        HeaderValue::try_from(Uuid::new_v4().to_string())
            .unwrap_or(HeaderValue::from_static("unknown"))
    })
}

fn schema(user: &User, path: &str) -> [&'static str; 2] {
    if user.groups.iter().any(|group| group == MASTERS) {
        EXEMPT
    } else if ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|probe| path.starts_with(probe))
    {
        PROBES
    } else {
        GLOBAL_DEFAULT
    }
}

fn code_of(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl Request {
    pub(super) fn output(&self) -> Result<Output, Failure> {
        Output::for_resource(&self.headers, &self.query)
    }

    /// A field manager's name: as given, or from the User-Agent.
    pub(super) fn manager(&self) -> String {
        if let Some(name) = self.query.get("fieldManager") {
            return name.to_owned();
        }
        let agent = self
            .headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        super::managed::from_user_agent(agent).to_owned()
    }

    pub(super) fn dry_run(&self) -> bool {
        self.query.get("dryRun") == Some("All")
    }

    pub(super) fn content_type(&self) -> String {
        let value = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    }
}

/// Reads a whole body, up to kube-apiserver's limit of 3 MiB.
pub(super) async fn read_body(body: Upload) -> Result<bytes::Bytes, Failure> {
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    const LIMIT: usize = 3 << 20;
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {LIMIT}");
            Err(status::Status::failure(413, "RequestEntityTooLarge", message, None).into())
        }
        Err(error) => Err(status::bad_request(format!("the body broke off: {error}"))),
    }
}
