//! Who may do what: over the network one can only read, over the Unix socket one can do everything.

use std::net::IpAddr;

use http::header::HOST;
use http::{Request, StatusCode};

/// The way by which a request came.
#[derive(Clone, Debug)]
pub enum Access {
    /// `admin.listen`: reads only, and asks by one of these names only.
    Reader(Hosts),
    /// `admin.socket`: root of this node.
    Operator,
}

/// The names by which `admin.listen` may be called. A name that somebody else chose must not lead here: a web page whose name
/// its owner points at this node (DNS rebinding) could otherwise read what the agent shows. Addresses cannot be pointed elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Vec<String>);

/// What is on the socket only, though it is a GET: it speaks to servers with the agent's own identity.
pub(super) const SERVERS: &str = "/mvp/servers/";

/// The same: it sends requests, through the agent itself and to every server.
pub(super) const CANARY: &str = "/mvp/canary";

/// Whatever changes something.
pub(super) const CHANGES: [&str; 6] =
    ["/drain", "/arm", "/disarm", "/auto", "/retire", "/loglevel"];

impl Hosts {
    /// The names that are allowed besides addresses and `localhost`.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| normal(&name));
        Self(names.collect())
    }

    /// `host`: name or address with or without a port, as in a `Host` field.
    pub fn allows(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else {
            return false;
        };
        let name = normal(name);
        name.parse::<IpAddr>().is_ok() || name == "localhost" || self.0.contains(&name)
    }
}

impl Access {
    /// Why this request is not answered by this door, if it is not.
    pub(super) fn refuses<B>(&self, request: &Request<B>) -> Option<(StatusCode, String)> {
        let Self::Reader(hosts) = self else {
            return None;
        };
        let mut named = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else {
            let problem = "exactly one Host field is needed\n";
            return Some((StatusCode::BAD_REQUEST, problem.to_owned()));
        };
        let in_target = request.uri().authority();
        let allowed = host.to_str().is_ok_and(|host| hosts.allows(host))
            && in_target.is_none_or(|authority| hosts.allows(authority.as_str()));
        if !allowed {
            let problem =
                "this is not a name of the agent: use an address, or name it in admin.hosts\n";
            return Some((StatusCode::MISDIRECTED_REQUEST, problem.to_owned()));
        }
        let path = request.uri().path();
        if CHANGES.contains(&path) || path == CANARY || path.starts_with(SERVERS) {
            let problem = format!(
                "{path} is on the agent's Unix socket only (admin.socket); the mvp command finds it\n"
            );
            return Some((StatusCode::FORBIDDEN, problem));
        }
        None
    }
}

/// `None` if there is no name.
fn without_port(host: &str) -> Option<&str> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    (!name.is_empty()).then_some(name)
}

fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_names_of_the_agent_are_hosts() {
        let hosts = Hosts::new(["cp-a".to_owned(), "Metrics.Example".to_owned()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9440",
            "10.0.0.1:9440",
            "[::1]:9440",
            "[fe80::1]",
            "localhost",
            "LOCALHOST:9440",
            "localhost.",
            "cp-a:9440",
            "metrics.example",
        ] {
            assert!(hosts.allows(host), "{host}");
        }
        for host in [
            "",
            ":9440",
            "[",
            "[]",
            "evil.example",
            "evil.example:9440",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "cp-a.evil.example",
            "cp-b",
            "127.0.0.1@evil.example",
        ] {
            assert!(!hosts.allows(host), "{host}");
        }
    }
}
