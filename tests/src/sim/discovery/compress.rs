//! Compressed bodies, as kube-apiserver's two kinds of handlers make them.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, header};

use super::{Answer, Request};

/// `defaultGzipThresholdBytes`: a body must be larger.
const THRESHOLD: usize = 128 * 1024;
/// gziphandler.DefaultMinSize: a body must be at least so large.
const OPENAPI_MINIMUM: usize = 1400;

/// As k8s.io/apiserver pkg/endpoints/handlers/responsewriters/writers.go does: large bodies, at the lowest level, for
/// clients that name gzip without any parameter. `None`: the body is sent as it is.
pub(in crate::sim) fn object(headers: &HeaderMap, body: &[u8]) -> Option<Bytes> {
    let accept = headers.get(header::ACCEPT_ENCODING)?.to_str().ok()?;
    let accepted = accept.split(',').any(|one| one.trim() == "gzip");
    if !accepted || body.len() <= THRESHOLD {
        return None;
    }
    gzip(body)
}

/// The same for a discovery document.
pub(super) fn discovery(answer: Answer, request: &Request<'_>) -> Answer {
    match object(request.headers, &answer.body) {
        Some(body) if answer.status == 200 => Answer { body, ..answer }
            .with("Content-Encoding", "gzip")
            .with("Vary", "Accept-Encoding"),
        _ => answer,
    }
}

/// As gziphandler does, which kube-openapi pkg/handler wraps OpenAPI v2 in. Documents of v3 are never compressed.
pub(super) fn openapi_v2(answer: Answer, request: &Request<'_>) -> Answer {
    let accepted = request
        .header(header::ACCEPT_ENCODING)
        .is_some_and(|accept| accept.split(',').any(wants_gzip));
    let answer = answer.with("Vary", "Accept-Encoding");
    if answer.status != 200 || !accepted || answer.body.len() < OPENAPI_MINIMUM {
        return answer;
    }
    match gzip(&answer.body) {
        Some(body) => Answer { body, ..answer }.with("Content-Encoding", "gzip"),
        None => answer,
    }
}

fn wants_gzip(coding: &str) -> bool {
    let mut parts = coding.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality: f64 = parts
        .find_map(|part| part.strip_prefix("q="))
        .map_or(1.0, |q| q.parse().unwrap_or(0.0));
    name.eq_ignore_ascii_case("gzip") && quality > 0.0
}

/// Writing into memory does not fail.
fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).ok()?;
    Some(encoder.finish().ok()?.into())
}
