//! Subresources that stream: logs, exec and its relatives, and the proxies, which here end in a few endpoints for tests
//! of large bodies.
//!
//! - `exec`, `attach` and `portforward` of a pod with containers: what [`kubelet`] does. Of a pod without: every byte comes back.
//! - `pods/<p>/log?mvpBytes=N`: N bytes, however many (`PATTERN` repeated). Without it: lines; `follow` adds one every
//!   100 ms until the client goes.
//! - `…/proxy/upload`: reads a body of any length, answers `{"bytes":N,"sha256":"…"}`.
//! - `…/proxy/stalled`: reads nothing and never answers.
//! - `…/proxy/echo`: sends every chunk of the body back as it comes.
//! - `…/proxy/trailers`: a short body with the trailers `x-mvp-trailer` and `x-mvp-bytes`.
//! - `…/proxy/breaks`: a first chunk at once; the answer breaks off (RST_STREAM, or a cut connection) when the request's
//!   body has ended.
//! - `…/proxy/missing/page`, `…/proxy/missing/status`: a workload's own 404, as Go's default handler says it and as an API
//!   server that has no such type does. The log of a pod called `missing`, and streams into it: a kubelet's 404.
//! - `…/proxy/headers`: the request's headers as JSON; `…/proxy/status/<code>`: that code.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use super::{
    body,
    handler::{Answer, Request, text},
    kubelet,
    request_info::ResourcePath,
    resource::Target,
    status, upgrade,
};
use crate::sim::{server::Upload, store::Object};

/// A pod that the server knows and its kubelet does not.
const MISSING: &str = "missing";

/// What `mvpBytes` repeats: 64 KiB of letters.
fn pattern() -> Bytes {
    static PATTERN: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    PATTERN
        .get_or_init(|| {
            (0..64 * 1024)
                .map(|at| b'a' + (at % 26) as u8)
                .collect::<Vec<_>>()
                .into()
        })
        .clone()
}

pub(super) fn serves(path: &ResourcePath) -> bool {
    let proxied = matches!(path.resource.as_str(), "pods" | "services" | "nodes")
        && path.subresource == "proxy";
    let pod = path.resource == "pods"
        && matches!(
            path.subresource.as_str(),
            "log" | "exec" | "attach" | "portforward"
        );
    path.group.is_empty() && (pod || proxied)
}

pub(super) async fn answer(mut request: Request, target: Target) -> Answer {
    match target.path.subresource.as_str() {
        "log" => {
            if let Some(bytes) = request.query.number("mvpBytes") {
                return Ok(octets(bytes));
            }
            if target.path.name == MISSING {
                return Err(kubelet_not_found());
            }
            let pod = pod(&request, &target).await?;
            if kubelet::runs(&pod) {
                kubelet::container(&request, &pod)?;
            }
            Ok(log(&request))
        }
        "proxy" if request.headers.contains_key(header::UPGRADE) => upgrade::echo(&mut request),
        "proxy" => proxy(request, &target.path.rest.join("/")).await,
        // The upgrade-aware handler passes a kubelet's answer on as it came.
        _ if target.path.name == MISSING => Err(status::page_not_found()),
        _ => {
            let pod = pod(&request, &target).await?;
            if kubelet::runs(&pod) {
                kubelet::answer(&mut request, &target, &pod)
            } else {
                upgrade::echo(&mut request)
            }
        }
    }
}

/// What `NewGenericServerResponse` (apimachinery `pkg/api/errors`) makes of a kubelet's 404.
fn kubelet_not_found() -> status::Failure {
    let message = "the server could not find the requested resource ( pods/log missing)";
    let details = status::Details {
        name: MISSING.to_owned(),
        kind: "pods/log".to_owned(),
        ..status::Details::default()
    };
    status::Status::failure(404, "NotFound", message, Some(details)).into()
}

/// A line of every container's log.
pub(super) fn line(number: u64) -> String {
    format!("line {number}\n")
}

async fn pod(request: &Request, target: &Target) -> Result<Object, status::Failure> {
    let name = &target.path.name;
    let found = request.app.store.get(&target.key(name)).await;
    found.map_err(|error| status::store(error, &target.path, name))
}

