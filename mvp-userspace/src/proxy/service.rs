//! One request through the corridor: identity -> request -> route -> forward -> respond.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{Request, Response};
use rustls_pki_types::UnixTime;

use super::body::Upload;
use super::connection::Connection;
use super::error::ProxyError;
use super::exchange::Exchange;
use super::head_checks::check_head;
use super::header_limits::{exceeded_limit, header_bytes};
use super::headers::{ensure_audit_id, upgrade_protocol};
use super::outgoing::Outgoing;
use super::response::Download;
use super::whole_user::server_without_uids;
use super::wire_body::WireBody;
use crate::identity::{self, Head};
use crate::net::OpenCount;
use crate::request::RequestInfo;

/// Answers one request. Every failure becomes a Status; nothing panics on what a client sends.
pub(super) async fn handle(
    connection: Arc<Connection>,
    mut request: Request<WireBody>,
) -> Response<Download> {
    let started = Instant::now();
    let shared = &connection.thread.shared;
    connection.asked.notify_one();
    connection.place.asked();
    let _open = OpenCount::new(&shared.load.requests);
    let upgrade = upgrade_protocol(request.version(), request.headers());
    let on_upgrade = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let trust = shared.trust.load();
    let upload = Upload::new(incoming, &trust);
    // A counted reference: what is parsed borrows from it while the head is being changed.
    let uri = parts.uri.clone();
    // The size of what the client sent, before anything is added.
    let header_bytes = header_bytes(&parts);
    let budget = exceeded_limit(&parts, header_bytes, &shared.limits).map_or_else(
        || shared.header_budget.take(&connection.headers, header_bytes),
        Err,
    );
    // First of all, since answers of the agent itself have it as well.
    ensure_audit_id(&mut parts.headers);
    let mut exchange = Exchange::begin(&connection, &parts, &upload, started);

    let answer = async {
        check_head(&connection, &parts, budget.as_ref().err().copied())?;
        let certificate = connection
            .certificates
            .as_ref()
            .map(|certificates| certificates.identity(&trust, now()));
        let head = Head {
            headers: &mut parts.headers,
            certificate: certificate.as_deref(),
            forwarded_for: &connection.forwarded_for,
            hasher: &shared.hasher,
        };
        let admitted = identity::admit(head, &trust, || server_without_uids(&shared.table.load()))?;
        exchange.enter(&admitted, upgrade.is_some())?;
        let info = RequestInfo::parse(&parts.method, uri.path(), uri.query())?;
        let outgoing = Outgoing {
            method: &parts.method,
            uri: &parts.uri,
            admitted: &admitted,
            upload: &upload,
            client: connection.peer.ip(),
            rides: &connection.rides,
            upgrade: upgrade.as_ref(),
            validators: None,
            preferred: None,
        };
        let answer = exchange.ask(&info, &outgoing).await?;
        Ok::<_, ProxyError>((answer, info))
    }
    .await;
    match answer {
        Ok::<_, ProxyError>((answer, info)) => {
            let may_take_long = info.is_long_running();
            let mut response = exchange.respond(answer, &info, &parts.headers, on_upgrade);
            if !may_take_long {
                response.body_mut().begin().await;
            }
            response
        }
        Err(error) => exchange.refuse(&error, &parts),
    }
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or(Duration::ZERO))
}
