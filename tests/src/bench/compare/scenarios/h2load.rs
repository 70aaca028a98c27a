//! nghttp2's h2load, an independent client.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::bench::compare::subjects::SATURATION;
use crate::bench::process::find;
use crate::load::Get;

/// Requests each second of a closed loop like [`SATURATION`]; `None`: there is no h2load.
///
/// # Errors
/// It fails, or a request of it did.
pub(super) fn rate(address: SocketAddr, get: &Get, duration: Duration) -> Result<Option<f64>> {
    let Some(program) = find("h2load") else {
        return Ok(None);
    };
    let mut command = Command::new(program);
    command
        .args(["--threads", "1"])
        .args(["--clients", &SATURATION.connections.to_string()])
        .args(["--max-concurrent-streams", &SATURATION.streams.to_string()])
        // It takes whole seconds.
        .args(["--duration", &duration.as_secs().max(1).to_string()])
        .args(["--tls13-ciphers", "TLS_AES_128_GCM_SHA256"])
        .args(["--connect-to", &address.to_string()]);
    for (name, value) in &get.headers {
        command.args(["--header", &format!("{name}: {}", value.to_str()?)]);
    }
    command.arg(get.uri.to_string());
    let output = command.output().context("h2load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "h2load: {}: {text}", output.status);
    let seen = Seen::of(&text).with_context(|| format!("h2load said {text}"))?;
    ensure!(
        seen.failed == 0 && seen.succeeded > 0,
        "h2load: {} requests failed, {} did not: {text}",
        seen.failed,
        seen.succeeded
    );
    Ok(Some(seen.rate))
}

#[derive(Debug, PartialEq)]
struct Seen {
    rate: f64,
    succeeded: u64,
    failed: u64,
}

impl Seen {
    /// `finished in 2.00s, 1234.50 req/s, 1.4MB/s`, and
    /// `requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout`.
    fn of(text: &str) -> Option<Self> {
        let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
        let finished = line("finished in ")?;
        let rate = finished
            .split(", ")
            .find_map(|part| part.strip_suffix(" req/s"));
        let requests = line("requests: ")?;
        let count = |what: &str| {
            let part = requests.split(", ").find(|part| part.ends_with(what))?;
            part.split(' ').next()?.parse::<u64>().ok()
        };
        Some(Self {
            rate: rate?.parse().ok()?,
            succeeded: count(" succeeded")?,
            failed: count(" failed")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_summary_is_read() {
        let text = "starting benchmark...\n\nfinished in 2.00s, 45678.50 req/s, 55.4MB/s\n\
            requests: 91357 total, 91421 started, 91357 done, 91350 succeeded, 7 failed, 0 errored, 0 timeout\n";
        let expected = Seen {
            rate: 45_678.5,
            succeeded: 91_350,
            failed: 7,
        };
        assert_eq!(Seen::of(text), Some(expected));
        assert_eq!(Seen::of("finished in 2.00s"), None);
    }
}
