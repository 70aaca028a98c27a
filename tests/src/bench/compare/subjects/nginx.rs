//! nginx: TLS terminated, HTTP/2 towards clients, HTTP/1.1 with connections kept towards servers, since it speaks no HTTP/2 there.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Ground, Started};
use crate::bench::compare::split;
use crate::bench::process::{Process, find};
use crate::ports::free_port;

pub(super) fn start(ground: &Ground<'_>) -> Result<Started> {
    let program = find("nginx").context(
        "nginx is neither on PATH nor in /usr/sbin; `cargo xtask setup --bench` installs it",
    )?;
    let listen = free_port("127.0.0.1")?;
    let file = ground.dir.join("nginx.conf");
    fs::write(&file, config(listen, ground)).with_context(|| format!("file {}", file.display()))?;
    let mut command = Command::new(&program);
    command.arg("-c").arg(&file).arg("-p").arg(ground.dir);
    let mut process = Process::start("nginx", command, ground.dir)?;
    process.wait_listening(listen)?;
    Ok(Started {
        address: listen,
        version: version(&program),
        setup: String::from(
            "HTTP/2 to clients, HTTP/1.1 with keepalive to servers (it speaks no HTTP/2 there), proxy_buffering off, the split by a \
             location with an expression, no log.",
        ),
        processes: vec![process],
        relaying: None,
    })
}

/// `nginx -v` writes to standard error.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("-v").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    text.unwrap_or_default()
}

fn config(listen: SocketAddr, ground: &Ground<'_>) -> String {
    let (dir, pki, threads) = (ground.dir.display(), ground.pki, ground.threads);
    let (local, peer) = (ground.upstream.local, ground.upstream.peer);
    let (certificate, key, ca) = (
        pki.path("apiserver.crt"),
        pki.path("apiserver.key"),
        pki.path("ca.crt"),
    );
    let (certificate, key, ca) = (certificate.display(), key.display(), ca.display());
    let expression = split::expression();
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {dir}/nginx-{name};\n"))
        .concat();
    format!(
        "daemon off;
user root;
worker_processes {threads};
worker_rlimit_nofile 16384;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log warn;
events {{
    worker_connections 8192;
}}
http {{
{folders}    access_log off;
    server_tokens off;
    upstream first {{
        server {local};
        keepalive 256;
        keepalive_requests 100000000;
    }}
    upstream second {{
        server {peer};
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        http2_max_concurrent_streams 250;
        keepalive_requests 100000000;
        keepalive_timeout 600s;
        client_max_body_size 0;
        proxy_http_version 1.1;
        proxy_set_header Connection '';
        proxy_set_header Host $host;
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_read_timeout 600s;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate {ca};
        proxy_ssl_name kubernetes.default.svc;
        proxy_ssl_server_name on;
        location ~ '{expression}' {{
            proxy_pass https://second;
        }}
        location / {{
            proxy_pass https://first;
        }}
    }}
}}
"
    )
}
