//! Discovery and OpenAPI of a simulated kube-apiserver: pure answers to requests, from documents that are made once a
//! surface.

mod accept;
mod aggregated;
pub(super) mod compress;
mod json;
mod legacy;
mod openapi;
pub mod protobuf;

use std::{fmt, sync::OnceLock};

use bytes::Bytes;
use http::{HeaderMap, header};

use self::accept::{Choice, Document, Media, Place};
use super::surface::Surface;

/// One answer, without the headers that every answer of a server has.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// By name in lower case.
    pub headers: Vec<(String, String)>,
    /// Encoded, and not compressed yet.
    pub body: Bytes,
}

/// The newest form of discovery that a server knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Newest {
    /// What the server's minor has.
    #[default]
    V2,
    /// As Kubernetes 1.27 to 1.29. The simulated minor must be one that still has v2beta1: at most 32.
    V2beta1,
    /// As Kubernetes before 1.26.
    Legacy,
}

impl Newest {
    /// Headers in which `Accept` asks for no newer form: what a server does not know it does not offer.
    pub fn limit(self, headers: &HeaderMap) -> HeaderMap {
        let mut headers = headers.clone();
        let unknown: &[&str] = match self {
            Newest::V2 => return headers,
            Newest::V2beta1 => &["v=v2"],
            Newest::Legacy => &["v=v2", "v=v2beta1"],
        };
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
        let limited = accept.unwrap_or_default().split(',').map(|clause| {
            let words = clause
                .split(';')
                .map(|word| match unknown.contains(&word.trim()) {
                    true => "v=unknown",
                    false => word,
                });
            words.collect::<Vec<_>>().join(";")
        });
        let limited = limited.collect::<Vec<_>>().join(",");
        if let Ok(limited) = limited.parse() {
            headers.insert(header::ACCEPT, limited);
        }
        headers
    }
}

/// Answers requests to `/api`, `/apis`, groups and versions below them, `/openapi/v2` and `/openapi/v3`. `None`: the
/// path is none of these.
///
/// `server_address` is the host and port that legacy `/api` names. HEAD is answered like GET without a body.
pub fn answer(
    surface: &Surface,
    server_address: &str,
    method: &str,
    path: &str,
    query: &str,
    headers: &HeaderMap,
) -> Option<Answer> {
    let request = Request {
        surface,
        server_address,
        query,
        headers,
    };
    // Only the exact paths have aggregated documents; legacy handlers also take a slash at the end.
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = trimmed.strip_prefix('/')?.split('/').collect();
    let answer = match segments[..] {
        ["api"] | ["apis"] => {
            let answer = root(&request, segments[0], path == trimmed);
            compress::discovery(answer, &request)
        }
        ["api", _] | ["apis", _] | ["apis", _, _] => {
            compress::discovery(below(&request, &trimmed[1..]), &request)
        }
        ["openapi", "v2"] => compress::openapi_v2(openapi::v2(&request), &request),
        ["openapi", "v3"] => openapi::index(&request),
        ["openapi", "v3", ..] => openapi::v3(&request, &trimmed["/openapi/v3/".len()..]),
        _ => return None,
    };
    Some(match method {
        "GET" => answer,
        // With the length of what GET would give, as `http.ServeContent` has it.
        "HEAD" => {
            let length = answer.body.len().to_string();
            let head = Answer {
                body: Bytes::new(),
                ..answer
            };
            head.with("Content-Length", &length)
        }
        _ if answer.status == 404 => answer,
        // go-restful, which serves these paths.
        _ => Answer::new(405, "text/plain; charset=utf-8", "405: Method Not Allowed")
            .with("Allow", "GET"),
    })
}

/// The documents of one surface, each kind made when the first of its kind is asked for.
#[derive(Default)]
pub struct Documents {
    aggregated: OnceLock<aggregated::Documents>,
    legacy: OnceLock<legacy::Documents>,
    openapi: OnceLock<openapi::Documents>,
}

impl Documents {
    fn aggregated(&self, surface: &Surface) -> &aggregated::Documents {
        self.aggregated
            .get_or_init(|| aggregated::Documents::new(surface))
    }

    fn legacy(&self, surface: &Surface) -> &legacy::Documents {
        self.legacy.get_or_init(|| legacy::Documents::new(surface))
    }

