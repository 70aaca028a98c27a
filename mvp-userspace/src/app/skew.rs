//! What differs between the servers, read from the table. Pure.

use crate::admin::{SkewCell, SkewRow, SkewServer, SkewState, SkewView};
use crate::api::VerbSet;
use crate::discovery::{ServerStatus, newest};
use crate::route::{Entry, Member, RouteTable, ServerSet};

use super::views::{knowledge_name, millis};

/// A key is listed if two servers of which something is known differ in it, down to the verb. What a server served when it
/// last answered counts, however long ago: its knowledge and age say how much that is worth.
pub(crate) fn skew(table: &RouteTable, statuses: &[ServerStatus]) -> SkewView {
    let known: ServerSet = (0..table.members().len())
        .filter(|index| table.member(*index).is_some_and(|m| !m.is_unknown()))
        .collect();
    let mut rows: Vec<_> = table
        .entries()
        .filter_map(|entry| row(table, known, entry))
        .collect();
    rows.sort_by(|a, b| key(a).cmp(&key(b)));
    let newest = newest(statuses).and_then(|status| status.version.clone());
    let servers = table.members().iter();
    SkewView {
        servers: servers
            .map(|member| server(member, statuses, newest.as_deref()))
            .collect(),
        rows,
    }
}

fn row(table: &RouteTable, known: ServerSet, entry: &Entry) -> Option<SkewRow> {
    let serving = entry.servers().intersection(known);
    let all = serving
        .iter()
        .fold(VerbSet::EMPTY, |all, index| all.union(entry.verbs(index)));
    let alike = serving.iter().all(|index| entry.verbs(index) == all);
    if serving.is_empty() || (alike && serving == known) {
        return None;
    }
    let cell = |index: usize| {
        let verbs = entry.verbs(index);
        let state = match (known.contains(index), serving.contains(index)) {
            (false, _) => return SkewCell::default(),
            (_, false) => SkewState::Lacks,
            _ if verbs == all => SkewState::Serves,
            _ => SkewState::Partial,
        };
        let missing = all.iter().filter(|verb| !verbs.contains(*verb));
        SkewCell {
            state,
            missing: missing.map(|verb| verb.as_str().to_owned()).collect(),
        }
    };
    let members = table.members().iter().enumerate();
    let key = entry.key();
    Some(SkewRow {
        group: key.group.to_owned(),
        version: key.version.to_owned(),
        resource: key.resource.to_owned(),
        subresource: key.subresource.to_owned(),
        servers: members
            .map(|(index, member)| (member.server.name.to_string(), cell(index)))
            .collect(),
    })
}

fn server(member: &Member, statuses: &[ServerStatus], newest: Option<&str>) -> SkewServer {
    let name = &*member.server.name;
    let status = statuses.iter().find(|status| status.name == name);
    let version = status.and_then(|status| status.version.clone());
    SkewServer {
        name: name.to_owned(),
        local: member.server.local,
        newest: version.is_some() && version.as_deref() == newest,
        version,
        knowledge: knowledge_name(member.knowledge).to_owned(),
        age_ms: status.and_then(|status| status.age).map(millis),
    }
}

fn key(row: &SkewRow) -> (&str, &str, &str, &str) {
    (&row.group, &row.version, &row.resource, &row.subresource)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::api::{ApiEntry, ApiSet};
    use crate::config::Endpoint;
    use crate::discovery::testing::status;
    use crate::route::{Knowledge, Server};

    const RESOURCES: [&str; 3] = ["a", "b", "c"];

    /// Resources by number with verbs.
    type Served = Vec<(usize, Vec<&'static str>)>;

    fn member(name: &str, local: bool, served: Option<&Served>) -> Member {
        let endpoint = Endpoint {
            name: name.into(),
            host: "127.0.0.1".into(),
            port: 6443,
        };
        let entry = |(resource, verbs): &(usize, Vec<&'static str>)| ApiEntry {
            group: "g".into(),
            version: "v1".into(),
            resource: RESOURCES[*resource].into(),
            subresource: "".into(),
            verbs: VerbSet::from_names(verbs.iter().copied()),
        };
        Member {
            server: Arc::new(Server::new(endpoint, local)),
            apis: served.map(|served| Arc::new(ApiSet::new(served.iter().map(entry).collect()))),
            knowledge: match served {
                Some(_) => Knowledge::Confirmed,
                None => Knowledge::Never,
            },
            published: None,
        }
    }

    fn server(name: &str, version: &str) -> ServerStatus {
        ServerStatus {
            version: Some(version.to_owned()),
            ..status(name)
        }
    }

    #[test]
    fn what_differs_and_how() {
        let all = vec![(0, vec!["get", "list"]), (1, vec!["get"])];
        let less = vec![(0, vec!["get"]), (1, vec!["get"])];
        let more = vec![(0, vec!["get", "list"]), (1, vec!["get"]), (2, vec!["get"])];
        let table = RouteTable::build(
            1,
            vec![
                member("cp-a", true, Some(&all)),
                member("cp-b", false, Some(&less)),
                member("cp-c", false, Some(&more)),
                member("cp-d", false, None),
            ],
        );
        let statuses = [server("cp-a", "v1.35.6"), server("cp-c", "v1.36.3")];
        let view = skew(&table, &statuses);
        let text = view.text();
        let (servers, rows) = text.split_once("\n\n").unwrap();
        assert_eq!(
            rows,
            "\
GROUP/VERSION  RESOURCE  cp-a    cp-b     cp-c    cp-d
g/v1           a         serves  no list  serves  unknown
g/v1           c         lacks   lacks    serves  unknown
"
        );
        assert!(
            servers.contains("cp-c    v1.36.3 (newest)  fresh      7ms"),
            "{servers}"
        );
        assert!(
            servers.contains("cp-d    -                 none       -"),
            "{servers}"
        );
        assert_eq!(view.rows[1].servers["cp-a"].missing, ["get"]);
    }

    fn served() -> impl Strategy<Value = Option<Served>> {
        let verbs = proptest::sample::subsequence(vec!["get", "list", "watch"], 1..=3);
        let all = proptest::collection::btree_map(0usize..3, verbs, 0..=3);
        proptest::option::weighted(0.9, all.prop_map(|map| map.into_iter().collect()))
    }

    proptest! {
        /// The view says that there are differences exactly when routing holds the known servers to differ.
        #[test]
        fn differences_are_those_of_routing(sets in proptest::collection::vec(served(), 1..5)) {
            let members = |known: bool| -> Vec<_> {
                let all = sets.iter().enumerate().filter(|(_, set)| !known || set.is_some());
                all.map(|(i, set)| member(&format!("cp-{i}"), i == 0, set.as_ref())).collect()
            };
            let view = skew(&RouteTable::build(1, members(false)), &[]);
            prop_assert_eq!(!view.rows.is_empty(), RouteTable::build(1, members(true)).differs());
            for row in &view.rows {
                prop_assert_eq!(row.servers.len(), sets.len());
                let states: Vec<_> = row.servers.values().map(|cell| cell.state).collect();
                prop_assert!(states.iter().any(|s| matches!(s, SkewState::Lacks | SkewState::Partial)));
                prop_assert!(states.iter().any(|s| matches!(s, SkewState::Serves | SkewState::Partial)));
            }
        }
    }
}
