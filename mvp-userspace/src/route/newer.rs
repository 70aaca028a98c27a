//! Who may know an option of a query that a server is too old for.

use std::sync::Arc;

use super::choose::choose;
use super::decide::usable;
use super::{RouteTable, Server, ServerSet};
use crate::request::RequestInfo;
use crate::tls::IdentityClass;

/// One of the newest servers that serve the request and can be used now, if they are newer than `server`.
pub fn newer(
    info: &RequestInfo<'_>,
    table: &RouteTable,
    server: &Server,
    class: IdentityClass,
) -> Option<Arc<Server>> {
    let old = server.release()?;
    let serving = table.lookup(info.key())?.serving(info.verb);
    let usable = usable(table, serving, class);
    let release = |index: usize| table.member(index)?.server.release();
    let newest = usable.iter().filter_map(release).max()?;
    if newest <= old {
        return None;
    }
    let newest: ServerSet = usable
        .iter()
        .filter(|index| release(*index) == Some(newest))
        .collect();
    choose(table, newest, fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing::{get, member, table};
    use crate::route::{Failure, Release};

    #[test]
    fn the_newest_that_serves_it_and_can_be_used() {
        let table = table([
            member("a", true, &["v1 pods get,list"]),
            member("b", false, &["v1 pods get,list"]),
            member("c", false, &["v1 pods get,list"]),
            member("d", false, &["v1 nodes get,list"]),
        ]);
        let server = |index: usize| &table.members()[index].server;
        let class = IdentityClass::FrontProxy;
        let ask = |path: &str| {
            newer(&get(path), &table, server(0), class).map(|server| server.name.to_string())
        };
        let minor = |index: usize, minor| server(index).set_release(Release { major: 1, minor });
        minor(3, 40);
        minor(1, 36);
        assert_eq!(
            ask("/api/v1/pods"),
            None,
            "how old the asked one is is not known"
        );
        minor(0, 35);
        assert_eq!(ask("/api/v1/pods").as_deref(), Some("b"));
        minor(2, 37);
        assert_eq!(ask("/api/v1/pods").as_deref(), Some("c"));
        server(2).failed(Failure::Refused);
        assert_eq!(ask("/api/v1/pods").as_deref(), Some("b"));
        server(1).set_proved(class, false);
        assert_eq!(ask("/api/v1/pods"), None);
        server(1).set_proved(class, true);
        minor(0, 36);
        assert_eq!(ask("/api/v1/pods"), None, "none is newer");
        assert_eq!(ask("/apis/x/v1/ys"), None);
        server(0).set_release(Release {
            major: 0,
            minor: 99,
        });
        assert_eq!(ask("/api/v1/pods").as_deref(), Some("b"));
    }
}