    fn openapi(&self, surface: &Surface) -> &openapi::Documents {
        self.openapi
            .get_or_init(|| openapi::Documents::new(surface))
    }
}

/// A clone is empty, so that whoever changes a cloned surface gets the documents of the changed one.
impl Clone for Documents {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Documents follow from the rest of a surface.
impl PartialEq for Documents {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Documents")
    }
}

struct Request<'a> {
    surface: &'a Surface,
    server_address: &'a str,
    query: &'a str,
    headers: &'a HeaderMap,
}

impl Request<'_> {
    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1)
    }

    /// `isPrettyPrint` of k8s.io/apiserver pkg/endpoints/handlers/negotiation: the query decides, else the client's name.
    fn wants_pretty(&self) -> bool {
        match self.query("pretty").filter(|value| !value.is_empty()) {
            Some(value) => matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
            None => {
                let agent = self.header(header::USER_AGENT).unwrap_or_default();
                ["curl", "Wget", "Mozilla/5.0"]
                    .iter()
                    .any(|human| agent.starts_with(human))
            }
        }
    }

    fn negotiate(&self, aggregated: bool, routed: bool) -> Option<Choice> {
        let place = Place {
            aggregated,
            routed,
            // AggregatedDiscoveryRemoveBetaType is on from 1.33.
            beta: self.surface.minor <= 32,
        };
        accept::negotiate(self.header(header::ACCEPT), place)
    }
}

impl Answer {
    fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
        .with("Content-Type", content_type)
    }

    fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn uncached(self) -> Answer {
        self.with("Cache-Control", "no-cache, private")
    }

    /// `http.NotFound` of Go, which a path without a handler ends in.
    fn page_not_found() -> Answer {
        Answer::new(404, "text/plain; charset=utf-8", "404 page not found\n")
            .uncached()
            .with("X-Content-Type-Options", "nosniff")
    }

    fn not_acceptable(request: &Request<'_>) -> Answer {
        let text = legacy::not_acceptable(
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        );
        Answer::new(406, "application/json", text.of(Media::Json, request)).uncached()
    }
}

/// A document in every form it is served in.
struct Text {
    compact: Bytes,
    pretty: Bytes,
    protobuf: Bytes,
}

impl Text {
    /// `protobuf` is the whole body in that encoding.
    fn new(value: &impl serde::Serialize, protobuf: Vec<u8>) -> Text {
        let mut compact = json::compact(value);
        compact.push(b'\n');
        Text {
            compact: compact.into(),
            pretty: json::pretty(value).into(),
            protobuf: protobuf.into(),
        }
    }

    fn of(&self, media: Media, request: &Request<'_>) -> Bytes {
        match media {
            Media::Json if request.wants_pretty() => self.pretty.clone(),
            Media::Json => self.compact.clone(),
            Media::Yaml => json::to_yaml(&self.compact).into(),
            Media::Protobuf => self.protobuf.clone(),
        }
    }
}

fn root(request: &Request<'_>, root: &str, exact: bool) -> Answer {
    let Some(choice) = request.negotiate(exact, root == "api") else {
        return Answer::not_acceptable(request);
    };
    let surface = request.surface;
    match choice.document {
        Document::Legacy => {
            let text = match root {
                "api" => &legacy::api_versions(request.server_address),
                _ => surface.documents.legacy(surface).groups(),
            };
            legacy_answer(text, choice.media, request)
        }
        document => {
            surface
                .documents
                .aggregated(surface)
                .answer(root, document, choice.media, request)
        }
    }
}

/// A group or a version: legacy discovery only.
fn below(request: &Request<'_>, path: &str) -> Answer {
    let surface = request.surface;
    let Some(text) = surface.documents.legacy(surface).get(path) else {
        return Answer::page_not_found();
    };
    // The aggregator serves the groups itself.
    let routed = path.starts_with("api/") || path.split('/').count() == 3;
    match request.negotiate(false, routed) {
        Some(choice) => legacy_answer(text, choice.media, request),
        None => Answer::not_acceptable(request),
    }
}

fn legacy_answer(text: &Text, media: Media, request: &Request<'_>) -> Answer {
    Answer::new(200, media.name(), text.of(media, request)).uncached()
}
