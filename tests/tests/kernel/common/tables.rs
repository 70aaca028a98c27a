//! Route tables, and what a reader of the pins must make of them.

use std::sync::Arc;

use mvp::api::{ApiEntry, ApiSet, Verb, VerbSet};
use mvp::config::Endpoint;
use mvp::kernel::{PinnedRoute, PinnedServer, PinnedTable};
use mvp::route::{Knowledge, Member, RouteTable, Server};

/// A table of two servers and this many routes, of which the second server has every other one.
pub(crate) fn table(generation: u64, routes: usize) -> RouteTable {
    let all = VerbSet::from_names(["get", "list", "watch", "create"]);
    let entry = |n: usize, verbs| ApiEntry {
        group: format!("group{}.example.com", n % 7).into(),
        version: "v1beta1".into(),
        resource: format!("things{n}").into(),
        subresource: if n.is_multiple_of(3) { "status" } else { "" }.into(),
        verbs,
    };
    let everything = ApiSet::new((0..routes).map(|n| entry(n, all)).collect());
    let half = (0..routes)
        .step_by(2)
        .map(|n| entry(n, VerbSet::from_names(["get"])));
    let member = |name: &str, host: &str, local, apis, knowledge| {
        let endpoint = Endpoint {
            name: name.into(),
            host: host.into(),
            port: 6443,
        };
        let server = Arc::new(Server::new(endpoint, local));
        Member {
            server,
            apis: Some(Arc::new(apis)),
            knowledge,
            published: None,
        }
    };
    let members = vec![
        member("cp-a", "127.0.0.2", true, everything, Knowledge::Confirmed),
        member(
            "cp-b",
            "cp-b.example.com",
            false,
            ApiSet::new(half.collect()),
            Knowledge::Unconfirmed,
        ),
    ];
    RouteTable::build(generation, members)
}

/// What a reader of this table must see; made from the table itself, not from the map.
pub(crate) fn pinned_form(table: &RouteTable) -> PinnedTable {
    let text = |s: &str| s.to_owned();
    let server = |member: &Member| PinnedServer {
        name: text(&member.server.name),
        host: text(&member.server.endpoint.host),
        address: member.server.endpoint.host.parse().ok(),
        port: member.server.endpoint.port,
        local: member.server.local,
        known: !member.is_unknown(),
        confirmed: member.knowledge == Knowledge::Confirmed,
    };
    let mut routes: Vec<_> = table
        .entries()
        .map(|entry| {
            let key = entry.key();
            PinnedRoute {
                group: text(key.group),
                version: text(key.version),
                resource: text(key.resource),
                subresource: text(key.subresource),
                servers: entry.servers(),
                by_verb: Verb::ALL[..8]
                    .iter()
                    .map(|verb| entry.serving(*verb))
                    .collect(),
            }
        })
        .collect();
    routes.sort_by(|a, b| {
        (&a.group, &a.version, &a.resource, &a.subresource).cmp(&(
            &b.group,
            &b.version,
            &b.resource,
            &b.subresource,
        ))
    });
    PinnedTable {
        generation: table.generation(),
        servers: table.members().iter().map(server).collect(),
        routes,
        omitted: 0,
    }
}
