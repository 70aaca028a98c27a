//! HAProxy as the other terminating proxy: HTTP/2 over TLS 1.3 on both sides, connections reused, nothing else switched on.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::process::{Process, find};
use crate::ports::free_port;
use crate::sim::pki::Pki;

/// Whether there is a HAProxy to compare with, and what to do if not.
pub fn available() -> Result<()> {
    if find("haproxy").is_none() {
        bail!("haproxy is neither on PATH nor in /usr/sbin; `cargo xtask setup` installs it");
    }
    Ok(())
}

/// `haproxy -v`'s first line.
pub fn version() -> Option<String> {
    let output = Command::new(find("haproxy")?).arg("-v").output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .map(str::to_owned)
}

/// Starts HAProxy in front of `server` with its files in `dir`. Returns its address once it listens.
pub fn start(
    pki: &Pki,
    server: SocketAddr,
    threads: usize,
    dir: &Path,
) -> Result<(Process, SocketAddr)> {
    available()?;
    let listen = free_port("127.0.0.1")?;
    let file = write_config(pki, listen, server, threads, dir)?;
    let mut command = Command::new(find("haproxy").context("haproxy was there a moment ago")?);
    command.arg("-db").arg("-f").arg(file);
    let mut process = Process::start("haproxy", command, dir)?;
    process.wait_listening(listen)?;
    Ok((process, listen))
}

/// Starts HAProxy in front of `server` without TLS of its own: it forwards whole connections, as the agent does when it relays.
pub fn start_tcp(server: SocketAddr, threads: usize, dir: &Path) -> Result<(Process, SocketAddr)> {
    available()?;
    let listen = free_port("127.0.0.1")?;
    let file = dir.join("haproxy-tcp.cfg");
    fs::write(&file, tcp_config(listen, server, threads))?;
    let mut command = Command::new(find("haproxy").context("haproxy was there a moment ago")?);
    command.arg("-db").arg("-f").arg(file);
    let mut process = Process::start("haproxy-tcp", command, dir)?;
    process.wait_listening(listen)?;
    Ok((process, listen))
}

/// Writes `dir/haproxy.cfg` and the certificate that it names.
pub fn write_config(
    pki: &Pki,
    listen: SocketAddr,
    server: SocketAddr,
    threads: usize,
    dir: &Path,
) -> Result<std::path::PathBuf> {
    let pem = dir.join("haproxy.pem");
    fs::write(
        &pem,
        pki.read("apiserver.crt")? + &pki.read("apiserver.key")?,
    )?;
    let file = dir.join("haproxy.cfg");
    fs::write(
        &file,
        config(&pem, &pki.path("ca.crt"), listen, server, threads),
    )?;
    Ok(file)
}

/// The certificate of the upstream is verified, as the agent does; no log, no header added, no health check.
fn config(pem: &Path, ca: &Path, listen: SocketAddr, server: SocketAddr, threads: usize) -> String {
    let (pem, ca) = (pem.display(), ca.display());
    format!(
        "global
    maxconn 4096
    nbthread {threads}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256

defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s

frontend clients
    bind {listen} ssl crt {pem} alpn h2
    default_backend servers

backend servers
    http-reuse always
    server peer {server} ssl verify required ca-file {ca} verifyhost kubernetes.default.svc sni str(kubernetes.default.svc) alpn h2
"
    )
}

/// `splice-auto` moves the bytes by splice(2) where HAProxy finds that it pays.
fn tcp_config(listen: SocketAddr, server: SocketAddr, threads: usize) -> String {
    format!(
        "global
    maxconn 4096
    nbthread {threads}

defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 60s
    timeout server 60s

frontend clients
    bind {listen}
    default_backend servers

backend servers
    server peer {server}
"
    )
}
