//! What the guard sees: from what discovery knows, the identity Leases, and the local static-pod manifest.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::Signs;
use crate::discovery::{PollTrouble, ServerStatus};
use crate::route::{Knowledge, RouteTable};

/// The signs that stand by what is known of the servers. Pure.
pub(super) fn standing(table: &RouteTable, servers: &[ServerStatus]) -> Signs {
    let mut versions = servers
        .iter()
        .filter_map(|server| server.version.as_deref());
    let first = versions.next();
    let unavailable = table.members().iter().any(|member| member.server.is_down());
    // That a server has just started, if it has, is a sign of its own: its Lease, its connections and its readiness show it.
    let refuses =
        |trouble: &PollTrouble| matches!(trouble, PollTrouble::Refused(_) | PollTrouble::Starting);
    let broken = servers.iter().any(|server| {
        let failed = server.knowledge != Knowledge::Confirmed || server.last_error.is_some();
        failed && !refuses(&server.trouble)
    });
    // What a server serves that refuses the agent from the start is not known, and no sign of anything.
    let refusing = |name: &str| {
        let mut servers = servers.iter().filter(|server| server.name == name);
        servers.any(|server| refuses(&server.trouble))
    };
    let mut members = table.members().iter();
    let unasked = members.len() > 1
        && members.any(|member| member.is_unknown() && !refusing(&member.server.name));
    Signs {
        sets_differ: table.known_differ() || unasked,
        versions_differ: versions.any(|version| Some(version) != first),
        server_broken: unavailable || broken,
        server_not_ready: servers.iter().any(|server| server.ready == Some(false)),
        ..Signs::default()
    }
}

/// Notices that a file was changed, replaced, made or removed. One system call a look; kubelet itself looks every 20 s.
#[derive(Debug)]
pub(super) struct FileWatch {
    path: PathBuf,
    seen: Option<Identity>,
}

/// (device, inode, modified seconds, modified nanoseconds, size); `None`: not there.
type Identity = (u64, u64, i64, i64, u64);

impl FileWatch {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut watch = Self { path, seen: None };
        watch.seen = watch.look();
        watch
    }

    /// True once for each change.
    pub(super) fn changed(&mut self) -> bool {
        let now = self.look();
        std::mem::replace(&mut self.seen, now) != now
    }

    fn look(&self) -> Option<Identity> {
        let meta = std::fs::metadata(&self.path).ok()?;
        Some((
            meta.dev(),
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.len(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing;

    fn status(version: Option<&str>) -> ServerStatus {
        ServerStatus {
            version: version.map(str::to_owned),
            ready: Some(true),
            ..testing::status("cp-a")
        }
    }

    fn signs(servers: &[ServerStatus]) -> Signs {
        standing(&RouteTable::build(0, Vec::new()), servers)
    }

    #[test]
    fn equal_servers_give_no_sign() {
        let equal = [status(Some("v1.36.3")), status(Some("v1.36.3"))];
        assert_eq!(signs(&equal), Signs::default());
        // A server whose version cannot be read differs by what it serves, if at all.
        assert_eq!(
            signs(&[status(Some("v1.36.3")), status(None)]),
            Signs::default()
        );
    }

    #[test]
    fn each_sign_alone() {
        let good = status(Some("v1.36.3"));
        let expect = Signs {
            versions_differ: true,
            ..Signs::default()
        };
        assert_eq!(signs(&[good.clone(), status(Some("v1.35.6"))]), expect);
        let mut other = good.clone();
        other.ready = Some(false);
        let expect = Signs {
            server_not_ready: true,
            ..Signs::default()
        };
        assert_eq!(signs(&[good.clone(), other]), expect);
        let expect = Signs {
            server_broken: true,
            ..Signs::default()
        };
        for knowledge in [Knowledge::Never, Knowledge::Down, Knowledge::Unconfirmed] {
            let mut other = good.clone();
            other.knowledge = knowledge;
            assert_eq!(signs(&[other, good.clone()]), expect);
        }
        let mut other = good.clone();
        other.last_error = Some("reset".into());
        let mut refusing = other.clone();
        // Its own poll was refused: no sign, whatever is not known of the server.
        for knowledge in [Knowledge::Never, Knowledge::Unconfirmed] {
            for trouble in [
                PollTrouble::Refused("/api answered 401".into()),
                PollTrouble::Starting,
            ] {
                refusing.trouble = trouble;
                refusing.knowledge = knowledge;
                let servers = [refusing.clone(), good.clone()];
                assert_eq!(signs(&servers), Signs::default());
            }
        }
        assert_eq!(signs(&[other, good]), expect);
    }

    #[test]
    fn a_file_changes_once_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kube-apiserver.yaml");
        let mut watch = FileWatch::new(path.clone());
        assert!(!watch.changed());
        std::fs::write(&path, "a").unwrap();
        assert!(watch.changed() && !watch.changed());
        std::fs::write(&path, "ab").unwrap();
        assert!(watch.changed() && !watch.changed());
        // As kubeadm does: a new file is moved over it.
        let other = dir.path().join("new");
        std::fs::write(&other, "ab").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(watch.changed() && !watch.changed());
        std::fs::remove_file(&path).unwrap();
        assert!(watch.changed() && !watch.changed());
    }
}
