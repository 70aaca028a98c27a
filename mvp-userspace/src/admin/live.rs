//! `/stream`: the status once per second, as server-sent events (HTML, §9.2), for pages that follow the agent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use super::answer::{answer, status_view};
use super::{Access, Admin};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Between two events.
const EVERY: Duration = Duration::from_secs(1);
/// Streams of one door: they must not take the connections that others ask by.
pub(super) const STREAMS: usize = 8;
/// When a browser connects again after the end: after a connection's longest time, or the agent's restart.
const RETRY_MS: u64 = 2000;

/// Answers a request: a stream, or a whole answer.
pub(super) async fn answer_or_stream(
    admin: &Arc<Admin>,
    access: &Access,
    streams: &Arc<Semaphore>,
    request: Request<hyper::body::Incoming>,
) -> Response<Body> {
    let streams_status = request.uri().path() == "/stream"
        && request.method() == Method::GET
        && access.refuses(&request).is_none();
    if streams_status {
        return follow(admin, streams);
    }
    answer(admin, access, request)
        .await
        .map(|body| body.boxed_unsync())
}

fn follow(admin: &Arc<Admin>, streams: &Arc<Semaphore>) -> Response<Body> {
    let Ok(place) = Arc::clone(streams).try_acquire_owned() else {
        let text = format!("{STREAMS} pages follow this agent already\n");
        let mut response = Response::new(Full::new(text.into()).boxed_unsync());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return response;
    };
    let mut tick = tokio::time::interval(EVERY);
    // A reader that is slow gets what is true when it reads, and not what it has missed.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let admin = Arc::clone(admin);
    let events = stream::unfold(
        (admin, tick, place),
        |(admin, mut tick, place)| async move {
            tick.tick().await;
            let frame = Ok(Frame::data(event(&admin)));
            Some((frame, (admin, tick, place)))
        },
    );
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// JSON has no line breaks of its own: those of texts are escaped in it.
fn event(admin: &Admin) -> Bytes {
    match serde_json::to_string(&status_view(admin)) {
        Ok(status) => format!("retry: {RETRY_MS}\nevent: status\ndata: {status}\n\n").into(),
        Err(error) => format!(": {error}\n\n").into(),
    }
}
