//! The servers that a request has been at and shall not go to again.

use std::sync::Arc;

use super::{RouteTable, Server, ServerSet};

/// Kept as the servers themselves: between two attempts the table may become another one, in which a [`ServerSet`] of the first means other
/// servers. Without any it allocates nothing, as for nearly every request.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<Arc<Server>>);

impl Tried {
    /// This server was tried, and is not tried again for the same request.
    pub fn add(&mut self, server: &Arc<Server>) {
        self.0.push(Arc::clone(server));
    }

    /// Those that are members of this table.
    pub fn of(&self, table: &RouteTable) -> ServerSet {
        let members = self.0.iter().map(|server| table.set_of(server));
        members.fold(ServerSet::EMPTY, ServerSet::union)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::plan;
    use crate::route::testing::{CONTEXT, get, member, table};

    const TYPE: &str = "apps/v1 deployments";

    /// While a request is under way the server before the others leaves, so that all have another index.
    #[test]
    fn they_are_the_same_servers_in_a_table_with_other_members() {
        let members = [
            member("cp-a", true, &[]),
            member("cp-b", false, &[TYPE]),
            member("cp-c", false, &[TYPE]),
        ];
        let [_, second, third] = &members;
        let (second, third) = (second.clone(), third.clone());
        let before = table(members);
        let after = table([second.clone(), third.clone()]);

        let mut tried = Tried::default();
        assert!(tried.of(&before).is_empty());
        tried.add(&second.server);
        assert_eq!(tried.of(&before), before.set_of(&second.server));
        assert_eq!(tried.of(&after), after.set_of(&second.server));
        let info = get("/apis/apps/v1/deployments");
        for table in [&before, &after] {
            let (next, _) = plan(&info, table, CONTEXT).next(tried.of(table)).unwrap();
            assert!(Arc::ptr_eq(&next, &third.server), "{}", next.name);
        }
        tried.add(&third.server);
        assert!(
            plan(&info, &after, CONTEXT)
                .next(tried.of(&after))
                .is_none()
        );
        // What has left the membership is in no set.
        assert!(tried.of(&table([])).is_empty());
    }
}
