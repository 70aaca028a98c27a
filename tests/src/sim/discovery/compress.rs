//! Compressed bodies, as kube-apiserver's two kinds of handlers make them.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use http::header;

use super::{Answer, Request};

/// `defaultGzipThresholdBytes`: a body must be larger.
const THRESHOLD: usize = 128 * 1024;
/// gziphandler.DefaultMinSize: a body must be at least so large.
const OPENAPI_MINIMUM: usize = 1400;

/// As k8s.io/apiserver pkg/endpoints/handlers/responsewriters/writers.go does: large bodies, at the lowest level, for
/// clients that name gzip without any parameter.
pub(super) fn discovery(answer: Answer, request: &Request<'_>) -> Answer {
    let accepted = request
        .header(header::ACCEPT_ENCODING)
        .is_some_and(|accept| accept.split(',').any(|one| one.trim() == "gzip"));
    if answer.status != 200 || !accepted || answer.body.len() <= THRESHOLD {
        return answer;
    }
    compressed(answer).with("Vary", "Accept-Encoding")
}

/// As gziphandler does, which kube-openapi pkg/handler wraps OpenAPI v2 in. Documents of v3 are never compressed.
pub(super) fn openapi_v2(answer: Answer, request: &Request<'_>) -> Answer {
    let accepted = request
        .header(header::ACCEPT_ENCODING)
        .is_some_and(|accept| accept.split(',').any(wants_gzip));
    let answer = answer.with("Vary", "Accept-Encoding");
    if answer.status == 200 && accepted && answer.body.len() >= OPENAPI_MINIMUM {
        compressed(answer)
    } else {
        answer
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

fn compressed(answer: Answer) -> Answer {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    match encoder
        .write_all(&answer.body)
        .and_then(|()| encoder.finish())
    {
        Ok(body) => Answer {
            body: body.into(),
            ..answer
        }
        .with("Content-Encoding", "gzip"),
        // Writing into memory does not fail.
        Err(_) => answer,
    }
}
