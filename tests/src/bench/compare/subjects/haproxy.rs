//! HAProxy in HTTP mode: TLS terminated, HTTP/2 on both sides, the split by an expression for paths.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Ground, Started};
use crate::bench::compare::split;
use crate::bench::haproxy;
use crate::bench::process::{Process, find};
use crate::ports::free_port;

pub(super) fn start(ground: &Ground<'_>) -> Result<Started> {
    haproxy::available()?;
    let listen = free_port("127.0.0.1")?;
    let pem = ground.dir.join("haproxy-split.pem");
    let pki = ground.pki;
    let both = pki.read("apiserver.crt")? + &pki.read("apiserver.key")?;
    fs::write(&pem, both).with_context(|| format!("file {}", pem.display()))?;
    let file = ground.dir.join("haproxy-split.cfg");
    fs::write(&file, config(&pem, &pki.path("ca.crt"), listen, ground))
        .with_context(|| format!("file {}", file.display()))?;
    let mut command = Command::new(find("haproxy").context("haproxy was there a moment ago")?);
    command.arg("-db").arg("-f").arg(&file);
    let mut process = Process::start("haproxy-split", command, ground.dir)?;
    process.wait_listening(listen)?;
    Ok(Started {
        address: listen,
        version: haproxy::version().unwrap_or_default(),
        setup: String::from(
            "mode http, HTTP/2 on both sides, http-reuse always, the split by path_reg, no log, no header added.",
        ),
        processes: vec![process],
        relaying: None,
    })
}

fn config(pem: &Path, ca: &Path, listen: SocketAddr, ground: &Ground<'_>) -> String {
    let (pem, ca, threads) = (pem.display(), ca.display(), ground.threads);
    let (local, peer) = (ground.upstream.local, ground.upstream.peer);
    let server = format!(
        "ssl verify required ca-file {ca} verifyhost kubernetes.default.svc sni str(kubernetes.default.svc) alpn h2"
    );
    // Within single quotes nothing is an escape.
    let expression = split::expression();
    format!(
        "global
    maxconn 4096
    nbthread {threads}
    tune.h2.max-concurrent-streams 250
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256

defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s

frontend clients
    bind {listen} ssl crt {pem} alpn h2
    acl of_second path_reg '{expression}'
    use_backend second if of_second
    default_backend first

backend first
    http-reuse always
    server first {local} {server}

backend second
    http-reuse always
    server second {peer} {server}
"
    )
}
