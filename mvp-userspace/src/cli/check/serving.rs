//! When the certificates expire that the servers show. They need not be those in the files of any node.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;

use crate::admin::ServerView;
use crate::config::Endpoint;
use crate::net::DialFrom;
use crate::tls::probe;

/// The time for TCP and TLS with one server.
const TIME: Duration = Duration::from_secs(5);

/// For each server, in how many seconds its certificate expires; negative if it has expired.
pub(super) fn ends(servers: &[ServerView]) -> Vec<(String, Result<i64, String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let why = |server: &ServerView| (server.name.clone(), Err(error.to_string()));
            return servers.iter().map(why).collect();
        }
    };
    runtime.block_on(async {
        let mut asked = Vec::new();
        for server in servers {
            let task = tokio::spawn(end(server.url.clone()));
            asked.push((server.name.clone(), task));
        }
        let mut ends = Vec::new();
        for (name, task) in asked {
            let end = task.await.unwrap_or_else(|error| Err(error.to_string()));
            ends.push((name, end));
        }
        ends
    })
}

async fn end(url: String) -> Result<i64, String> {
    let endpoint = endpoint(&url).ok_or_else(|| format!("{url} is no https URL"))?;
    // Whether it verifies is for the agents' proofs to say; here only its dates are read.
    let roots = Arc::new(RootCertStore::empty());
    let seen = probe(&endpoint, None, roots, &DialFrom::anywhere(), TIME).await;
    let not_after = seen.map_err(|error| error.to_string())?.not_after;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    Ok(not_after.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX)))
}

fn endpoint(url: &str) -> Option<Endpoint> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some(Endpoint {
        name: url.to_owned(),
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(443),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_server_is() {
        for (url, host, port) in [
            ("https://10.0.0.1:6443", "10.0.0.1", 6443),
            ("https://[fd00::1]:6443", "fd00::1", 6443),
            ("https://cp-a.example", "cp-a.example", 443),
        ] {
            let endpoint = endpoint(url).unwrap();
            assert_eq!(
                (endpoint.host.as_str(), endpoint.port),
                (host, port),
                "{url}"
            );
        }
        assert!(endpoint("").is_none());
    }
}
