//! Which server is the newest.

use super::server_status::ServerStatus;
use crate::api::GitVersion;

/// The server with the newest version; the first of several (the local one comes first). `None` while no version is known.
pub fn newest(servers: &[ServerStatus]) -> Option<&ServerStatus> {
    let mut best: Option<(GitVersion, &ServerStatus)> = None;
    for server in servers {
        let Some(version) = server.version.as_deref().and_then(GitVersion::parse) else {
            continue;
        };
        if best.as_ref().is_none_or(|(newest, _)| version > *newest) {
            best = Some((version, server));
        }
    }
    best.map(|(_, server)| server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing::status;

    fn server(name: &str, version: Option<&str>) -> ServerStatus {
        ServerStatus {
            version: version.map(str::to_owned),
            ..status(name)
        }
    }

    #[test]
    fn the_newest_server() {
        let name = |servers: &[ServerStatus]| newest(servers).map(|s| s.name.clone());
        let servers = [
            server("a", Some("v1.9.0")),
            server("b", None),
            server("c", Some("v1.10.0")),
            server("d", Some("v1.10.0")),
            server("e", Some("nonsense")),
        ];
        assert_eq!(name(&servers).as_deref(), Some("c"));
        assert_eq!(name(&servers[1..2]), None);
        assert_eq!(name(&[]), None);
    }
}
