//! The price of a decision: five servers with some 400 keys each, as in an upgrade.
//!
//! `lookup` is the table alone, `decide` adds verbs and health, `parse_and_decide` begins at the request's path.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::Method;
use mvp::api::VerbSet;
use mvp::api::{ApiEntry, ApiSet};
use mvp::config::Endpoint;
use mvp::request::RequestInfo;
use mvp::route::{Context, Knowledge, Member, Reason, RouteTable, Server, plan};
use mvp::tls::IdentityClass;

const SERVERS: usize = 5;
const GROUPS: usize = 25;
const RESOURCES: usize = 8;
const CONTEXT: Context = Context {
    hop_marked: false,
    interoperability: true,
    class: IdentityClass::FrontProxy,
};

criterion_group!(benches, bench);
criterion_main!(benches);

fn bench(criterion: &mut Criterion) {
    let table = table();
    let cases = [
        (
            "local",
            "/apis/group-7.k8s.io/v1/namespaces/default/resources3/x",
            0,
        ),
        (
            "peer",
            "/apis/group-24.k8s.io/v2/namespaces/default/resources3/x/status",
            1,
        ),
        (
            "unknown",
            "/apis/group-7.k8s.io/v1/namespaces/default/elsewhere/x",
            2,
        ),
    ];
    for (name, path, expected) in cases {
        let Ok(info) = RequestInfo::parse(&Method::GET, path, None) else {
            panic!("{path} does not parse");
        };
        // A benchmark of the wrong branch is worth nothing.
        let kind = match plan(&info, &table, CONTEXT).reason() {
            Reason::LocalServes => 0,
            Reason::PeerServes => 1,
            _ => 2,
        };
        assert_eq!(kind, expected, "{path}");
        criterion.bench_function(&format!("lookup/{name}"), |b| {
            b.iter(|| table.lookup(black_box(&info).key()).is_some())
        });
        criterion.bench_function(&format!("decide/{name}"), |b| {
            b.iter(|| plan(black_box(&info), &table, CONTEXT).reason())
        });
        criterion.bench_function(&format!("parse_and_decide/{name}"), |b| {
            b.iter(|| {
                let info = RequestInfo::parse(&Method::GET, black_box(path), None);
                info.map(|info| plan(&info, &table, CONTEXT).reason())
            })
        });
    }
}

/// The last two servers have a second version of one group.
fn table() -> RouteTable {
    let members = (0..SERVERS)
        .map(|index| {
            let endpoint = Endpoint {
                name: format!("cp-{index}"),
                host: "127.0.0.1".into(),
                port: 6443,
            };
            Member {
                server: Arc::new(Server::new(endpoint, index == 0)),
                apis: Some(Arc::new(apis(index >= SERVERS - 2))),
                knowledge: Knowledge::Confirmed,
                published: None,
            }
        })
        .collect();
    RouteTable::build(1, members)
}

fn apis(newest: bool) -> ApiSet {
    let all = [
        "get", "list", "watch", "create", "update", "patch", "delete",
    ];
    let mut entries = Vec::new();
    for group in 0..GROUPS {
        let versions: &[&str] = match newest && group == GROUPS - 1 {
            true => &["v1", "v2"],
            false => &["v1"],
        };
        for version in versions {
            for resource in 0..RESOURCES {
                for subresource in ["", "status"] {
                    entries.push(ApiEntry {
                        group: format!("group-{group}.k8s.io").into(),
                        version: (*version).into(),
                        resource: format!("resources{resource}").into(),
                        subresource: subresource.into(),
                        verbs: VerbSet::from_names(all),
                    });
                }
            }
        }
    }
    ApiSet::new(entries)
}