fn octets(total: u64) -> Response<body::Body> {
    let frames = stream::unfold(total, |left| async move {
        let chunk = pattern();
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        (size > 0).then(|| (Ok(Frame::data(chunk.slice(..size))), left - size as u64))
    });
    let mut response = Response::new(body::stream(frames));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn log(request: &Request) -> Response<body::Body> {
    let lines = request.query.number("tailLines").unwrap_or(3);
    let follow = request.query.flag("follow");
    let ending = request.app.ending();
    let frames = stream::unfold((0, ending), move |(line, mut ending)| async move {
        if line >= lines {
            if !follow {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                () = ending.wait() => return None,
            }
        }
        Some((
            Ok(Frame::data(Bytes::from(self::line(line)))),
            (line + 1, ending),
        ))
    });
    let mut response = Response::new(body::stream(frames));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

async fn proxy(mut request: Request, path: &str) -> Answer {
    let mut incoming = request.body.take();
    match path {
        "upload" => {
            let (mut bytes, mut digest) = (0u64, Sha256::new());
            while let Some(frame) = next(&mut incoming).await {
                let frame = frame
                    .map_err(|error| status::bad_request(format!("the body broke off: {error}")))?;
                if let Some(data) = frame.data_ref() {
                    bytes += data.len() as u64;
                    digest.update(data);
                }
            }
            let sha256: String = digest
                .finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            Ok(json(&serde_json::json!({"bytes": bytes, "sha256": sha256})))
        }
        // A backend that accepts a connection and reads nothing of it.
        "stalled" => {
            let _unread = incoming;
            std::future::pending().await
        }
        "echo" => {
            let frames = stream::unfold(incoming, |mut incoming| async move {
                let frame = next(&mut incoming).await?.map_err(std::io::Error::other);
                Some((frame, incoming))
            });
            let mut response = Response::new(body::stream(frames));
            let kind = request.headers.get(header::CONTENT_TYPE).cloned();
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                kind.unwrap_or(HeaderValue::from_static("application/octet-stream")),
            );
            Ok(response)
        }
        "trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-mvp-trailer", HeaderValue::from_static("at the end"));
            trailers.insert("x-mvp-bytes", HeaderValue::from_static("5"));
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"body\n"))),
                Ok(Frame::trailers(trailers)),
            ];
            let mut response = Response::new(body::stream(stream::iter(frames)));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            headers.insert(
                header::TRAILER,
                HeaderValue::from_static("x-mvp-trailer, x-mvp-bytes"),
            );
            Ok(response)
        }
        "breaks" => {
            let first = Ok(Frame::data(Bytes::from_static(b"so far\n")));
            let rest = stream::once(async move {
                while let Some(Ok(_)) = next(&mut incoming).await {}
                Err(std::io::Error::other("as asked"))
            });
            let frames = futures_util::StreamExt::chain(stream::iter([first]), rest);
            Ok(Response::new(body::stream(frames)))
        }
        "missing/page" => Err(status::page_not_found()),
        "missing/status" => Err(status::no_such_resource()),
        "headers" => {
            let pairs: Vec<(String, String)> = request
                .headers
                .iter()
                .map(|(name, value)| {
                    (
                        name.to_string(),
                        String::from_utf8_lossy(value.as_bytes()).into_owned(),
                    )
                })
                .collect();
            Ok(json(&serde_json::json!(pairs)))
        }
        path => match path
            .strip_prefix("status/")
            .and_then(|code| code.parse::<StatusCode>().ok())
        {
            // These have no body (`bodyAllowedForStatus` of `net/http`).
            Some(code @ (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)) => Ok(text(code, "")),
            Some(code) => Ok(text(code, "as asked\n")),
            None => Ok(text(StatusCode::NOT_FOUND, "no such endpoint\n")),
        },
    }
}

async fn next(
    incoming: &mut Option<Upload>,
) -> Option<Result<Frame<Bytes>, Box<dyn std::error::Error + Send + Sync>>> {
    incoming.as_mut()?.frame().await
}

fn json(value: &serde_json::Value) -> Response<body::Body> {
    let mut response = Response::new(body::full(value.to_string()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
