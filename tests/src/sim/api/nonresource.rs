//! Paths that are no resources: version, probes, metrics, and discovery by way of `sim::discovery`.

use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;

use super::{
    body,
    handler::{Answer, Request, text},
    query::Query,
    status,
};
use crate::sim::{discovery, negotiation, server::App};

pub(super) fn answer(request: Request) -> Answer {
    let app = &request.app;
    let path = request.info.path.as_str();
    let surface = app.surface.load();
    let address = app.address.to_string();
    let method = request.method.as_str();
    if matches!(path, "/api" | "/apis")
        && let Some(document) = app.faults.false_discovery()
    {
        let mut response = Response::new(body::full(document));
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(aggregated));
        return Ok(response);
    }
    if let Some(found) = discovery::answer(
        &surface,
        &address,
        method,
        path,
        &request.raw_query,
        &app.discovery.limit(&request.headers),
    ) {
        return Ok(from_discovery(found));
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(status::page_not_found());
    }
    match path {
        "/version" | "/version/" => {
            let accept = request.headers.get(header::ACCEPT);
            let accept = accept
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            match negotiation::routed(accept.trim(), &["application/json"]) {
                true => Ok(version(app)),
                false => Err(status::not_acceptable()),
            }
        }
        "/healthz" | "/livez" | "/readyz" => Ok(probe(app, path, &request.query)),
        "/metrics" => Ok(metrics(app)),
        "/" => {
            let paths = [
                "/api",
                "/apis",
                "/healthz",
                "/livez",
                "/metrics",
                "/openapi/v3",
                "/readyz",
                "/version",
            ];
            Ok(json_text(&json!({"paths": paths})))
        }
        _ => {
            let known = ["/healthz/", "/livez/", "/readyz/"]
                .iter()
                .find_map(|probe| path.strip_prefix(probe));
            match known {
                Some(check) if CHECKS.contains(&check) => Ok(text(StatusCode::OK, "ok")),
                _ => Err(status::page_not_found()),
            }
        }
    }
}

const CHECKS: [&str; 6] = [
    "ping",
    "log",
    "etcd",
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/crd-informer-synced",
    "poststarthook/apiservice-registration-controller",
];

fn from_discovery(found: discovery::Answer) -> Response<body::Body> {
    let mut response = Response::new(body::full(found.body));
    *response.status_mut() =
        StatusCode::from_u16(found.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in found.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// `version.Info`, indented for every client.
fn version(app: &App) -> Response<body::Body> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Info<'a> {
        major: &'a str,
        minor: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        emulation_major: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        emulation_minor: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        min_compatibility_major: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        min_compatibility_minor: Option<String>,
        git_version: String,
        git_commit: &'a str,
        git_tree_state: &'a str,
        build_date: &'a str,
        go_version: &'a str,
        compiler: &'a str,
        platform: &'a str,
    }
    // Compatibility versions are reported since 1.33.
    let compatible = app.minor >= 33;
    json_text(&Info {
        major: "1",
        minor: app.minor.to_string(),
        emulation_major: compatible.then_some("1"),
        emulation_minor: compatible.then(|| app.minor.to_string()),
        min_compatibility_major: compatible.then_some("1"),
        min_compatibility_minor: compatible.then(|| (app.minor - 1).to_string()),
        git_version: app.git_version(),
        git_commit: "2df3632e823a813f64218dfc6f5c2e70d28ecdf0",
        git_tree_state: "clean",
        build_date: "2026-11-24T00:00:00Z",
        go_version: "go1.26.6",
        compiler: "gc",
        platform: "linux/amd64",
    })
}

/// healthz.handleRootHealth: "ok" or the list of checks; the list with 500 when one fails.
fn probe(app: &App, path: &str, query: &Query) -> Response<body::Body> {
    let name = path.trim_start_matches('/');
    let failing = name == "readyz" && (app.faults.is_not_ready() || app.faults.is_warming_up());
    let shutting_down = name == "readyz" && app.is_shutting_down();
    if !failing && !shutting_down && query.get("verbose").is_none() {
        return text(StatusCode::OK, "ok");
    }
    let mut lines = String::new();
    for check in CHECKS {
        let bad = failing && check.ends_with("crd-informer-synced");
        lines += &if bad {
            format!("[-]{check} failed: reason withheld\n")
        } else {
            format!("[+]{check} ok\n")
        };
    }
    if name == "readyz" {
        lines += if shutting_down {
            "[-]shutdown failed: reason withheld\n"
        } else {
            "[+]shutdown ok\n"
        };
    }
    if failing || shutting_down {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{lines}{name} check failed\n"),
        );
    }
    text(StatusCode::OK, format!("{lines}{name} check passed\n"))
}

fn metrics(app: &App) -> Response<body::Body> {
    let lines = format!(
        "# HELP kubernetes_build_info [BETA] A metric with a constant '1' value labeled by major, minor, git version.\n\
         # TYPE kubernetes_build_info gauge\n\
         kubernetes_build_info{{git_version=\"{}\",major=\"1\",minor=\"{}\"}} 1\n\
         # HELP apiserver_current_inflight_requests [STABLE] Currently used inflight requests.\n\
         # TYPE apiserver_current_inflight_requests gauge\n\
         apiserver_current_inflight_requests {}\n",
        app.git_version(),
        app.minor,
        app.streams(),
    );
    let mut response = Response::new(body::full(lines));
    let kind =
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json_text(value: &impl serde::Serialize) -> Response<body::Body> {
    let mut response = Response::new(body::full(
        serde_json::to_vec_pretty(value).unwrap_or_default(),
    ));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
