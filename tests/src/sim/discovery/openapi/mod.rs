//! OpenAPI v3 and v2: small but valid documents, served as kube-openapi (pkg/handler3, pkg/handler) serves its own.

mod kinds;
mod paths;
mod schemas;

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use bytes::Bytes;
use http::header;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, macros::format_description};

use super::{Answer, Request, accept, json};
use crate::sim::surface::{Group, Surface, Version};

const JSON: &str = "application/json";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) struct Documents {
    /// By the path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`, and the discovery paths above them.
    v3: BTreeMap<String, Hashed>,
    index: Bytes,
    /// Made only for a client that still asks for it: it is as large as all of v3.
    v2: OnceLock<Hashed>,
    made: OffsetDateTime,
}

struct Hashed {
    body: Bytes,
    hash: String,
}

impl Documents {
    pub(super) fn new(surface: &Surface) -> Documents {
        let mut v3 = BTreeMap::new();
        for group in &surface.groups {
            let root = match group.name.as_str() {
                "" => "api".to_owned(),
                name => format!("apis/{name}"),
            };
            v3.insert(root.clone(), hashed(&v3_of(surface, Document::default())));
            for version in &group.versions {
                let path = format!("{root}/{}", version.name);
                v3.insert(path, hashed(&v3_of(surface, Document::new(group, version))));
            }
        }
        v3.insert(
            "apis".to_owned(),
            hashed(&v3_of(surface, Document::default())),
        );
        let paths: Map<String, Value> = v3
            .iter()
            .map(|(path, document)| {
                (
                    path.clone(),
                    json!({"serverRelativeURL": url(path, &document.hash)}),
                )
            })
            .collect();
        Documents {
            index: json::compact(&json!({"paths": paths})).into(),
            v2: OnceLock::new(),
            v3,
            made: OffsetDateTime::now_utc(),
        }
    }
}

/// `/openapi/v3`: where each group version's document is, and its hash.
pub(super) fn index(request: &Request<'_>) -> Answer {
    let documents = request.surface.documents.openapi(request.surface);
    // The index is written by http.ServeContent of Go without a content type, which takes it for text.
    Answer::new(200, "text/plain; charset=utf-8", documents.index.clone())
        .uncached()
        .with("Accept-Ranges", "bytes")
        .with("Last-Modified", &http_date(documents.made))
}

/// `/openapi/v3/<path>`: with the right `hash` it may be kept for ever, with a wrong one it redirects to the right one.
pub(super) fn v3(request: &Request<'_>, path: &str) -> Answer {
    let documents = request.surface.documents.openapi(request.surface);
    let Some(document) = documents.v3.get(path) else {
        return Answer::page_not_found();
    };
    if accept::is_silent(request.header(header::ACCEPT)) {
        return Answer {
            status: 200,
            headers: Vec::new(),
            body: Bytes::new(),
        }
        .uncached();
    }
    if accept::first_of(request.header(header::ACCEPT), &[JSON]).is_none() {
        return not_acceptable();
    }
    let asked = request.query("hash").filter(|hash| !hash.is_empty());
    if asked.is_some_and(|hash| hash != document.hash) {
        return Answer::new(301, JSON, Bytes::new())
            .uncached()
            .with("Vary", "Accept")
            .with("ETag", &document.etag())
            .with("Location", &url(path, &document.hash));
    }
    let answer = document.answer(request, documents.made);
    if asked.is_some() {
        answer
            .with("Cache-Control", "public, immutable")
            .with("Expires", &http_date(OffsetDateTime::now_utc() + YEAR))
    } else {
        answer.uncached()
    }
}

/// `/openapi/v2`: JSON only. Clients that take nothing but protobuf get 406 and do without.
pub(super) fn v2(request: &Request<'_>) -> Answer {
    let documents = request.surface.documents.openapi(request.surface);
    match accept::first_of(request.header(header::ACCEPT), &[JSON]) {
        Some(_) => documents
            .v2
            .get_or_init(|| hashed(&v2_of(request.surface)))
            .answer(request, documents.made)
            .uncached(),
        None => not_acceptable(),
    }
}

impl Hashed {
    fn etag(&self) -> String {
        format!("\"{}\"", self.hash)
    }

    fn answer(&self, request: &Request<'_>, made: OffsetDateTime) -> Answer {
        let unchanged = request.header(header::IF_NONE_MATCH).is_some_and(|known| {
            known
                .split(',')
                .any(|one| [self.etag().as_str(), "*"].contains(&one.trim()))
        });
        let answer = if unchanged {
            Answer {
                status: 304,
                headers: Vec::new(),
                body: Bytes::new(),
            }
        } else {
            Answer::new(200, JSON, self.body.clone()).with("Accept-Ranges", "bytes")
        };
        answer
            .with("ETag", &self.etag())
            .with("Last-Modified", &http_date(made))
            .with("Vary", "Accept")
    }
}

/// Paths and schemas of one or more group versions, with references as OpenAPI v3 writes them.
#[derive(Default)]
struct Document {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Document {
    fn new(group: &Group, version: &Version) -> Document {
        Document {
            paths: paths::of(group, version),
            schemas: schemas::of(group, version),
        }
    }

    fn extend(&mut self, other: Document) {
        self.paths.extend(other.paths);
        self.schemas.extend(other.schemas);
    }
}

fn v3_of(surface: &Surface, document: Document) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info(surface),
        "paths": document.paths,
        "components": {
            "schemas": document.schemas,
            "securitySchemes": {"BearerToken": bearer_token()},
        },
    })
}

fn v2_of(surface: &Surface) -> Value {
    let mut document = Document::default();
    for group in &surface.groups {
        for version in &group.versions {
            document.extend(Document::new(group, version));
        }
    }
    json!({
        "swagger": "2.0",
        "info": info(surface),
        "paths": paths::as_v2(document.paths),
        "definitions": schemas::as_v2(document.schemas),
        "securityDefinitions": {"BearerToken": bearer_token()},
        "security": [{"BearerToken": []}],
    })
}

fn info(surface: &Surface) -> Value {
    json!({"title": "Kubernetes", "version": format!("v1.{}.0", surface.minor)})
}

fn bearer_token() -> Value {
    json!({
        "type": "apiKey",
        "name": "authorization",
        "in": "header",
        "description": "Bearer token authentication",
    })
}

fn hashed(document: &Value) -> Hashed {
    let body = json::compact(document);
    Hashed {
        hash: json::sha512(&body),
        body: body.into(),
    }
}

fn url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// kube-openapi writes the bare status.
fn not_acceptable() -> Answer {
    Answer {
        status: 406,
        headers: Vec::new(),
        body: Bytes::new(),
    }
    .uncached()
    .with("Vary", "Accept")
}

/// IMF-fixdate of RFC 9110.
fn http_date(at: OffsetDateTime) -> String {
    at.format(format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    ))
    .unwrap_or_default()
}
